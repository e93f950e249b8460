"""Pictures of batches of images: grids as PNG, sequences as GIF or MP4; each file is whole or not there."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankern._files import replacing
from gankern._optional import optional
from gankern.data.folders import pillow
from gankern.data.transforms import to_channels, to_uint8

VIDEO_SUFFIXES = (".gif", ".mp4")


def make_grid(images: Tensor, columns: int | None = None, padding: int = 2, background: float = 1.0) -> Tensor:
    """Images beside and below each other, in reading order.

    Args:
        images: [N, C, H, W], floating point from -1 to 1, or uint8; at least one.
        columns: images in a row. Default None: about as many as rows.
        padding: pixels between them. Default 2.
        background: value of what is not covered, from -1 to 1. Default 1: white.

    Returns:
        uint8 [C, rows * (H + padding) - padding, columns * (W + padding) - padding].

    Raises:
        TypeError, ValueError: images of another shape, none at all, or a number that is out of range.
    """
    x = _checked(images)
    n, c, h, w = x.shape
    if columns is not None and (isinstance(columns, bool) or not isinstance(columns, int) or columns < 1):
        raise ValueError(f"columns must be an int of at least 1 or None, got {columns!r}")
    if padding < 0:
        raise ValueError(f"padding must be 0 or more, got {padding}")
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = math.ceil(n / columns)
    tone = int(to_uint8(torch.tensor(float(background))))
    grid = torch.full((c, rows * (h + padding) - padding, columns * (w + padding) - padding), tone, dtype=torch.uint8)
    for i in range(n):
        top, left = i // columns * (h + padding), i % columns * (w + padding)
        grid[:, top : top + h, left : left + w] = x[i]
    return grid


def save_grid(path: str | os.PathLike[str], images: Tensor, columns: int | None = None, padding: int = 2) -> None:
    """Write images as one picture, :func:`make_grid`; the suffix says the format, PNG for instance.

    Args:
        path: the file, which is replaced when the new one is whole.
        images: [N, C, H, W] with 1, 3 or 4 channels, floating point from -1 to 1, or uint8.
        columns: images in a row. Default None: about as many as rows.
        padding: white pixels between them. Default 2.

    Raises:
        TypeError, ValueError: as :func:`make_grid`, or a suffix that pillow does not know.
        ImportError: pillow is not installed.
    """
    save_image(path, make_grid(images, columns, padding))


def save_image(path: str | os.PathLike[str], image: Tensor) -> None:
    """Write one image [C, H, W] or [1, C, H, W] with 1, 3 or 4 channels; the suffix says the format.

    Raises:
        TypeError, ValueError: an image of another shape, or a suffix that pillow does not know.
        ImportError: pillow is not installed.
    """
    picture = _picture(_checked(image[None] if image.dim() == 3 else image)[0])
    suffix = Path(path).suffix.lower()
    module = pillow()
    if suffix not in module.registered_extensions() or module.registered_extensions()[suffix] not in module.SAVE:
        raise ValueError(f"path must end with the suffix of an image format, as .png, got {os.fspath(path)!r}")
    if suffix in (".jpg", ".jpeg") and picture.mode == "RGBA":
        raise ValueError(f"path: JPEG has no opacity, take .png for images of 4 channels, got {os.fspath(path)!r}")
    with replacing(path) as temporary:
        picture.save(temporary)


def save_frames(path: str | os.PathLike[str], frames: Tensor | Iterable[Tensor], fps: float = 30.0) -> None:
    """Write a sequence of images as GIF (by pillow) or MP4 (by imageio with its ffmpeg plugin).

    Args:
        path: the file, .gif or .mp4, which is replaced when the new one is whole.
        frames: [N, C, H, W], or an iterable of [C, H, W], which need not fit in memory as MP4; floating point from -1 to 1, or
            uint8, all of one size. At least one.
        fps: frames in a second. GIF knows hundredths of a second a frame, and shows none for less than two. Default 30.

    Raises:
        TypeError, ValueError: frames that do not fit, another suffix, or ``fps`` out of range.
        ImportError: pillow, or for MP4 imageio with imageio-ffmpeg, is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        raise ValueError(f"path must end with {' or '.join(VIDEO_SUFFIXES)}, got {os.fspath(path)!r}")
    if not 0 < fps < math.inf:
        raise ValueError(f"fps must be positive, got {fps}")
    if suffix == ".gif":
        _save_gif(path, frames, fps)
    else:
        _save_mp4(path, frames, fps)


def _save_gif(path: str | os.PathLike[str], frames: Iterable[Tensor], fps: float) -> None:
    pictures = [_picture(frame) for frame in _frames(frames)]
    duration = max(round(100 / fps), 2) * 10
    with replacing(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=duration, loop=0)


def _save_mp4(path: str | os.PathLike[str], frames: Iterable[Tensor], fps: float) -> None:
    missing = "MP4 is written with imageio: pip install imageio imageio-ffmpeg; GIF needs neither"
    imageio = optional("imageio.v2", missing)
    optional("imageio_ffmpeg", missing)  # the plugin, which imageio misses only after the file was opened
    checked = _frames(frames)
    first = next(checked)  # before the file is opened
    with replacing(path) as temporary, imageio.get_writer(temporary, format="FFMPEG", fps=fps, macro_block_size=1) as writer:
        for frame in (f for part in ((first,), checked) for f in part):
            x = to_channels(frame, 3)
            # H.264 with colours at half the resolution wants even sides.
            x = torch.nn.functional.pad(x[None].float(), (0, x.shape[2] % 2, 0, x.shape[1] % 2), mode="replicate")[0]
            writer.append_data(x.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _frames(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    shape = None
    for i, frame in enumerate(frames):
        if not isinstance(frame, Tensor) or frame.dim() != 3:
            raise ValueError(f"frames must be [N, C, H, W] or an iterable of [C, H, W], got {_kind(frame)} at {i}")
        if shape is not None and frame.shape != shape:
            raise ValueError(f"frames must have one size, {list(shape)}, got {list(frame.shape)} at {i}")
        shape = frame.shape
        yield _checked(frame[None])[0]
    if shape is None:
        raise ValueError("frames must have at least one frame, got none")


def _checked(images: Any) -> Tensor:
    """uint8 [N, C, H, W] on the CPU."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor [N, C, H, W], got {type(images).__name__}")
    if images.dim() != 4 or images.shape[1] not in (1, 3, 4) or 0 in images.shape:
        raise ValueError(f"images must be [N, C, H, W] with N > 0 and 1, 3 or 4 channels, got {list(images.shape)}")
    return to_uint8(images).cpu()


def _kind(x: Any) -> str:
    return str(list(x.shape)) if isinstance(x, Tensor) else type(x).__name__


def _picture(image: Tensor) -> Any:
    """A PIL image of uint8 [C, H, W]."""
    array = image.permute(1, 2, 0).contiguous().numpy()
    return pillow().fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


__all__ = ["make_grid", "save_frames", "save_grid", "save_image", "to_uint8"]
