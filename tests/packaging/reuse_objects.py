"""A compiler launcher for the packaging tests, which build the same kernels in many folders: what was compiled is copied.

    python reuse_objects.py FOLDER COMPILER ARGUMENTS...

An object is the same if the command (the checkout's own path left out), the source and all headers under csrc/ are. Not for
use outside these tests: other headers are taken as fixed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def main(folder: str, *command: str) -> int:
    """Compile, or copy what the same command has made."""
    arguments = list(command)
    sources = [a for a in arguments if a.endswith((".cpp", ".cu")) and "/csrc/" in a]
    if "-c" not in arguments or len(sources) != 1:
        return subprocess.run(arguments).returncode
    csrc = Path(sources[0]).parent.parent
    root = str(csrc.parent)
    key = hashlib.sha256("\0".join(arguments).replace(root, "").encode())
    for path in sorted([Path(sources[0]), *csrc.rglob("*.h"), *csrc.rglob("*.cuh")]):
        key.update(str(path.relative_to(csrc)).encode() + path.read_bytes())
    kept = Path(folder) / key.hexdigest()
    made = [Path(arguments[arguments.index(flag) + 1]) for flag in ("-o", "-MF") if flag in arguments]
    if kept.exists():
        for path in made:
            shutil.copyfile(kept / path.suffix[1:], path)
            if path.suffix == ".d":
                path.write_text(path.read_text().replace("@root@", root))
        return 0
    code = subprocess.run(arguments).returncode
    if code == 0:
        fresh = kept.with_suffix(f".{os.getpid()}")
        fresh.mkdir(parents=True)
        for path in made:
            shutil.copyfile(path, fresh / path.suffix[1:])
            if path.suffix == ".d":
                (fresh / "d").write_text(path.read_text().replace(root, "@root@"))
        fresh.rename(kept)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
