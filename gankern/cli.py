"""The command line: ``gankern info``, ``gankern check``, ``gankern bench`` (also ``python -m gankern``)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and give its exit code: 0 fine, 1 a check failed, 2 wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["bench"]:  # has an option list of its own
        from gankern.bench import main as bench

        return bench(arguments[1:])
    parser = argparse.ArgumentParser(prog="gankern", description="Fused kernels for generative adversarial networks.")
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="versions, what is built, what is missing and why (paste it into a bug report)")
    info.add_argument("--json", action="store_true", help="the same as JSON")
    check = commands.add_parser("check", help="verify every kernel on this machine against the reference")
    check.add_argument("--op", action="append", metavar="NAME", help="only this op (may be given more than once)")
    check.add_argument("--all", action="store_true", help="every contract sample, dtype and layout (minutes), not a selection")
    commands.add_parser("bench", help="time the kernels beside eager PyTorch and torch.compile (gankern bench --help)")
    given = parser.parse_args(arguments)
    if given.command == "info":
        from gankern import _info

        print(_info.as_json() if given.json else _info.as_text())
        return 0
    from gankern import _check

    return _check.run(given.op, everything=given.all)


if __name__ == "__main__":
    sys.exit(main())
