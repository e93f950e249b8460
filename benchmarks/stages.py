"""Keeps what became of a stage of gpu.sh: ``python benchmarks/stages.py FILE.json NAME STATUS SECONDS [NOTE]``.

Standard library only, and never imports gankern: it must work when the build is what failed.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path

# The same as gankern.bench.results.FORMAT; a test compares them.
FORMAT = "gankern-bench 1"


def main(argv: list[str]) -> int:
    """Record one stage; 0, or 2 for wrong arguments."""
    if len(argv) not in (4, 5):
        print("usage: python benchmarks/stages.py FILE NAME STATUS SECONDS [NOTE]", file=sys.stderr)
        return 2
    path, name, status = Path(argv[0]), argv[1], argv[2]
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        data = {}
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        data = {"format": FORMAT, "mode": path.stem, "complete": False, "machine": {}, "rows": []}
    data.setdefault("stages", {})[name] = {
        "status": status,
        "seconds": float(argv[3]),
        "note": argv[4] if len(argv) == 5 else "",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
