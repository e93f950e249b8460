"""Where images and features come from: tensors, folders, arrays in files, bundled data, a generator in a checkpoint, a stream.

Every image is rounded to the 8 bits that a file would have, so that a folder and the tensors it was written from give the same
numbers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gankern._scopes import evaluating, own_random
from gankern.metrics._features import Features

BUNDLED = ("digits", "photos")
ARRAYS = (".npz", ".npy", ".pt", ".pth")
KINDS = "a folder, an .npz, .npy or .pt file of images or features, a checkpoint of gankern, 'digits' or 'photos'"
_BLOCK = 32  # images generated at a time: those of a block depend on the seed and its number alone


@dataclass
class Source:
    """Images by number.

    Attributes:
        name: for messages and results.
        read: (start, stop) to images [stop - start or fewer, C, H, W], uint8 or floating-point from -1 to 1. Fewer, if some
            could not be read.
        count: images; None for a stream, which is read once with :attr:`batches`.
        key: says which images these are, for a cache. None: they cannot be cached.
        batches: of a stream.
        skipped: names of files that could not be read.
        generator: the network that makes them, or None.
        shape: (C, H, W), as soon as it is known.
    """

    name: str
    read: Callable[[int, int], Tensor] | None = None
    count: int | None = None
    key: str | None = None
    batches: Iterable[Any] | None = None
    skipped: list[str] | None = None
    generator: nn.Module | None = None
    shape: tuple[int, ...] | None = None

    def share(self, rank: int, world: int) -> Source:
        """The part of rank ``rank`` of ``world``: neighbouring images; the parts of all ranks in their order are the whole.

        Raises:
            ValueError: a stream, which has no numbers; ranks that cannot be; fewer images than ranks.
        """
        if self.read is None or self.count is None:
            raise ValueError(f"{self.name}: a stream cannot be shared out, give each rank its own")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be from 0 to world - 1, got {rank} of {world}")
        if self.count < world:
            raise ValueError(f"{self.name}: {self.count} images cannot be shared out to {world} ranks")
        start, stop = (self.count * r // world for r in (rank, rank + 1))
        read = self.read
        key = None if self.key is None else f"{self.key}-{start}-{stop}"
        return replace(self, read=lambda a, b: read(start + a, start + b), count=stop - start, key=key)

    def parts(self, batch: int, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Images from ``start`` to ``stop``, float32 in [-1, 1], at most ``batch`` at a time."""
        if self.read is None:
            for i, given in enumerate(self.batches or ()):
                x = prepared(f"{self.name}, batch {i}", getattr(given, "images", given))
                if len(x):
                    self.shape = self.shape or tuple(x.shape[1:])
                    yield from x.split(batch)
            return
        assert self.count is not None
        stop = self.count if stop is None else min(stop, self.count)
        for first in range(start, stop, batch):
            x = self.read(first, min(first + batch, stop))
            if len(x):
                self.shape = self.shape or tuple(x.shape[1:])
                yield prepared(f"{self.name}, images from {first}", x)


def prepared(name: str, images: Any) -> Tensor:
    """Images float32 in [-1, 1], rounded to 8 bits.

    Raises:
        TypeError, ValueError: not [N, C, H, W], not finite, or visibly not in [-1, 1].
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: images must be a torch.Tensor [N, C, H, W], got {type(images).__name__}")
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise ValueError(f"{name}: images must be [N, C, H, W], got {list(images.shape)}")
    if images.dtype == torch.uint8:
        return images.float().div_(127.5).sub_(1)
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise TypeError(f"{name}: images must be uint8 or floating-point from -1 to 1, got {kind}")
    x = images.detach().float()
    if not len(x):
        return x
    low, high = (float(v) for v in torch.aminmax(x))
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name}: images must be finite, got NaN or infinity")
    if low >= 0 and high > 2:
        raise ValueError(f"{name}: floating-point images must be from -1 to 1, got {low:g} to {high:g}; 0 to 255 is for uint8")
    return x.add(1).mul_(127.5).round_().clamp_(0, 255).div_(127.5).sub_(1)


def open_source(
    spec: Any,
    name: str,
    *,
    resolution: int | None = None,
    channels: int | None = None,
    count: int | None = None,
    seed: int = 0,
    truncation: float | None = None,
    ema: bool = True,
    device: str | torch.device = "cpu",
) -> Source | Features:
    """Images, or features, from what a user gave.

    Args:
        spec: what the module says; images [N, C, H, W], features [N, D] or :class:`Features`; an iterable of batches of images,
            or of objects with an attribute ``images``; the data of ``gankern.data.open_data``.
        name: of the argument, for messages.
        resolution: resize to this height and width; needed where a folder has images of several sizes. Default None: as they
            are; bundled data at 32.
        channels: 1 or 3. Default None: as the first image has; bundled data 1 (digits) or 3 (photos).
        count: images of a generator. Default None: 10000. Of other sources: the first so many.
        seed: of a generator's latents, classes and noise.
        truncation: of a style-based generator. Default None: none.
        ema: take the averaged weights of a checkpoint if it has some. Default True.
        device: of a generator.

    Raises:
        FileNotFoundError, ImportError, TypeError, ValueError: with what is missing or wrong.
    """
    if isinstance(spec, (Source, Features)):
        return spec
    if isinstance(spec, Tensor):
        return Features(spec[:count]) if spec.dim() == 2 else _tensor(spec, name, count)
    if isinstance(spec, (str, os.PathLike)):
        path = Path(spec)
        if spec in BUNDLED:
            return _bundled(str(spec), resolution or 32, channels, count)
        if path.is_dir():
            return _folder(path, name, resolution, channels, count)
        if not path.is_file():
            raise FileNotFoundError(f"{name}: no file or folder {os.fspath(spec)!r}; it may be {KINDS}")
        if path.suffix.lower() in ARRAYS:
            return _file(path, name, count, seed, truncation, ema, device)
        raise ValueError(f"{name} must be {KINDS}, got the file {os.fspath(spec)!r}")
    if hasattr(spec, "images") and hasattr(spec, "__len__"):  # gankern.train.ImageData
        total = len(spec) if count is None else min(count, len(spec))
        return Source(str(getattr(spec, "name", name)), lambda a, b: spec.images(range(a, b)).images, total)
    if isinstance(spec, Iterable):
        return Source(name, batches=spec)
    raise TypeError(f"{name} must be {KINDS}, a tensor or an iterable of batches of images, got {type(spec).__name__}")


def open_pair(real: Any, fake: Any, **options: Any) -> tuple[Source | Features | None, Source | Features]:
    """Both sides, as :func:`open_source` opens them; bundled data ('digits', 'photos') at the size of the other side.

    Args:
        real: of :func:`open_source`, or None.
        fake: of :func:`open_source`.
        **options: of :func:`open_source`; ``count`` is that of ``fake`` alone.
    """
    count = options.pop("count", None)

    def bundled(spec: Any) -> bool:
        return isinstance(spec, str) and spec in BUNDLED

    def opened(spec: Any, name: str, other: Any) -> Any:
        more = dict(options)
        shape = getattr(other, "shape", None)
        if bundled(spec) and shape is not None:
            more["resolution"] = more.get("resolution") or shape[1]
            more["channels"] = more.get("channels") or shape[0]
        return None if spec is None else open_source(spec, name, count=count if name == "fake" else None, **more)

    if bundled(fake) and not bundled(real):
        first = opened(real, "real", None)
        return first, opened(fake, "fake", first)
    second = opened(fake, "fake", None)
    return opened(real, "real", second), second


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _tensor(images: Tensor, name: str, count: int | None) -> Source:
    images = images[:count]
    prepared(name, images[:1])  # its shape and dtype, now
    if not len(images):
        raise ValueError(f"{name}: there are no images in {list(images.shape)}")
    content = hashlib.sha256(images.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
    key = _digest("tensor", tuple(images.shape), str(images.dtype), content)
    return Source(name, lambda a, b: images[a:b], len(images), key, shape=tuple(images.shape[1:]))


def _bundled(spec: str, resolution: int, channels: int | None, count: int | None) -> Source:
    from gankern.data.dataset import open_data

    channels = channels or (1 if spec == "digits" else 3)
    data = open_data(spec, resolution, channels)
    total = len(data) if count is None else min(count, len(data))
    key = _digest(spec, resolution, channels, total)
    return Source(spec, lambda a, b: data.images(range(a, b)).images, total, key, shape=(channels, resolution, resolution))


def _folder(folder: Path, name: str, resolution: int | None, channels: int | None, count: int | None) -> Source:
    from gankern.data import transforms
    from gankern.data.folders import CorruptImage, decode, find_images

    try:
        paths = find_images(folder)[:count]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    skipped: list[str] = []
    first: tuple[str, tuple[int, ...]] | None = None

    def read(start: int, stop: int) -> Tensor:
        nonlocal first
        images = []
        for path in paths[start:stop]:
            label = path.relative_to(folder).as_posix()
            try:
                x = decode(path)
            except CorruptImage as error:
                if label not in (s.split(": ")[0] for s in skipped):
                    skipped.append(f"{label}: {error}")
                continue
            # Opacity is laid on white, as the loop does with images to train on.
            wanted = channels or (first[1][0] if first else (1 if x.shape[0] == 1 else 3))
            x = transforms.to_channels(x, wanted)
            if resolution is not None:
                x = transforms.resize(transforms.center_crop(x, min(x.shape[1:])), resolution, resolution)
            if first is None:
                first = (label, tuple(x.shape))
            elif tuple(x.shape) != first[1]:
                raise ValueError(
                    f"{name}: {folder}: images must have one size, but {first[0]} is {first[1][2]}x{first[1][1]} and {label} "
                    f"{x.shape[2]}x{x.shape[1]}; a resolution (--resolution) crops and resizes them all"
                )
            images.append(x)
        return torch.stack(images) if images else torch.empty(0, *(first[1] if first else (3, 1, 1)), dtype=torch.uint8)

    for index in range(len(paths)):  # the first that can be read says how many channels all have
        if first is None:
            read(index, index + 1)
    if first is None:
        raise ValueError(f"{name}: {folder}: none of {len(paths)} images can be read: {'; '.join(skipped[:3])}")
    stats = [(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    key = _digest("folder", stats, resolution, channels)
    return Source(os.fspath(folder), read, len(paths), key, skipped=skipped, shape=first[1])


def _file(
    path: Path, name: str, count: int | None, seed: int, truncation: float | None, ema: bool, device: str | torch.device
) -> Source | Features:
    content = _content(path, name)
    if isinstance(content, dict) and str(content.get("format", "")).startswith("gankern-checkpoint"):
        return _checkpoint(path, 10_000 if count is None else count, seed, truncation, ema, device)
    state = path.stat()
    key = _digest("file", str(path.resolve()), state.st_size, state.st_mtime_ns, count)
    arrays = content if isinstance(content, dict) else {"images": content}
    for key_name, value in arrays.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}: {str(path)!r}: {key_name!r} must be an array, got {type(value).__name__}")
    if "features" in arrays or any(v.dim() == 2 for v in arrays.values()):
        values = arrays["features"] if "features" in arrays else next(v for v in arrays.values() if v.dim() == 2)
        logits = arrays.get("logits")
        return Features(values[:count], None if logits is None else logits[:count])
    images = arrays["images"] if "images" in arrays else next(iter(arrays.values()), None)
    if images is None:
        raise ValueError(f"{name}: {str(path)!r} holds no array")
    source = _tensor(_channels_first(images), name, count)
    return Source(str(path), source.read, source.count, key, shape=source.shape)


def _channels_first(images: Tensor) -> Tensor:
    """[N, C, H, W] from uint8 [N, H, W, C] or [N, H, W] too, as others write them."""
    if images.dim() == 3:
        return images[:, None]
    if images.dim() == 4 and images.shape[1] not in (1, 3, 4) and images.shape[3] in (1, 3, 4):
        return images.permute(0, 3, 1, 2)
    return images


def _content(path: Path, name: str) -> Any:
    """The tensor, or a dict of tensors, of a file; of a checkpoint whatever it has."""
    try:
        if path.suffix.lower() == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {k: torch.from_numpy(file[k]) for k in file.files}
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever other bytes make of an unpickler
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{name}: {str(path)!r} is truncated or holds no arrays: {lines[0]}") from error


def _checkpoint(
    path: Path, count: int, seed: int, truncation: float | None, ema: bool, device: str | torch.device
) -> Source:  # fmt: skip
    from gankern.models import load_checkpoint

    checkpoint = load_checkpoint(path, device=device)
    generator = checkpoint.gan.generator
    if checkpoint.gan.family.task != "latent":
        raise ValueError(
            f"{str(path)!r} is a {checkpoint.gan.config.family}, which makes images from images, not from latents: give a "
            "folder of its results"
        )
    if ema and checkpoint.ema is not None:
        generator.load_state_dict(checkpoint.ema)
    source = generated(generator, count, seed, truncation, name=str(path))
    state = path.stat()
    source.key = _digest("checkpoint", str(path.resolve()), state.st_size, state.st_mtime_ns, count, seed, truncation, ema)
    return source


def draw(generator: Any, count: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Latents of the generator's prior, and uniform classes where it has some."""
    z = generator.sample_z(count, random)
    classes = int(getattr(generator, "num_classes", 0) or 0)
    labels = torch.randint(classes, (count,), generator=random).to(z.device) if classes else None
    return z, labels


def generated(
    generator: nn.Module, count: int, seed: int = 0, truncation: float | None = None, name: str = "generator"
) -> Source:  # fmt: skip
    """``count`` images of a generator of gankern.models, in evaluation mode; image i depends on the seed and i alone.

    Args:
        generator: a ``gankern.models.LatentGenerator``; it is left in the mode it is in.
        count: images.
        seed: of latents, classes and noise.
        truncation: of a style-based generator. Default None: none.
        name: for messages and results.

    Raises:
        TypeError, ValueError: not such a generator, a count below 1, truncation of a generator that has none.
    """
    from gankern.models import StyleGenerator

    if not hasattr(generator, "sample_z"):
        raise TypeError(f"generator must have sample_z, as gankern.models.LatentGenerator, got {type(generator).__name__}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count must be an int, at least 1, got {count!r}")
    if truncation is not None and not isinstance(generator, StyleGenerator):
        raise ValueError(f"truncation must be None for {type(generator).__name__}, which has no mapping, got {truncation}")
    options = {} if truncation is None else {"truncation": truncation}
    kept: dict[int, Tensor] = {}

    def block(number: int) -> Tensor:
        if number not in kept:
            kept.clear()
            kept[number] = _make(generator, number, seed, options)
        return kept[number]

    def read(start: int, stop: int) -> Tensor:
        numbers = range(start // _BLOCK, (stop - 1) // _BLOCK + 1)
        images = torch.cat([block(n) for n in numbers])
        return images[start - numbers[0] * _BLOCK : stop - numbers[0] * _BLOCK]

    shape = getattr(generator, "image_shape", None)
    return Source(name, read, count, generator=generator, shape=None if shape is None else tuple(shape))


@torch.no_grad()
def _make(generator: nn.Module, number: int, seed: int, options: dict[str, Any]) -> Tensor:
    random = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:7], "big"))
    z, labels = draw(generator, _BLOCK, random)
    return seeded(generator, int(torch.randint(2**62, (), generator=random)), lambda: generator(z, labels, **options))


def seeded(network: nn.Module, seed: int, call: Callable[[], Tensor]) -> Tensor:
    """``call()`` with the network in evaluation mode and random numbers (noise) from a seed; both are as before after it."""
    with evaluating(network), own_random(seed, *{p.device for p in network.parameters()}):
        return call()


__all__ = ["Source", "draw", "generated", "open_pair", "open_source", "prepared", "seeded"]
