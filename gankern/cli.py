"""The command line: ``gankern COMMAND ...``, also ``python -m gankern COMMAND ...``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

# Commands with an option list of their own: module with main(argv) -> exit code, and what it does. Imported when called only.
COMMANDS = {
    "bench": ("gankern.bench", "time the kernels beside eager PyTorch and torch.compile"),
    "run": ("gankern.compat.run", "run a script of an existing GAN codebase on gankern's operators"),
    "models": ("gankern.models.cli", "list the reference GANs with parameter counts and FLOP"),
    "train": ("gankern.train.cli", "train one of them on real images"),
    "latent": (
        "gankern.latent.cli",
        "explore a latent space: interpolation, style mixing, truncation, projection",
    ),
    "metrics": ("gankern.metrics.cli", "compare generated images with real ones: FID, KID, precision and recall, ..."),
}


def _info(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="gankern info", description="Versions, what is built, what is missing and why.")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    given = parser.parse_args(argv)
    from gankern import _info

    print(_info.as_json() if given.json else _info.as_text())
    return 0


def _check(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="gankern check", description="Hold every kernel on this machine to the reference.")
    parser.add_argument("--op", action="append", metavar="NAME", help="only this op (may be given more than once)")
    parser.add_argument("--all", action="store_true", help="every contract sample, dtype and layout (minutes), not a selection")
    given = parser.parse_args(argv)
    from gankern import _check

    return _check.run(given.op, everything=given.all)


OWN: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "info": (_info, "versions, what is built, what is missing and why (paste it into a bug report)"),
    "check": (_check, "verify every kernel on this machine against the reference"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and give its exit code: 0 fine, 1 a check failed, 2 wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="gankern", description="Fused kernels for generative adversarial networks.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in (OWN | COMMANDS).items():
        commands.add_parser(name, help=text, add_help=False)
    given, _ = parser.parse_known_args(arguments[:1])
    if given.command in OWN:
        return OWN[given.command][0](arguments[1:])
    return importlib.import_module(COMMANDS[given.command][0]).main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
