"""Folders of images: what is in them, which files can be read, and decoding with pillow."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankern._optional import TRAIN, optional
from gankern.data import transforms

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
CROPS = ("center", "random", "stretch")
JITTER = 286 / 256
"""Of the size before a random crop to the size after it (Isola et al. 2017, 6.2)."""
CHECKED = 10_000
"""Up to so many files a scan decodes each (some 10 ms); beyond, it reads headers."""

Entry = tuple[Path, "int | None"]
"""A file, and which half of it: None for all, 0 for the left one, 1 for the right one."""


class CorruptImage(ValueError):
    """A file that is no image, or a part of one, or of a kind that cannot be shown."""


def pillow() -> Any:
    """The module PIL.Image; an ImportError with the command that installs it, if it is not there."""
    return optional("PIL.Image", f"images are read and written by pillow, which is not installed: {TRAIN} pillow")


class Cache:
    """Images that stay in memory, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._kept: dict[Any, Tensor] = {}

    def get(self, key: Any) -> Tensor | None:
        """What was kept under a key, or None."""
        return self._kept.get(key)

    def put(self, key: Any, image: Tensor) -> None:
        """Keep an image, if there is room."""
        if key not in self._kept and self.size + image.numel() <= self.limit:
            self._kept[key] = image.contiguous()
            self.size += image.numel()


# ---- decoding ---------------------------------------------------------------------------------------------------------------
def decode(path: str | os.PathLike[str], half: int | None = None) -> Tensor:
    """Read an image file.

    Args:
        path: PNG, JPEG, WebP, BMP, TIFF, GIF (its first picture), PNM or whatever pillow reads.
        half: 0 for the left half, 1 for the right half (of pairs side by side). Default None: all.

    Returns:
        uint8 [C, H, W], turned as EXIF says: 1 channel for grey and black-and-white, 4 with opacity, else 3. 16 bits become 8.

    Raises:
        CorruptImage: what cannot be read, with the reason.
        ImportError: pillow is not installed.
    """
    image_module = pillow()
    from PIL import ImageOps

    try:
        with image_module.open(path) as file:
            image = ImageOps.exif_transpose(file)
            pixels = _pixels(image)
    except (CorruptImage, MemoryError):
        raise
    except image_module.UnidentifiedImageError as error:
        raise CorruptImage("not an image") from error
    except Exception as error:  # decoders raise nearly anything on broken files: OSError, SyntaxError, struct.error, ...
        raise CorruptImage(_reason(error)) from error
    if half is not None:
        width = pixels.shape[1] // 2
        pixels = pixels[:, half * width : (half + 1) * width]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _pixels(image: Any) -> np.ndarray:
    """uint8 [H, W, C] of a PIL image of any mode."""
    mode = image.mode
    if mode.startswith("I"):  # 16 bits, which older versions of pillow open as 32
        deep = np.asarray(image).astype(np.float64)
        if deep.size and (deep.min() < 0 or deep.max() > 65535):
            raise CorruptImage(f"mode {mode} with values from {deep.min():.0f} to {deep.max():.0f}: 0 to 65535 can be read")
        return np.rint(deep / 257).astype(np.uint8)[:, :, None]
    if mode == "F":
        raise CorruptImage("floating-point pixels, whose range is not known")
    if mode in ("1", "L") and "transparency" not in image.info:
        return np.array(image.convert("L"))[:, :, None]
    clear = mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return np.array(image.convert("RGBA" if clear else "RGB"))


def _reason(error: Exception) -> str:
    """The first line of an error, or its kind; never a path, which the message around it has."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"'/[^']*'", "it", text)


def _header(path: Path, half: int | None) -> tuple[int, int]:
    """Width and height, without decoding."""
    image_module = pillow()
    try:
        with image_module.open(path) as file:
            width, height = file.size
            # Orientations 5 to 8 of EXIF swap the sides. (Of other formats EXIF may come last: pillow would decode it all.)
            if file.format in ("JPEG", "MPO", "TIFF", "WEBP") and file.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                width, height = height, width
    except image_module.UnidentifiedImageError as error:
        raise CorruptImage("not an image") from error
    except Exception as error:
        raise CorruptImage(_reason(error)) from error
    return (width if half is None else width // 2), height


class FileSource:
    """Image files, resized so that ``size`` pixels can be cropped.

    Args:
        root: the folder, from which names are told.
        entries: files, or halves of files.
        size: of the shorter side, or with ``stretch`` of both.
        stretch: change the proportions.
        channels: 1, 3 or 4.
        cache_bytes: memory for what was decoded.
    """

    def __init__(self, root: Path, entries: Sequence[Entry], size: int, stretch: bool, channels: int, cache_bytes: int) -> None:
        self.root, self.entries, self.size, self.stretch, self.channels = root, list(entries), size, stretch, channels
        self.cache = Cache(cache_bytes)

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """The file's path below the folder."""
        return self.entries[index][0].relative_to(self.root).as_posix()

    def load(self, index: int) -> Tensor:
        """Image ``index``, uint8 [channels, h, w]."""
        key = self.entries[index]
        image = self.cache.get(key)
        if image is None:
            image = decode(*key)
            self._check_size(image.shape[2], image.shape[1])
            image = transforms.to_channels(image, self.channels)
            if self.stretch:
                image = transforms.resize(image, self.size, self.size)
            else:
                image = transforms.resize_short_side(image, self.size)
            self.cache.put(key, image)
        return image

    def header(self, index: int) -> None:
        """Raise a CorruptImage error if the file does not start like an image."""
        self._check_size(*_header(*self.entries[index]))

    @staticmethod
    def _check_size(width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise CorruptImage(f"{width} x {height} pixels")


def scan(sides: Sequence[FileSource], check: bool | None, skipped: dict[str, str]) -> list[int]:
    """Leave out what cannot be read, on all sides together.

    Args:
        sides: sources of as many entries; their entries are shortened.
        check: decode everything; None: up to ``CHECKED`` files, else read headers.
        skipped: names and reasons, to which those left out are added.

    Returns:
        Numbers of the entries that stay.
    """
    pillow()
    count = len(sides[0])
    full = count <= CHECKED if check is None else check

    def problem(index: int) -> tuple[str, str] | None:
        shapes = []
        for side in sides:
            try:
                if full:
                    shapes.append(side.load(index).shape[-2:])
                else:
                    side.header(index)
            except CorruptImage as error:
                return side.name(index), str(error)
        if any(shape != shapes[0] for shape in shapes):
            names = " and ".join(f"{s[1]} x {s[0]}" for s in shapes)
            return sides[0].name(index), f"the sides of the pair have other proportions: {names}"
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        problems = list(pool.map(problem, range(count)))
    skipped.update(p for p in problems if p is not None)
    kept = [i for i, p in enumerate(problems) if p is None]
    for side in sides:
        side.entries = [side.entries[i] for i in kept]
    return kept


# ---- layouts ----------------------------------------------------------------------------------------------------------------
def find_images(folder: Path) -> list[Path]:
    """All image files in a folder and below, in the order of their names; hidden ones are not looked at.

    Raises:
        ValueError: there is none.
    """
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        found += [Path(place, n) for n in names if not n.startswith(".") and n.lower().endswith(SUFFIXES)]
    if not found:
        raise ValueError(f"{folder}: no image in this folder or below ({', '.join(s[1:] for s in SUFFIXES)} are looked for)")
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())


def find_classes(root: Path) -> tuple[list[Entry], list[int], list[str]]:
    """Images of the subfolders, the number of each one's class, and the names of the classes.

    Raises:
        ValueError: no subfolder, or one without images.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name != "__MACOSX")
    if not folders:
        raise ValueError(f"{root}: classes are subfolders with images, there is none")
    entries: list[Entry] = []
    numbers: list[int] = []
    for number, folder in enumerate(folders):
        try:
            images = find_images(folder)
        except ValueError as error:
            raise ValueError(f"{root}: the class {folder.name!r} has no images") from error
        entries += [(p, None) for p in images]
        numbers += [number] * len(images)
    return entries, numbers, [f.name for f in folders]


def find_pairs(root: Path, paired: bool) -> tuple[list[Entry], list[Entry], list[str]]:
    """Images of the domains A and B, those of pairs in the same order, and names of files without a partner.

    Raises:
        ValueError: a layout that is none of those :func:`gankern.data.open_data` describes.
    """
    if not paired:
        for names in (("trainA", "trainB"), ("A", "B")):
            a, b = (root / n for n in names)
            if a.is_dir() and b.is_dir():
                return [(p, None) for p in find_images(a)], [(p, None) for p in find_images(b)], []
        raise ValueError(f"{root}: unpaired images are in folders trainA/ and trainB/, or A/ and B/, which are not there")
    a, b = root / "A", root / "B"
    if a.is_dir() and b.is_dir():
        sides = []
        for folder in (a, b):
            by_name: dict[str, Path] = {}
            for path in find_images(folder):
                name = path.relative_to(folder).with_suffix("").as_posix()
                if name in by_name:
                    raise ValueError(
                        f"{root}: {path.name} and {by_name[name].name} of {folder.name}/ differ in the suffix only"
                    )
                by_name[name] = path
            sides.append(by_name)
        common = sorted(sides[0].keys() & sides[1].keys())
        if not common:
            raise ValueError(f"{root}: no file of A/ has the name of one of B/")
        alone = [p for side in sides for n, p in side.items() if n not in common]
        lists: list[list[Entry]] = [[(side[n], None) for n in common] for side in sides]
        return lists[0], lists[1], sorted(p.relative_to(root).as_posix() for p in alone)
    if a.is_dir() or b.is_dir():
        raise ValueError(f"{root}: pairs need both folders A/ and B/, {'B' if a.is_dir() else 'A'}/ is not there")
    images = find_images(root)
    for path in images:
        with contextlib.suppress(CorruptImage):  # the scan tells of it
            width, height = _header(path, None)
            if width % 2:
                raise ValueError(
                    f"{root}: there are no folders A/ and B/, and {path.relative_to(root)} ({width} x {height}) "
                    "is not two images side by side: its width is odd"
                )
    return [(p, 0) for p in images], [(p, 1) for p in images], []


__all__ = ["CorruptImage", "FileSource", "decode", "find_classes", "find_images", "find_pairs", "scan"]
