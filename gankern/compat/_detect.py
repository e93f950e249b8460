"""Which shims a codebase needs: a look at its folders and import lines, without running any of it."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

LOOKED_FOR = {
    "nvlabs": "a folder torch_utils/ops",
    "rosinality": "a package with fused_act.py and upfirdn2d.py, or a file that says 'from op import'",
    "mmcv": "a file that imports mmcv.ops",
}
# Bounds, so that a script in a folder of a million images, or in the home folder, starts as soon as any other.
_DEPTH, _ENTRIES, _FILES, _BYTES = 5, 20_000, 2_000, 1 << 20
_SKIPPED = {"__pycache__", "node_modules", "site-packages", "dist-packages", "venv"}
_IMPORTS_OP = re.compile(r"^\s*(from\s+op(\.\w+)*\s+import\b|import\s+op(\.\w+)*\s*(#|$|,|as\b))", re.MULTILINE)
_IMPORTS_MMCV = re.compile(
    r"^\s*(from\s+mmcv\.ops(\.\w+)*\s+import\b|import\s+mmcv\.ops\b|from\s+mmcv\s+import\s+[^#\n]*\bops\b)", re.MULTILINE
)


@dataclass
class Found:
    """What was found, and where.

    Attributes:
        shims: the shims that are needed, each with the reason.
        folders: where it was looked.
        files: how many Python files were read.
    """

    shims: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    files: int = 0

    def message(self) -> str:
        """That nothing was found, what was looked for, and what is there."""
        lines = [f"no known GAN codebase in {' or '.join(map(str, self.folders))}. Looked for"]
        lines += [f"  {name + ':':12}{what}" for name, what in LOOKED_FOR.items()]
        for folder in self.folders:
            names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir() if not p.name.startswith("."))
            shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
            lines.append(f"Found in {folder}: {shown or 'nothing'}")
        lines.append(f"({self.files} Python files were read). Say which it is with --compat nvlabs, rosinality or mmcv; ")
        lines[-1] += "--compat none runs a script that imports gankern itself"
        return "\n".join(lines)


def detect(folders: Sequence[Path]) -> Found:
    """Look at folders and what is in them, some levels deep, the first one first.

    Import lines tell less than folders do: those of the second folder on (of a working folder that holds other projects, too)
    are looked at only if nothing was found before.
    """
    found = Found(folders=list(folders))
    seen: set[Path] = set()
    for folder in folders:
        lines = not found.shims
        if (folder / "torch_utils" / "ops").is_dir():
            found.shims.setdefault("nvlabs", f"{folder / 'torch_utils' / 'ops'}")
        for path in python_files(folder):
            if path in seen or len(seen) >= _FILES:
                continue
            seen.add(path)
            if _holds_op(path) and (lines or path.parent.parent == folder):
                found.shims.setdefault("rosinality", f"{path.parent}")
            if lines:
                _read(path, found)
    found.files = len(seen)
    found.shims = {name: found.shims[name] for name in LOOKED_FOR if name in found.shims}
    return found


def _holds_op(path: Path) -> bool:
    return path.name == "fused_act.py" and (path.parent / "upfirdn2d.py").is_file()


def _read(path: Path, found: Found) -> None:
    """Look at the import lines of a file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_BYTES)
    except OSError:
        return
    for name, pattern in (("rosinality", _IMPORTS_OP), ("mmcv", _IMPORTS_MMCV)):
        match = None if name in found.shims else pattern.search(text)
        if match and _is_code(text, match[0]):
            line = text.count("\n", 0, match.start(1)) + 1
            found.shims[name] = f"{path}:{line}: {' '.join(match[0].split())}"


def _is_code(text: str, statement: str) -> bool:
    """Whether an import that a pattern has found is one, and not part of a string."""
    name = statement.split()[1].partition(".")[0].rstrip(",")
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return False
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    modules += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return any(module.partition(".")[0] == name for module in modules)


def op_packages(folder: Path) -> list[str]:
    """Names, as imported from ``folder``, of the packages in it that hold fused_act.py and upfirdn2d.py."""
    found = []
    for path in python_files(folder):
        if path.parent != folder and _holds_op(path):
            parts = path.parent.relative_to(folder).parts
            if all(part.isidentifier() for part in parts):
                found.append(".".join(parts))
    return found


def python_files(folder: Path) -> Iterator[Path]:
    """Python files of a folder and those in it, nearest first, within bounds."""
    level, entries = [str(folder)], 0
    for _ in range(_DEPTH + 1):
        below = []
        for place in level:
            try:
                with os.scandir(place) as scan:
                    inside = sorted(islice(scan, max(0, _ENTRIES - entries)), key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in inside:
                entries += 1
                if entry.name.startswith(".") or entry.name in _SKIPPED:
                    continue
                if entry.name.endswith(".py") and entry.is_file():
                    yield Path(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
        level = below


__all__ = ["LOOKED_FOR", "Found", "detect", "op_packages", "python_files"]
