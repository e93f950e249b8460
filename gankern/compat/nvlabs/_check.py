"""What of a checkout the shim knows, read from its files without running them."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gankern.compat._detect import python_files
from gankern.compat.nvlabs._modulated import KNOWN, NAME
from gankern.compat.nvlabs._ops import OPS, REQUIRED


@dataclass
class Check:
    """What :func:`check` found.

    Attributes:
        tree: the checkout.
        found: module of ``torch_utils.ops`` -> the public names that it shall have and has.
        missing: module of ``torch_utils.ops`` that is there -> the public names that it shall have and has not.
        absent: modules that are not there; the shim supplies them.
        unknown: module -> public functions of its own, which the shim leaves as they are.
        modulated: file -> whether its ``modulated_conv2d`` has a known signature.
    """

    tree: Path
    found: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    modulated: dict[str, bool] = field(default_factory=dict)

    @property
    def matches(self) -> bool:
        """Whether it is a codebase of this family: it has some of the modules, and those have their public names."""
        return any(self.found.values()) and not self.missing

    def __str__(self) -> str:
        head = f"{self.tree} {'has' if self.matches else 'does not have'} the names of torch_utils.ops that gankern serves"
        lines = [f"found {module}: {', '.join(names) or 'nothing'}" for module, names in self.found.items()]
        lines += [f"not found in {module}: {', '.join(names)}" for module, names in self.missing.items()]
        lines += [f"not found: torch_utils/ops/{module}.py" for module in self.absent]
        lines += [f"unknown, left as they are, in {module}: {', '.join(names)}" for module, names in self.unknown.items()]
        if not self.found:
            inside = sorted(p.parent.parent for depth in ("*", "*/*") for p in self.tree.glob(f"{depth}/torch_utils/ops"))
            lines += [f"there is a torch_utils/ops in {folder}: give that folder" for folder in inside]
        for file, known in self.modulated.items():
            lines.append(f"{NAME} in {file}: {'replaced' if known else 'an unknown signature, left as it is'}")
        return "\n  ".join([head + ":", *lines])


def check(tree: str | os.PathLike[str]) -> Check:
    """Compare a checkout with the names that the shim serves, without importing anything.

    Args:
        tree: folder of the checkout: the one in which ``torch_utils`` lies.

    Returns:
        What was found and what was not; ``print`` it.

    Raises:
        NotADirectoryError: no such folder.
    """
    root = Path(tree)
    if not root.is_dir():
        raise NotADirectoryError(f"check: tree must be the folder of a checkout, got {os.fspath(tree)!r}, which is none")
    result = Check(root)
    for module in OPS:
        file = root / "torch_utils" / "ops" / f"{module}.py"
        if not file.is_file():
            result.absent.append(module)
            continue
        defined = _defined(_parsed(file))
        result.found[module] = [name for name in REQUIRED[module] if name in defined]
        missing = [name for name in REQUIRED[module] if name not in defined]
        if missing:
            result.missing[module] = missing
        served = set(REQUIRED[module]) | {module}
        unknown = [n for n, is_function in defined.items() if is_function and n not in served and not n.startswith("_")]
        if unknown:
            result.unknown[module] = unknown
    for file in sorted(python_files(root)):
        for node in ast.walk(_parsed(file)) if NAME in file.read_text(encoding="utf-8", errors="replace") else ():
            if isinstance(node, ast.FunctionDef) and node.name == NAME:
                result.modulated[str(file.relative_to(root))] = _known(node)
    return result


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _defined(module: ast.Module) -> Mapping[str, bool]:
    """Names at the top level of a module -> whether it is a function; also those in ``if`` and ``try``, and imported ones."""
    names: dict[str, bool] = {}
    left = list(module.body)
    while left:
        node = left.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names[node.name] = isinstance(node, ast.FunctionDef)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update({(alias.asname or alias.name): False for alias in node.names})
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update({one.id: False for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)})
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            left += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            left += [child for handler in getattr(node, "handlers", []) for child in handler.body]
    return names


def _known(function: ast.FunctionDef) -> bool:
    """Whether the names of its parameters are those of a known signature."""
    given = function.args
    names = tuple(one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs))
    return given.vararg is None and given.kwarg is None and names in {tuple(name for name, _ in one) for one in KNOWN}
