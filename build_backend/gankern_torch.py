"""Find the torch that the native libraries are compiled against, without importing it. Standard library only.

pip builds in an isolated environment that sees neither the user's torch nor its own; the interpreter is still the user's, so
``sysconfig`` names the user's site-packages. Used by the build backend (which requirements to ask for) and by setup.py.
"""

from __future__ import annotations

import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MINIMUM, BELOW = (2, 11), (2, 14)
REQUIREMENT = f"torch>={MINIMUM[0]}.{MINIMUM[1]},<{BELOW[0]}.{BELOW[1]}"


class Torch(NamedTuple):
    """An installed torch: its package folder, version, CUDA version (None for a CPU build), and where it was found."""

    root: Path
    version: str
    cuda: str | None
    origin: str

    @property
    def supported(self) -> bool:
        """Whether the version is in the supported range."""
        match = re.match(r"(\d+)\.(\d+)", self.version)
        return match is not None and MINIMUM <= (int(match[1]), int(match[2])) < BELOW


def _read(root: Path, origin: str) -> Torch | None:
    """The torch in ``root``, read from its version.py (assignments of literals), or None."""
    version_file = root / "version.py"
    if not version_file.is_file() or not (root / "include" / "torch" / "csrc" / "stable").is_dir():
        return None
    text = version_file.read_text()
    found = {
        name: match[1] for name in ("__version__", "cuda") if (match := re.search(rf"(?m)^{name}\b[^=]*=\s*'([^']+)'", text))
    }
    return Torch(root, found["__version__"], found.get("cuda"), origin) if "__version__" in found else None


def _candidates() -> Iterator[tuple[str, Path]]:
    """(origin, site-packages folder), best first."""
    if given := os.environ.get("GANKERN_TORCH_DIR"):
        path = Path(given)
        yield "GANKERN_TORCH_DIR", path.parent if path.name == "torch" else path
    # Importable right here: no build isolation, or the isolated environment's own torch.
    for entry in sys.path:
        if entry:
            yield "sys.path", Path(entry)
    # pip's isolation edits only the path: the interpreter is the user's.
    for key in ("purelib", "platlib"):
        yield "sysconfig", Path(sysconfig.get_paths()[key])
    # A virtual environment that also sees the base interpreter's packages.
    config = Path(sys.prefix, "pyvenv.cfg")
    if config.is_file():
        if re.search(r"(?im)^include-system-site-packages\s*=\s*true", config.read_text()):
            base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
            for key in ("purelib", "platlib"):
                yield "system site", Path(sysconfig.get_path(key, vars=base))
            yield "user site", Path(site.getusersitepackages())
    else:
        yield "user site", Path(site.getusersitepackages())
        for entry in site.getsitepackages():
            yield "site", Path(entry)
    # uv and python -m build make a real environment: the user's is seen through its activation only.
    tag = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if root := os.environ.get(variable):
            yield variable, Path(root, "lib", tag, "site-packages")
    for entry in os.environ.get("PATH", "").split(os.pathsep):
        environment = Path(entry).parent
        if entry and ((environment / "pyvenv.cfg").is_file() or (environment / "conda-meta").is_dir()):
            yield "PATH", environment / "lib" / tag / "site-packages"
    yield ".venv", Path(__file__).resolve().parent.parent / ".venv" / "lib" / tag / "site-packages"


def find_torch() -> Torch | None:
    """The first supported torch, else the first unsupported one, else None."""
    unsupported = None
    seen: set[Path] = set()
    for origin, folder in _candidates():
        if folder in seen:
            continue
        seen.add(folder)
        torch = _read(folder / "torch", origin)
        if torch is not None and torch.supported:
            return torch
        unsupported = unsupported or torch
    return unsupported
