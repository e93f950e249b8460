"""Features of a source, in chunks; kept in a folder, from which an interrupted run goes on and a second one reads."""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gankern._files import replacing, write_json
from gankern.metrics._features import Features
from gankern.metrics._progress import Progress
from gankern.metrics.extractors import Extractor
from gankern.metrics.sources import Source

CHUNK = 1024
FORMAT = 1


def chunks(
    source: Source,
    extractor: Extractor,
    batch: int = 64,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Iterator[Features]:
    """Features of a source's images, on the CPU, in order, some 1024 images at a time.

    Args:
        source: images.
        extractor: of features.
        batch: images in a call of the extractor.
        cache: a folder; what has been computed there for the same images by the same extractor is read. Images without a key
            are not cached.
        progress: show a progress bar.

    Raises:
        ValueError: a cache for an extractor without a key; images that cannot be.

    Warns:
        UserWarning: a file of the cache is truncated, it is computed again; some images could not be read.
    """
    folder = None if cache is None else _folder(Path(cache), source, extractor)
    with Progress(f"features of {source.name}", source.count, progress) as bar:
        if source.count is None:
            yield from _computed(source, extractor, batch, bar, 0, None)
            return
        for start in range(0, source.count, CHUNK):
            stop = min(start + CHUNK, source.count)
            path = None if folder is None else folder / f"{start:08d}-{stop:08d}.npz"
            part, lost = (None, []) if path is None else _read(path)
            if part is None:
                before = len(source.skipped or ())
                found = list(_computed(source, extractor, batch, bar, start, stop))
                lost = (source.skipped or [])[before:]
                if not found:
                    continue
                part = Features.join(found)
                if path is not None:
                    _write(path, part, lost)
            else:
                bar.add(stop - start)
                if source.skipped is not None:
                    source.skipped += [name for name in lost if name not in source.skipped]
            yield part
    if source.skipped:
        shown = "; ".join(source.skipped[:3]) + ("; ..." if len(source.skipped) > 3 else "")
        warnings.warn(f"{source.name}: {len(source.skipped)} of {source.count} images left out: {shown}", stacklevel=2)


def _computed(
    source: Source, extractor: Extractor, batch: int, bar: Progress, start: int, stop: int | None
) -> Iterator[Features]:
    for images in source.parts(batch, start, stop):
        yield extractor(images)
        bar.add(len(images))


def _folder(cache: Path, source: Source, extractor: Extractor) -> Path | None:
    """Where the features are; None for images that nothing identifies, as those of a stream or of a network in memory."""
    if extractor.key is None:
        raise ValueError(
            f"cache: the features of the extractor {extractor.name} have no key that says which they are, so they cannot be "
            "cached; modules have one (of their weights), functions need an attribute key"
        )
    if source.key is None:
        return None
    about = {"format": FORMAT, "images": source.key, "extractor": extractor.key}
    folder = cache / hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:24]
    note = folder / "about.json"
    if not note.exists():
        write_json(note, {**about, "name": source.name, "count": source.count, "extractor_name": extractor.name})
    return folder


def _write(path: Path, part: Features, skipped: list[str]) -> None:
    arrays: dict[str, Any] = {"values": part.values.numpy(), "skipped": np.array(skipped, dtype=np.str_)}
    if part.logits is not None:
        arrays["logits"] = part.logits.numpy()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def _read(path: Path) -> tuple[Features | None, list[str]]:
    """What a file of the cache holds; None if there is none, or with a warning if it is broken."""
    if not path.exists():
        return None, []
    try:
        with np.load(path, allow_pickle=False) as file:
            logits = torch.from_numpy(file["logits"]) if "logits" in file.files else None
            return Features(torch.from_numpy(file["values"]), logits), [str(s) for s in file["skipped"]]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        warnings.warn(
            f"cache: {str(path)!r} is truncated or damaged ({lines[0]}): its features are computed again", stacklevel=3
        )
        return None, []
