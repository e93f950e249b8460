"""Result files: one JSON per run, rewritten whole (temporary file, then rename) after every row, so that a run that is
interrupted leaves a readable file with all it had measured.

Top level: ``format``, ``mode``, ``complete`` (every planned row was measured), ``machine`` and ``rows``;
benchmarks/gpu.sh adds ``stages`` and ``ceilings``, which a new run of the rows leaves in place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gankern._files import write_json
from gankern.bench.common import BenchError

FORMAT = "gankern-bench 1"
SECTIONS = ("stages", "ceilings")


class Results:
    """A result file that grows row by row."""

    def __init__(self, path: Path, mode: str, machine: Mapping[str, Any]) -> None:
        self.path = path
        self.data: dict[str, Any] = {"format": FORMAT, "mode": mode, "complete": False, "machine": dict(machine), "rows": []}
        for section, content in _sections(path).items():
            self.data[section] = content

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows so far."""
        return self.data["rows"]

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row and save."""
        self.rows.append(dict(row))
        self.save()

    def finish(self, complete: bool) -> None:
        """Mark whether every planned row was measured, and save."""
        self.data["complete"] = complete
        self.save()

    def save(self) -> None:
        """Write the file.

        Raises:
            BenchError: it cannot be written.
        """
        try:
            write_json(self.path, self.data)
        except OSError as error:
            raise BenchError(f"cannot write {self.path}: {error.strerror}") from error


def _sections(path: Path) -> dict[str, Any]:
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {section: old[section] for section in SECTIONS if section in old} if isinstance(old, dict) else {}


def add_section(path: Path, section: str, content: Any, machine: Mapping[str, Any]) -> None:
    """Put ``ceilings`` or ``stages`` into a result file, making one without rows if there is none."""
    try:
        data = load(path)
    except BenchError:
        data = {"format": FORMAT, "mode": path.stem, "complete": False, "machine": dict(machine), "rows": []}
        data.update(_sections(path))
    data[section] = content
    write_json(path, data)


def load(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        BenchError: it is missing, or not a result file; the message names it and says why.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BenchError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from error
    try:
        data = json.loads(text)
    except ValueError:
        raise BenchError(f"{path}: not a result file of gankern bench (not JSON)") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise BenchError(f"{path}: not a result file of gankern bench (format {found!r}, expected {FORMAT!r})")
    for field, kind in (("rows", list), ("machine", dict), ("mode", str)):
        if not isinstance(data.get(field), kind):
            raise BenchError(f"{path}: damaged result file ({field!r} is missing or not a {kind.__name__})")
    for row in data["rows"]:
        if not isinstance(row, dict) or not {"key", "op", "status", "times", "metrics"} <= row.keys():
            raise BenchError(f"{path}: damaged result file (a row lacks its fields)")
    return data


def find(paths: Iterable[Path]) -> list[Path]:
    """The result files among files and folders (searched through; other JSON files in them are passed over).

    Raises:
        BenchError: a path is missing, or a folder holds no result file.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            load(path)
            found.append(path)
            continue
        inside = []
        for candidate in sorted(path.rglob("*.json")):
            try:
                load(candidate)
            except BenchError:
                continue
            inside.append(candidate)
        if not inside:
            raise BenchError(f"{path}: no result files in this folder")
        found += inside
    return found
