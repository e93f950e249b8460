"""``gankern train``: train a GAN from the shell."""

from __future__ import annotations

import argparse
import ast
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from gankern.losses.adversarial import LOSSES
from gankern.models import FAMILIES
from gankern.train.settings import OPTIMIZERS, PENALTIES, Settings

_EPILOG = """examples:
  gankern train --model dcgan --data digits --out runs/digits
  gankern train --model stylegan2-256 --data photos/cats --flip --batch 16 --autocast bf16 --channels-last --out runs/cats
  gankern train --resume --out runs/cats --steps 50000
  torchrun --nproc-per-node 2 -m gankern train --model dcgan --data digits --out runs/two"""


def _value(text: str) -> Any:
    """A Python literal, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name.strip().replace("-", "_"), _value(value)


def _betas(text: str) -> tuple[float, float]:
    parts = text.replace(",", " ").split()
    try:
        first, second = (float(p) for p in parts)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be two numbers, as 0,0.99, got {text!r}") from error
    return first, second


def _parser() -> argparse.ArgumentParser:
    # Only what is given reaches the settings: all else is Settings' default, or the earlier run's.
    parser = argparse.ArgumentParser(
        prog="gankern train",
        description="Train a GAN on real images. What is not given is as in the model's paper.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--model", metavar="NAME", help=f"a preset (gankern models) or a family: {', '.join(FAMILIES)} (default: dcgan)"
    )
    run.add_argument("--data", metavar="digits|photos|FOLDER", help="images (default: digits)")
    run.add_argument("--out", metavar="DIR", required=True, help="folder for checkpoints, grids, curves and results")
    run.add_argument("--steps", type=int, metavar="N", help="steps in all (default: 1000)")
    run.add_argument("--batch", type=int, metavar="N", help="images of a step, over all processes")
    run.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, with its settings where none are given"
    )
    run.add_argument("--ops", choices=("fused", "reference"), help="gankern's operators or plain PyTorch (default: fused)")
    run.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 or auto (default: auto)")
    run.add_argument("--seed", type=int, metavar="N", help="of everything random (default: 0)")
    run.add_argument(
        "--set",
        type=_pair,
        action="append",
        metavar="NAME=VALUE",
        help="a setting of the model, as resolution=32; again for more",
    )
    run.add_argument("--classes", action="store_true", help="train with the data's classes, where the model can")
    run.add_argument("--flip", action="store_true", help="mirror half of the images")
    loss = parser.add_argument_group("objective")
    loss.add_argument("--loss", choices=tuple(LOSSES))
    loss.add_argument(
        "--loss-option", type=_pair, action="append", metavar="NAME=VALUE", help="as smoothing=0.1, label_noise=0.05"
    )
    loss.add_argument(
        "--penalty", type=_pair, action="append", metavar="NAME=WEIGHT", help=f"one of {', '.join(PENALTIES)}; 0 for none"
    )
    loss.add_argument("--r1", type=float, metavar="GAMMA", help="R1 penalty; short for --penalty r1=GAMMA")
    loss.add_argument("--r2", type=float, metavar="GAMMA", help="R2 penalty")
    loss.add_argument("--wgan-gp", type=float, metavar="WEIGHT", help="WGAN-GP's penalty")
    loss.add_argument("--path-length", type=float, metavar="WEIGHT", help="path length regularisation (style-based generators)")
    loss.add_argument("--clip", type=float, metavar="LIMIT", help="keep the critic's weights within plus and minus this")
    loss.add_argument("--r1-every", type=int, metavar="N", help="R1 and R2 in every N-th step, N times the weight")
    loss.add_argument("--path-length-every", type=int, metavar="N", help="the same for path length")
    loss.add_argument("--style-mixing", type=float, metavar="P", help="probability of mixing two styles")
    optimizer = parser.add_argument_group("optimizer")
    optimizer.add_argument("--optimizer", choices=OPTIMIZERS)
    optimizer.add_argument("--lr", type=float, metavar="RATE", help="learning rate (of both networks, without --lr-d)")
    optimizer.add_argument("--lr-d", type=float, metavar="RATE", help="the discriminator's")
    optimizer.add_argument("--betas", type=_betas, metavar="B1,B2", help="of Adam; the first is SGD's momentum")
    optimizer.add_argument(
        "--lr-decay", type=float, metavar="SHARE", help="share of the steps after which rates fall to 0; 1: never"
    )
    optimizer.add_argument("--n-critic", type=int, metavar="N", help="discriminator steps for each of the generator")
    optimizer.add_argument("--n-generator", type=int, metavar="N", help="generator steps for these (default: 1)")
    optimizer.add_argument(
        "--unrolled", type=int, metavar="N", help="steps that the discriminator is ahead in the generator's loss"
    )
    optimizer.add_argument(
        "--pool", type=int, metavar="N", help="earlier generated images kept for the discriminator (cyclegan)"
    )
    optimizer.add_argument(
        "--ema", type=float, metavar="KIMG", help="half-life of the averaged generator, thousands of images; 0: none"
    )
    optimizer.add_argument("--no-grow", dest="grow", action="store_false", help="train progan at its full size from the start")
    speed = parser.add_argument_group("speed")
    speed.add_argument("--autocast", choices=("bf16", "off"), help="bfloat16 in the networks")
    speed.add_argument("--channels-last", action="store_true", help="NHWC memory")
    record = parser.add_argument_group("record")
    record.add_argument("--log-every", type=int, metavar="N", help="losses (default: every 10 steps)")
    record.add_argument("--sample-every", type=int, metavar="N", help="a grid (default: every 500 steps; 0: the last alone)")
    record.add_argument("--sample-count", type=int, metavar="N", help="images in it (default: 64)")
    record.add_argument(
        "--checkpoint-every", type=int, metavar="N", help="a checkpoint (default: every 500 steps; 0: first and last)"
    )
    record.add_argument("--metric", metavar="NAMES", help="metrics, as frechet,kernel; the first one decides what is best")
    record.add_argument("--metric-every", type=int, metavar="N", help="compute them (default: at the end)")
    record.add_argument("--metric-images", type=int, metavar="N", help="images on each side (default: 1000)")
    record.add_argument("--extractor", metavar="NAME", help="of features, as for gankern metrics (default: digits or pixels)")
    record.add_argument("--tensorboard", action="store_true", help="write TensorBoard's files, too")
    record.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    return parser


def parse(argv: Sequence[str]) -> Settings:
    """The settings that a command line asks for.

    Raises:
        ValueError: a setting that cannot be.
        SystemExit: options that do not exist, or --help.
    """
    given = vars(_parser().parse_args(argv))
    for option, name in (("set", "set"), ("loss_option", "loss_options"), ("penalty", "penalties")):
        if option in given:
            given[name] = dict(given.pop(option))
    for name in ("r1", "r2", "wgan_gp", "path_length", "clip"):
        if name in given:
            given.setdefault("penalties", {})[name] = given.pop(name)
    if "metric" in given:
        from gankern.metrics import metric_names

        given["metric"] = metric_names(given["metric"])
    if given.get("autocast") == "off":
        given["autocast"] = None
    base: dict[str, Any] = {}
    if given.get("resume"):
        from gankern.train.run import stored_settings

        try:
            base = stored_settings(given["out"]).to_dict()
        except FileNotFoundError:
            print(f"gankern train: no run in {given['out']!r} to go on with: a new one begins", file=sys.stderr)
    for name in ("set", "loss_options", "penalties"):
        if name in given and base.get(name) and given.get("model", base["model"]) == base["model"]:
            given[name] = {**base[name], **given[name]}
    if "lr" in given and "lr_d" not in given:
        base.pop("lr_d", None)
    return Settings(**{**base, **given})


def main(argv: Sequence[str]) -> int:
    """Run ``gankern train`` and give its exit code: 0 trained, 1 stopped by NaN, 2 wrong usage, 130 interrupted."""
    from gankern.train.loop import train

    try:
        settings = parse(argv)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            result = train(settings)
    except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
        print(f"gankern train: {error}", file=sys.stderr)
        return 2
    if settings.progress and _first():
        print(f"{result.step} steps: {result.samples}, {result.checkpoint}", file=sys.stderr)
    return {"nan": 1, "interrupted": 130}.get(result.stopped or "", 0)


def _first() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


__all__ = ["main", "parse"]
