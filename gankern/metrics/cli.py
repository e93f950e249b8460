"""``gankern metrics REAL FAKE``: how near generated images are to real ones."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import math
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from gankern._files import write_json
from gankern.metrics._compare import Evaluator
from gankern.metrics._features import Features
from gankern.metrics._table import ALIASES, DEFAULT, METRICS, Settings, metric_names
from gankern.metrics.extractors import NAMES
from gankern.metrics.sources import KINDS, open_pair


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:16} {m.title} ({'lower' if m.lower else 'higher'} is better)" for name, m in METRICS.items())
    short = ", ".join(f"{alias} = {' '.join(names)}" for alias, names in ALIASES.items())
    settings = ", ".join(f"{f.name}={f.default!r}" for f in dataclasses.fields(Settings))
    parser = argparse.ArgumentParser(
        prog="gankern metrics",
        description="Compare generated images with real ones.",
        epilog=f"metrics:\n{listed}\n  also: {short}\n\nsettings and defaults (--set): {settings}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("real", metavar="REAL", help=f"{KINDS}; '-' if no metric compares with real images")
    parser.add_argument("fake", metavar="FAKE", help="the same")
    parser.add_argument(
        "--metrics", default=",".join(DEFAULT), metavar="NAMES", help="with commas; 'all' (default: %(default)s)"
    )
    parser.add_argument(
        "--extractor", default="digits", help=f"{', '.join(NAMES)} (default: %(default)s, for grey digits alone)"
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument(
        "--cache", metavar="DIR", help="keep features here; an interrupted run goes on, a second one reads them"
    )
    parser.add_argument("--out", metavar="JSON", help="write results and all settings to this file")
    parser.add_argument("--json", action="store_true", help="print the same instead of a table")
    parser.add_argument("--count", type=int, metavar="N", help="images of FAKE (default: all; 10000 of a checkpoint)")
    parser.add_argument("--resolution", type=int, metavar="N", help="crop and resize images of folders to N x N")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="of images of folders (default: as the first has)")
    parser.add_argument("--truncation", type=float, metavar="PSI", help="of a checkpoint's style-based generator")
    parser.add_argument("--no-ema", action="store_true", help="a checkpoint's last weights, not their average")
    parser.add_argument("--seed", type=int, default=0, help="of latents, subsets, splits, pairs (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, see below; more than once")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _settings(given: Sequence[str], seed: int) -> Settings:
    known = {f.name for f in dataclasses.fields(Settings)} - {"seed"}
    values: dict[str, Any] = {"seed": seed}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise ValueError(f"--set must be NAME=VALUE with one of {', '.join(sorted(known))}, got {text!r}")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    return Settings(**values)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this PyTorch sees no CUDA device")
    return device


def _run(given: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic()
    names, settings, device = metric_names(given.metrics), _settings(given.set, given.seed), _device(given.device)
    for option in ("batch", "count", "resolution"):
        value = getattr(given, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option} must be at least 1, got {value}")
    real, fake = open_pair(
        None if given.real == "-" else given.real, given.fake, resolution=given.resolution, channels=given.channels,
        count=given.count, seed=given.seed, truncation=given.truncation, ema=not given.no_ema, device=device,
    )  # fmt: skip
    evaluator = Evaluator(
        real, names, given.extractor, batch=given.batch, device=device, cache=given.cache,
        progress=not given.quiet, settings=settings,
    )  # fmt: skip
    values, about = evaluator.measured(fake)
    for side, path, opened in (("real", given.real, real), ("fake", given.fake, fake)):
        if isinstance(opened, Features) and about[side]:
            about[side]["name"] = path  # features do not know where they come from
    options = {k: getattr(given, k) for k in ("batch", "resolution", "channels", "truncation")}
    about["options"] = {**options, "ema": not given.no_ema, "device": str(device)}
    return {"metrics": values, **about, "seconds": round(time.monotonic() - started, 3)}


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """For JSON, which has no infinity: null (modes_kl, of a class that no real image has)."""
    return {**result, "metrics": {k: v if math.isfinite(v) else None for k, v in result["metrics"].items()}}


def _table(result: dict[str, Any]) -> str:
    lines = []
    for name, value in result["metrics"].items():
        if name.endswith("_std"):
            continue
        spread = result["metrics"].get(f"{name}_std")
        number = f"{value:.6g}" + ("" if spread is None else f" +- {spread:.2g}")
        lines.append(
            f"{name:16} {number:>22}   {METRICS[name].title}, {'lower' if METRICS[name].lower else 'higher'} is better"
        )
    sides = [f"{side}: {s['images']} images of {s['name']}" for side in ("real", "fake") if (s := result[side])]
    extractor = result["extractor"]
    return "\n".join([*lines, "", "; ".join(sides) + (f"; extractor {extractor['name']}" if extractor else "")])


def main(argv: Sequence[str]) -> int:
    """Run ``gankern metrics`` and give its exit code: 0 fine, 2 bad input, which one line on standard error names."""
    given = _parser().parse_args(argv)
    with warnings.catch_warnings():
        # One line each, without the place in the source that raised it.
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"gankern metrics: warning: {message}", file=sys.stderr)
        try:
            result = _run(given)
            if given.out:
                write_json(given.out, _plain(result))
        except (ValueError, TypeError, FileNotFoundError, ImportError, OSError) as error:
            print(f"gankern metrics: {error}", file=sys.stderr)
            return 2
    print(json.dumps(_plain(result), indent=1) if given.json else _table(result))
    return 0


__all__ = ["main"]
