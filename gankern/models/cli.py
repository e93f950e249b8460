"""``gankern models``: the reference GANs with their parameter counts and FLOP."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from gankern.models._count import ModelSummary, summarise
from gankern.models._registry import FAMILIES, config_of, presets

_NOTE = (
    "FLOP: for one image, forward; convolutions and matrix products, a product and a sum as two, each at the resolution where "
    "gankern computes it; filters, norms and activations are not counted. cyclegan: both directions together."
)


def _chosen(name: str | None) -> list[str]:
    """Names to be listed: all presets, those of a family (and its defaults, if no preset has them), or one."""
    if name is None:
        return [n for family in FAMILIES for n in _chosen(family)]
    if name not in FAMILIES:
        config_of(name)
        return [name]
    family = FAMILIES[name]
    own = [] if family.config() in family.presets.values() else [name]
    return own + [n for n in family.presets if n not in own]


def _number(value: float) -> str:
    """Three digits and a unit: 30.4 M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            scaled = value / size
            return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f} {unit}"
    return f"{value:.0f}  "


def _table(rows: Sequence[ModelSummary]) -> str:
    head = ["preset", "images", "G param", "D param", "G FLOP", "D FLOP", "paper", "what"]
    cells = [
        [
            s.name, f"{s.resolution}x{s.resolution}x{s.channels}", _number(s.generator_parameters),
            _number(s.discriminator_parameters), _number(s.generator_flops), _number(s.discriminator_flops), s.paper, s.title,
        ]
        for s in rows
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(len(head))]
    lines = []
    for row in [head, *cells]:
        parts = [c.rjust(w) if 2 <= i <= 5 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _details(name: str) -> dict[str, Any]:
    """Settings and losses of a preset or family."""
    config = config_of(name)
    family = FAMILIES[config.family]
    return {
        "task": family.task,
        "loss": family.loss,
        "penalties": dict(family.penalties or {}),
        "settings": config.to_dict(),
    }


def main(argv: Sequence[str]) -> int:
    """Run ``gankern models`` and give its exit code: 0 fine, 2 an unknown name."""
    parser = argparse.ArgumentParser(
        prog="gankern models",
        description="List the reference GANs with parameter counts and FLOP; gankern.models.from_config(PRESET) builds one.",
        epilog=_NOTE,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a preset or a family, with its settings (default: everything)")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    given = parser.parse_args(argv)
    try:
        names = _chosen(given.name)
    except ValueError:
        known = ", ".join(sorted(presets()))
        print(f"gankern models: no model {given.name!r}; there are {known}", file=sys.stderr)
        return 2
    rows = [summarise(n) for n in names]
    if given.json:
        print(json.dumps([{**s.to_dict(), **_details(s.name)} for s in rows], indent=1))
        return 0
    print(_table(rows))
    if given.name is not None:
        details = _details(given.name)
        penalties = ", ".join(f"{k} {v:g}" for k, v in details["penalties"].items())
        print(f"\ntask: {details['task']}; loss: {details['loss']}; penalties: {penalties or 'none'}")
        print(f"settings of {given.name}: " + ", ".join(f"{k}={v!r}" for k, v in details["settings"].items()))
    print(f"\n{_NOTE}")
    return 0


__all__ = ["main"]
