"""Real images that scikit-learn ships, no download: handwritten digits and two photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankern._optional import TRAIN, optional
from gankern.data import transforms
from gankern.data.folders import Cache


class TensorSource:
    """Images that lie in memory, uint8 [N, C, H, W]."""

    def __init__(self, images: Tensor) -> None:
        self.stored = images

    def __len__(self) -> int:
        return len(self.stored)

    def load(self, index: int) -> Tensor:
        """Image ``index``."""
        return self.stored[index]

    def name(self, index: int) -> str:
        """Its number."""
        return f"image {index}"


class CropSource:
    """Random square crops of a few photographs: number i is always the same crop, of photograph i mod their count.

    Sides are uniform from ``resolution`` to ``zoom * resolution`` (at most the photograph's shorter side), then resized.
    """

    def __init__(self, photos: Sequence[Tensor], count: int, resolution: int, zoom: float, cache_bytes: int) -> None:
        self.photos, self.count, self.resolution, self.zoom = list(photos), count, resolution, zoom
        self.cache = Cache(cache_bytes)

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> Tensor:
        """Crop ``index``."""
        image = self.cache.get(index)
        if image is None:
            photo = self.photos[index % len(self.photos)]
            size, row, column = np.random.default_rng([0, index]).random(3).tolist()
            side = min(round(self.resolution * (1 + size * (self.zoom - 1))), *photo.shape[-2:])
            cut = transforms.random_crop(photo, side, (row, column))
            image = transforms.resize(cut, self.resolution, self.resolution)
            self.cache.put(index, image)
        return image

    def name(self, index: int) -> str:
        """Its number."""
        return f"crop {index}"


def digits(resolution: int, channels: int) -> tuple[TensorSource, Tensor, list[str]]:
    """The 1,797 handwritten digits of ``sklearn.datasets.load_digits``, white on black, enlarged: images, labels, names.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    bunch = _sklearn("digits").load_digits()
    grey = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]  # 8 x 8, from 0 to 16
    images = transforms.to_channels(transforms.resize(grey, resolution, resolution), channels)
    return TensorSource(images), torch.from_numpy(bunch.target.astype(np.int64)), [str(n) for n in bunch.target_names]


def photos(channels: int) -> tuple[list[Tensor], list[str]]:
    """The photographs of ``sklearn.datasets.load_sample_images``, uint8 [channels, 427, 640], and their names.

    Raises:
        ImportError: scikit-learn, or pillow, which it reads them with, is not installed.
    """
    try:
        bunch = _sklearn("photos").load_sample_images()
    except ImportError as error:
        if "gankern" in str(error):
            raise
        raise ImportError(f"the photographs are read with pillow: {TRAIN} pillow") from error
    images = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in bunch.images]
    return [transforms.to_channels(i, channels) for i in images], [Path(name).stem for name in bunch.filenames]


def _sklearn(what: str) -> Any:
    return optional("sklearn.datasets", f"data {what!r} comes with scikit-learn, which is not installed: {TRAIN} scikit-learn")


__all__ = ["CropSource", "TensorSource", "digits", "photos"]
