"""Images to train on: digits and photographs that scikit-learn ships, folders of images, pairs, two domains, classes.

:func:`open_data` finds them, :meth:`ImageData.stream` gives batches without end. A stream has no hidden state: which images a
step takes, and how they are flipped and cropped, are functions of (seed, position). So a resumed run sees what the unbroken one
would have seen, and two ranks see together what one process with the whole batch would.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gankern.data import bundled, transforms
from gankern.data.folders import CROPS, JITTER, CorruptImage, Entry, FileSource, find_classes, find_images, find_pairs, scan

BUNDLED = ("digits", "photos")
TASKS = ("latent", "paired", "unpaired")


@dataclass
class Batch:
    """Images of one step.

    Attributes:
        images: [N, C, H, W], float32 from -1 to 1: what the generator shall make. Task 'unpaired': domain B.
        labels: int64 [N], the classes of the images, or None.
        inputs: [N, C', H, W], float32 from -1 to 1: what the generator starts from, or None. Task 'unpaired': domain A.
    """

    images: Tensor
    labels: Tensor | None = None
    inputs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: str | torch.device, channels_last: bool = False) -> Batch:
        """The same on a device; images in channels_last memory if asked for."""
        layout = torch.channels_last if channels_last else torch.contiguous_format

        def moved(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True, memory_format=layout)

        images = moved(self.images)
        assert images is not None
        return Batch(images, None if self.labels is None else self.labels.to(device, non_blocking=True), moved(self.inputs))


class Source(Protocol):
    """Images by number, as uint8 [C, h, w] with h and w at least the resolution."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Tensor:
        """Image ``index``; a CorruptImage error if it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """What messages call it."""
        ...


class ImageData:
    """Images of one size, perhaps with classes, or with images to start from. :func:`open_data` makes these.

    Attributes:
        name: what was opened: 'digits', 'photos' or the folder.
        task: 'latent', 'paired' or 'unpaired'.
        resolution: height and width.
        channels: of the images.
        input_channels: of the inputs; 0 for task 'latent'.
        num_classes: classes, 0 for none.
        class_names: their names, in the order of the labels.
        skipped: names of files that are left out because they cannot be read, or have no partner.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        resolution: int,
        channels: int = 3,
        *,
        task: str = "latent",
        inputs: Source | None = None,
        input_channels: int = 0,
        labels: Tensor | None = None,
        class_names: Sequence[str] = (),
        condition: str | None = None,
        flip: bool = False,
        random_crop: bool = False,
        skipped: Sequence[str] = (),
    ) -> None:
        self.name, self.task, self.resolution = name, task, resolution
        self.channels, self.input_channels = channels, input_channels
        self.source, self.inputs, self.labels = source, inputs, labels
        self.class_names = list(class_names)
        self.num_classes = len(self.class_names)
        self.condition, self.flip, self.random_crop = condition, flip, random_crop
        self.skipped = list(skipped)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def num_inputs(self) -> int:
        """Images to start from: of domain A for task 'unpaired'; as many as images for 'paired'; 0 for 'latent'."""
        if self.task == "unpaired":
            assert self.inputs is not None
            return len(self.inputs)
        return len(self) if self.task == "paired" else 0

    def images(self, indices: Sequence[int] | range | Tensor) -> Batch:
        """The images of these numbers, cropped in the middle and not flipped: always the same.

        Args:
            indices: from 0 to len(data) - 1. For task 'unpaired' the inputs are those of the same numbers, from the first
                again where there are fewer.

        Returns:
            The batch.

        Raises:
            ValueError: a number that is out of range.
        """
        numbers = [operator.index(i) for i in (indices.tolist() if isinstance(indices, Tensor) else indices)]
        for i in numbers:
            if not 0 <= i < len(self):
                raise ValueError(f"indices must be from 0 to {len(self) - 1}, got {i}")
        sources = [i % self.num_inputs for i in numbers] if self.task == "unpaired" else numbers
        return self._batch(numbers, sources, [None] * len(numbers))

    def stream(self, batch: int, seed: int = 0, rank: int = 0, world: int = 1, workers: int = 0) -> Stream:
        """Batches without end, shuffled anew in each epoch.

        Args:
            batch: images of this process in each batch.
            seed: of order, flips and crops; 0 or more. Default 0.
            rank: number of this process, from 0 to world - 1. Default 0.
            world: processes that share the images. Default 1.
            workers: threads that make batches ahead of time; the batches are the same. Default 0: made when asked for.

        Returns:
            An iterator of :class:`Batch`.

        Raises:
            ValueError: a number that is out of range.
        """
        return Stream(self, batch, seed, rank, world, workers)

    def _batch(self, numbers: Sequence[int], sources: Sequence[int], randoms: Sequence[np.random.Generator | None]) -> Batch:
        """Images ``numbers``, for task 'unpaired' with inputs ``sources``; flips and crops by ``randoms``, or none."""
        images, inputs, found = [], [], []
        for number, source, random in zip(numbers, sources, randoms, strict=True):
            draws = self._draws(random)
            both = (self.source, self.inputs) if self.task == "paired" and self.inputs is not None else (self.source,)
            index, loaded = self._readable(number, *both)
            found.append(index)
            images.append(self._cut(loaded[0], draws))
            if self.task == "unpaired":
                assert self.inputs is not None
                inputs.append(self._cut(self._readable(source, self.inputs)[1][0], self._draws(random)))
            elif len(loaded) > 1:
                inputs.append(self._cut(loaded[1], draws))
        done = self._finished(images, self.channels)
        labels = None if self.labels is None else self.labels[torch.tensor(found, dtype=torch.int64)]
        if self.task == "latent":
            return Batch(done, labels)
        if self.condition is not None:
            return Batch(done, labels, transforms.to_channels(transforms.CONDITIONS[self.condition](done), self.input_channels))
        return Batch(done, labels, self._finished(inputs, self.input_channels))

    def _readable(self, number: int, *sides: Source) -> tuple[int, list[Tensor]]:
        """The first image from ``number`` on that can be read on all sides: its number, and the image of each side."""
        for step in range(len(sides[0])):
            index = (number + step) % len(sides[0])
            side = sides[0]
            loaded = []
            try:
                for side in sides:
                    loaded.append(side.load(index))
            except CorruptImage as error:
                name = side.name(index)
                if name not in self.skipped:
                    self.skipped.append(name)
                    warnings.warn(f"{self.name}: {name} is left out ({error}), the next image takes its place", stacklevel=5)
                continue
            return index, loaded
        raise ValueError(f"{self.name}: none of the {len(sides[0])} images can be read")

    def _draws(self, random: np.random.Generator | None) -> tuple[float, ...] | None:
        """Uniform numbers for flip, row and column of the crop."""
        return None if random is None else tuple(random.random(3).tolist())

    def _cut(self, x: Tensor, draws: tuple[float, ...] | None) -> Tensor:
        """The square that is shown, uint8."""
        if self.random_crop and draws is not None:
            x = transforms.random_crop(x, self.resolution, (draws[1], draws[2]))
        else:
            x = transforms.center_crop(x, self.resolution)
        return x.flip(-1) if self.flip and draws is not None and draws[0] < 0.5 else x

    def _finished(self, images: Sequence[Tensor], channels: int) -> Tensor:
        if not images:
            return torch.empty(0, channels, self.resolution, self.resolution)
        return transforms.to_float(transforms.to_channels(torch.stack(list(images)), channels))

    def __repr__(self) -> str:
        parts = [f"{self.name!r}", f"{len(self)} images", f"{self.resolution}x{self.resolution}x{self.channels}", self.task]
        if self.num_classes:
            parts.append(f"{self.num_classes} classes")
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        return f"ImageData({', '.join(parts)})"


class Stream(Iterator[Batch]):
    """Batches without end of :class:`ImageData`; made by :meth:`ImageData.stream`.

    Position p of the stream is image p mod N of the permutation of epoch p div N. A step takes the next ``world * batch``
    positions, of which rank r takes the r-th ``batch``: within an epoch no image comes twice, on whatever rank, and the
    ranks' batches one after the other are the batch of a single process. Only the position is state; it counts images, so a run
    may be resumed with another number of processes.

    Attributes:
        position: images that all ranks together have taken.
        epoch: how often all images have been taken, a fraction.
    """

    def __init__(self, data: ImageData, batch: int, seed: int = 0, rank: int = 0, world: int = 1, workers: int = 0) -> None:
        for name, value, least in (("batch", batch, 1), ("seed", seed, 0), ("world", world, 1), ("workers", workers, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < world:
            raise ValueError(f"rank must be an int from 0 to {world - 1}, got {rank!r}")
        self.data, self.batch, self.seed, self.rank, self.world, self.workers = data, batch, seed, rank, world, workers
        self.position = 0
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[Batch]] = deque()

    @property
    def epoch(self) -> float:
        """How often all images have been taken."""
        return self.position / len(self.data)

    def __next__(self) -> Batch:
        step = self.batch * self.world
        if not self.workers:
            found = self._made(self._chosen(self.position))
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="gankern-data")
            while len(self._ahead) <= self.workers:
                chosen = self._chosen(self.position + len(self._ahead) * step)
                self._ahead.append(self._pool.submit(self._made, chosen))
            found = self._ahead.popleft().result()
        self.position += step
        return found

    def state_dict(self) -> dict[str, int]:
        """Where the stream is: plain numbers."""
        return {
            "position": self.position, "seed": self.seed, "images": len(self.data), "inputs": self.data.num_inputs,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where :meth:`state_dict` was taken, with its seed.

        Raises:
            ValueError: a state of other data, or none at all; nothing is changed.
        """
        names = ("position", "seed", "images", "inputs")
        wrong = [n for n in names if not isinstance(state.get(n), int)]
        if wrong:
            raise ValueError(f"state must have the numbers {', '.join(names)}; {', '.join(wrong)} is missing or no number")
        for name, here in (("images", len(self.data)), ("inputs", self.data.num_inputs)):
            if state[name] != here:
                raise ValueError(f"state is of data with {state[name]} {name}, {self.data.name} has {here}: order would change")
        self.position, self.seed = state["position"], state["seed"]
        self._orders.clear()
        self.close()

    def close(self) -> None:
        """Drop what was made ahead, and its threads; the stream goes on where it is."""
        pool, self._pool = self._pool, None
        self._ahead.clear()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _chosen(self, position: int) -> tuple[list[int], list[int], list[int]]:
        """Of this rank's batch: positions, numbers of the images, numbers of the inputs."""
        start = position + self.rank * self.batch
        positions = list(range(start, start + self.batch))
        numbers = [self._at(0, p, len(self.data)) for p in positions]
        sources = [self._at(1, p, self.data.num_inputs) for p in positions] if self.data.task == "unpaired" else numbers
        return positions, numbers, sources

    def _made(self, chosen: tuple[list[int], list[int], list[int]]) -> Batch:
        positions, numbers, sources = chosen
        drawn = self.data.flip or self.data.random_crop
        return self.data._batch(
            numbers, sources, [np.random.default_rng([self.seed, 2, p]) if drawn else None for p in positions]
        )

    def _at(self, side: int, position: int, count: int) -> int:
        """The image at a position of a side: 0 for images, 1 for the inputs of another domain."""
        epoch, place = divmod(position, count)
        order = self._orders.get((side, epoch))
        if order is None:
            order = np.random.default_rng([self.seed, side, epoch]).permutation(count)
            for key in [k for k in self._orders if k[0] == side and k[1] < epoch - 1]:
                del self._orders[key]
            self._orders[side, epoch] = order
        return int(order[place])


def open_data(
    spec: str | os.PathLike[str],
    resolution: int,
    channels: int = 3,
    task: str = "latent",
    classes: bool = False,
    flip: bool = False,
    *,
    crop: str = "center",
    direction: str = "AtoB",
    condition: str | None = None,
    input_channels: int | None = None,
    count: int = 2000,
    zoom: float = 2.0,
    check: bool | None = None,
    cache_bytes: int = 2**30,
) -> ImageData:
    """Open images for training, or for comparison with generated ones.

    Folders: for task 'latent' all images in the folder and below; with ``classes`` those in its subfolders, each a class (in
    the order of their names). For 'paired' the folders A/ and B/ with files of the same names (whatever the suffix), or images
    that are two side by side, A on the left. For 'unpaired' trainA/ and trainB/, or A/ and B/. Images may be PNG, JPEG, WebP,
    BMP, TIFF, GIF (its first picture) or PNM; grey, palette, RGB, CMYK, with opacity (on white) or 16 bits; turned as EXIF
    says. Files that cannot be read are left out; a warning says how many and which.

    Args:
        spec: 'digits' (scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged; 10 classes), 'photos' (crops of
            scikit-learn's two photographs; the 2 classes are china and flower), or a folder ('./digits' for one of that name).
        resolution: height and width of the images.
        channels: 1 (grey), 3 (RGB) or 4 (with opacity). Default 3.
        task: 'latent', 'paired' or 'unpaired'. Default 'latent'. 'unpaired' photos: china to flower.
        classes: have labels, with task 'latent'. Default False.
        flip: mirror half of a stream's images at random; pairs together. Default False.
        crop: of folders: 'center' resizes the shorter side to the resolution and takes the middle; 'random' resizes it to
            286/256 of that and takes a random square (Isola et al. 2017, 6.2); 'stretch' resizes both sides. Default 'center'.
        direction: of pairs and domains: 'AtoB' makes B from A, 'BtoA' the other way round. Default 'AtoB'.
        condition: make pairs out of single images: 'grey' (colourisation) or 'edges' (their Sobel gradient) is the input. For
            task 'paired' only. Default None: 'grey' for photos, 'edges' for digits, none for folders, which have their own.
        input_channels: of the inputs, 1, 3 or 4. Default None: as ``channels``.
        count: of photos: crops. Default 2000.
        zoom: of photos: crops are squares from ``resolution`` to ``zoom * resolution`` pixels wide. Default 2.
        check: of folders: decode every file now, so that all that cannot be read are known. Default None: for up to 10,000
            files. Otherwise only headers are read, and a file that later turns out broken is replaced by the next one.
        cache_bytes: memory for decoded images, as uint8 at the size they are needed. Default 1 GiB; 0 decodes each time.

    Returns:
        The data.

    Raises:
        FileNotFoundError: no such folder.
        ImportError: scikit-learn (digits, photos) or pillow (folders) is not installed.
        ValueError: no image in a folder or class, a layout that does not fit the task, or an argument out of range.
    """
    input_channels = channels if input_channels is None else input_channels
    _check_arguments(
        spec, task, classes, crop, direction, condition, zoom, resolution=resolution, channels=channels,
        input_channels=input_channels, count=count, cache_bytes=cache_bytes,
    )  # fmt: skip
    has_inputs = task != "latent"
    common: dict[str, Any] = {"task": task, "flip": flip, "input_channels": input_channels if has_inputs else 0}
    if isinstance(spec, str) and spec in BUNDLED:
        if task == "paired":
            common["condition"] = condition or ("grey" if spec == "photos" else "edges")
        if spec == "digits":
            return _digits(resolution, channels, classes, common)
        return _photos(resolution, channels, classes, common, count, zoom, direction, cache_bytes)

    root = Path(spec)
    if not root.exists():
        raise FileNotFoundError(f"no data {os.fspath(spec)!r}: neither 'digits' nor 'photos' nor a folder")
    if not root.is_dir():
        raise ValueError(f"data must be 'digits', 'photos' or a folder, got the file {os.fspath(spec)!r}")
    two = has_inputs and condition is None

    def files(entries: Sequence[Entry]) -> FileSource:
        size = round(resolution * JITTER) if crop == "random" else resolution
        width = max(channels, input_channels) if two else channels
        return FileSource(root, entries, size, crop == "stretch", width, cache_bytes // (1 + two))

    labels: Tensor | None = None
    class_names: list[str] = []
    unmatched: list[str] = []
    if two:
        a, b, unmatched = find_pairs(root, paired=task == "paired")
        sides = [files(b), files(a)] if direction == "AtoB" else [files(a), files(b)]
    elif classes:
        entries, numbers, class_names = find_classes(root)
        sides, labels = [files(entries)], torch.tensor(numbers)
    else:
        sides = [files([(path, None) for path in find_images(root)])]

    skipped = {name: "has no partner" for name in unmatched}
    total = len({path for side in sides for path, _ in side.entries}) + len(unmatched)
    for group in [[side] for side in sides] if task == "unpaired" else [sides]:  # pairs are left out together
        kept = scan(group, check, skipped)
        if not kept:
            raise ValueError(f"{root}: none of the images can be read: {_some(skipped)}")
        if labels is not None:
            labels = labels[kept]
            empty = [name for i, name in enumerate(class_names) if not bool((labels == i).any())]
            if empty:
                raise ValueError(f"{root}: none of the images of the class {empty[0]!r} can be read: {_some(skipped)}")
    if skipped:
        warnings.warn(f"{root}: {len(skipped)} of {total} images left out: {_some(skipped)}", stacklevel=2)
    return ImageData(
        os.fspath(spec), sides[0], resolution, channels, inputs=sides[1] if two else None, labels=labels,
        class_names=class_names, condition=condition, random_crop=crop == "random", skipped=list(skipped), **common,
    )  # fmt: skip


def _digits(resolution: int, channels: int, classes: bool, common: dict[str, Any]) -> ImageData:
    if common["task"] == "unpaired":
        raise ValueError("digits are one domain, task 'unpaired' needs two: take 'photos' or a folder with trainA/ and trainB/")
    source, labels, names = bundled.digits(resolution, channels)
    given: dict[str, Any] = {"labels": labels, "class_names": names} if classes else {}
    return ImageData("digits", source, resolution, channels, **given, **common)


def _photos(
    resolution: int, channels: int, classes: bool, common: dict[str, Any], count: int, zoom: float, direction: str, cache: int
) -> ImageData:
    pictures, names = bundled.photos(channels)
    if common["task"] == "unpaired":
        pictures, _ = bundled.photos(max(channels, common["input_channels"]))
        a, b = (bundled.CropSource([p], count, resolution, zoom, cache // 2) for p in pictures)
        source, inputs = (b, a) if direction == "AtoB" else (a, b)
        return ImageData("photos", source, resolution, channels, inputs=inputs, **common)
    given: dict[str, Any] = {"labels": torch.arange(count) % len(names), "class_names": names} if classes else {}
    source = bundled.CropSource(pictures, count, resolution, zoom, cache)
    return ImageData("photos", source, resolution, channels, **given, **common)


def _some(skipped: Mapping[str, str], most: int = 5) -> str:
    """The first few names, with the reasons."""
    named = [f"{name} ({reason})" for name, reason in list(skipped.items())[:most]]
    return ", ".join(named) + (f", and {len(skipped) - most} more" if len(skipped) > most else "")


def _check_arguments(
    spec: Any, task: str, classes: bool, crop: str, direction: str, condition: str | None, zoom: float, **numbers: Any
) -> None:
    if not isinstance(spec, (str, os.PathLike)):
        raise TypeError(f"spec must be 'digits', 'photos' or a folder, got {type(spec).__name__}")
    for name, value in numbers.items():
        least = 0 if name == "cache_bytes" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
        if name.endswith("channels") and value not in transforms.CHANNELS:
            raise ValueError(f"{name} must be 1, 3 or 4, got {value}")
    choices = (("task", task, TASKS), ("crop", crop, CROPS), ("direction", direction, ("AtoB", "BtoA")))
    for name, value, accepted in choices:
        if value not in accepted:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, accepted))}, got {value!r}")
    if condition is not None and condition not in transforms.CONDITIONS:
        raise ValueError(f"condition must be one of {', '.join(map(repr, transforms.CONDITIONS))} or None, got {condition!r}")
    if condition is not None and task != "paired":
        raise ValueError(f"condition must be None for task {task!r}: it makes pairs, got {condition!r}")
    if classes and task != "latent":
        raise ValueError(f"classes must be False for task {task!r}")
    if not zoom >= 1:
        raise ValueError(f"zoom must be at least 1, got {zoom!r}")


__all__ = ["BUNDLED", "Batch", "ImageData", "Stream", "open_data"]
