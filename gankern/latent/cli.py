"""``gankern latent``: interpolation, style mixing, truncation, arithmetic, directions and projection from the shell."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import latent, models
from gankern._files import replacing
from gankern._optional import optional
from gankern.data import transforms
from gankern.data.folders import CorruptImage, decode
from gankern.data.images import VIDEO_SUFFIXES, make_grid, save_frames, save_image
from gankern.models import LatentGenerator, StyleGenerator

FRAMES = 24
"""Of an animation from one strength to another."""
LARGEST_COMPARED = 256
"""Height and width at which a perceptual distance sees images (Karras et al. 2020, appendix D)."""


# ---- values from the shell --------------------------------------------------------------------------------------------------
def _numbers(text: str) -> list[int]:
    """'0-3,7' as 0, 1, 2, 3, 7."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            found += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError:
            raise argparse.ArgumentTypeError(f"numbers and ranges, as 0-3,7, are accepted, got {text!r}") from None
    if not found:
        raise argparse.ArgumentTypeError(f"at least one number, as 0-3,7, is needed, got {text!r}")
    return found


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"NAME=VALUE is accepted, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    source = common.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint", metavar="FILE", help="a checkpoint of gankern train; its averaged weights, if it has some"
    )
    source.add_argument("--model", metavar="PRESET", help="a model with random weights, to try things out (gankern models)")
    common.add_argument("--out", required=True, metavar="FILE", help=".png (a grid), .gif or .mp4 (an animation)")
    common.add_argument("--set", action="append", type=_setting, default=[], metavar="NAME=VALUE", help="setting of --model")
    common.add_argument("--raw", action="store_true", help="the trained weights of --checkpoint instead of the averaged ones")
    common.add_argument("--ops", choices=["fused", "reference"], default="fused", help="default: fused")
    common.add_argument("--device", default="cpu", help="default: cpu")
    common.add_argument("--seed", type=int, default=0, help="of --model's weights and of project. Default: 0")
    common.add_argument("--class", dest="label", type=int, metavar="N", help="class of the images, where there are classes")
    common.add_argument("--truncation", type=float, default=1.0, metavar="PSI", help="of w. Default: 1, none")
    common.add_argument("--batch", type=int, default=16, help="images at a time. Default: 16")
    common.add_argument("--scale", type=int, default=1, metavar="N", help="pixels a side that each pixel becomes. Default: 1")
    common.add_argument("--fps", type=float, default=24.0, help="of animations. Default: 24")

    parser = argparse.ArgumentParser(
        prog="gankern latent",
        description="Explore the latent space of a generator. Latents are told by the seeds that draw them: 0-3,7.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[common], help=text, description=text[0].upper() + text[1:] + ".")

    def option(to: argparse.ArgumentParser, name: str, text: str, **settings: Any) -> None:
        default = settings.get("default")
        shown = (" " if "nargs" in settings else ",").join(map(str, default)) if isinstance(default, list) else default
        to.add_argument(name, help=text if default is None else f"{text}. Default: {shown}", **settings)

    seeds: dict[str, Any] = {"type": _numbers, "metavar": "SEEDS"}
    layers: dict[str, Any] = {"type": _numbers, "metavar": "LAYERS"}
    strengths: dict[str, Any] = {"type": float, "nargs": "+", "metavar": "S", "default": [-3.0, -1.5, 0.0, 1.5, 3.0]}

    p = command("interpolate", "images on the way from latent to latent")
    option(p, "--seeds", "latents to pass through", default=[0, 1, 2, 3], **seeds)
    option(p, "--frames", "steps from each to the next", type=int, default=8)
    option(p, "--space", "default: w where there is one, else z", choices=["z", "w"])
    option(p, "--method", "default: slerp in z, lerp in w", choices=["lerp", "slerp"])
    p.add_argument("--loop", action="store_true", help="go on from the last latent to the first")

    p = command("mix", "the grid of style mixing: rows' images with some of the columns' styles")
    option(p, "--rows", "latents of the rows", default=[0, 1, 2], **seeds)
    option(p, "--columns", "latents of the columns", default=[10, 11, 12, 13], **seeds)
    option(p, "--layers", "layers that take the columns' styles, 0 is the coarsest. Default: the second half", **layers)

    p = command("truncate", "the same latents, truncated more and more")
    option(p, "--seeds", "latents, a row each", default=[0, 1, 2, 3], **seeds)
    option(p, "--truncations", "values of psi, a column each", type=float, nargs="+", default=[1.0, 0.7, 0.5, 0.0, -0.5, -1.0])
    option(p, "--cutoff", "how many layers, from the coarsest on, are truncated. Default: all", type=int)
    option(p, "--frames", "of an animation from the first to the last", type=int, default=FRAMES)

    p = command("arithmetic", "sums and differences of latents' means, or a direction from examples applied to others")
    p.add_argument("--plus", action="append", default=[], **seeds, help="a set whose mean is added; may be given again")
    p.add_argument("--minus", action="append", default=[], **seeds, help="a set whose mean is subtracted; may be given again")
    option(p, "--positive", "examples with an attribute (with --negative: instead of --plus)", **seeds)
    option(p, "--negative", "examples without it", **seeds)
    option(p, "--seeds", "latents to be moved along the direction, a row each", default=[0, 1, 2, 3], **seeds)
    option(p, "--strengths", "how far, a column each, in standard deviations of the latents along the direction", **strengths)
    option(p, "--method", "of the direction", choices=["mean", "svm"], default="mean")
    option(p, "--space", "default: w where there is one, else z", choices=["z", "w"])
    option(p, "--frames", "of an animation from the first to the last strength", type=int, default=FRAMES)

    p = command("sefa", "directions that the weights alone tell (SeFa), applied to latents")
    option(
        p, "--directions", "numbers of the directions, 0 is the strongest", default=[0, 1, 2], **layers | {"metavar": "NUMBERS"}
    )
    option(p, "--seeds", "latents, a row for each direction and latent", default=[0, 1], **seeds)
    option(p, "--strengths", "how far, a column each, in standard deviations of the latents along the direction", **strengths)
    option(p, "--layers", "layers that are looked at and moved. Default: all", **layers)
    option(p, "--frames", "of an animation from the first to the last strength", type=int, default=FRAMES)

    p = command("project", "the latent whose image comes closest to a given one")
    p.add_argument("image", help="the image file; its middle is cut out and resized")
    option(p, "--steps", "of the optimiser", type=int, default=1000)
    option(p, "--space", "one w for all layers, or each its own", choices=["w", "w+"], default="w")
    option(p, "--lr", "largest learning rate", type=float, default=0.1)
    option(
        p,
        "--perceptual",
        "'lpips' (package lpips), or MODULE:NAME of a function that makes a distance module. Default: pixels alone",
    )
    option(p, "--pixel-weight", "of the squared difference. Default: 1, or 0 with --perceptual", type=float)
    option(p, "--noise-weight", "of the noise penalty", type=float, default=1e5)
    p.add_argument("--no-noise", action="store_true", help="leave the layers' noise as it is")
    option(p, "--save", "keep w and noise in a file for torch.load", metavar="FILE.pt")
    option(p, "--every", "steps from frame to frame of an animation", type=int, default=10)
    return parser


# ---- what the commands share ------------------------------------------------------------------------------------------------
def _generator(given: argparse.Namespace) -> LatentGenerator:
    generator: Any
    if given.checkpoint is not None:
        if given.set:
            raise ValueError("--set changes --model; a checkpoint has its own settings")
        checkpoint = models.load_checkpoint(given.checkpoint, given.ops, given.device)
        generator = checkpoint.gan.generator
        if checkpoint.ema is not None and not given.raw:
            generator.load_state_dict(checkpoint.ema)
    else:
        torch.manual_seed(given.seed)
        generator = models.from_config(given.model, given.ops, **dict(given.set)).generator.to(given.device)
        print(f"gankern latent: {given.model} has random weights: this is a trial", file=sys.stderr)
    if not isinstance(generator, LatentGenerator):
        raise TypeError(f"{generator.config.family} makes images from images: it has no latent space")
    return generator


def _style(generator: LatentGenerator, command: str) -> StyleGenerator:
    if not isinstance(generator, StyleGenerator):
        raise TypeError(f"{command} needs w, which StyleGAN, 2 and 3 have; this is {generator.config.family}")
    return generator


def _is_video(out: str) -> bool:
    return Path(out).suffix.lower() in VIDEO_SUFFIXES


def _check_out(out: str) -> None:
    """Before anything is computed: a name that can be written."""
    suffix = Path(out).suffix.lower()
    if suffix not in (".png", *VIDEO_SUFFIXES):
        raise ValueError(f"--out must end with .png, .gif or .mp4, got {out!r}")
    if suffix == ".mp4":
        optional("imageio_ffmpeg", "MP4 is written with imageio: pip install imageio imageio-ffmpeg; .gif needs neither")


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"--device must be a device of PyTorch, as cpu or cuda:0, got {device!r}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: PyTorch sees no GPU here")


def _values(given: argparse.Namespace, values: list[float]) -> list[float]:
    """Those of a grid as they are; of an animation, as many as frames from the first to the last."""
    return torch.linspace(values[0], values[-1], given.frames).tolist() if _is_video(given.out) else values


def _grid(given: argparse.Namespace, images: Tensor, columns: int | None = None) -> Tensor:
    """A grid of images, enlarged as asked for."""
    return make_grid(images.repeat_interleave(given.scale, -1).repeat_interleave(given.scale, -2), columns)


def _write_sweep(given: argparse.Namespace, images: Tensor) -> str:
    """Images [N, S, ...]: a grid with a row for each N, or an animation along S and back."""
    n, s = images.shape[:2]
    if not _is_video(given.out):
        save_image(given.out, _grid(given, images.flatten(0, 1), s))
        return f"{n} x {s} images"
    frames = [_grid(given, images[:, i]) for i in range(s)]
    save_frames(given.out, frames + frames[-2:0:-1], given.fps)
    return f"{2 * s - 2 if s > 1 else 1} frames of {n} images"


# ---- the commands -----------------------------------------------------------------------------------------------------------
def _interpolate(given: argparse.Namespace, generator: LatentGenerator) -> str:
    images = latent.interpolate(
        generator, latent.draw_latents(generator, given.seeds), given.frames, space=given.space, method=given.method,
        labels=given.label, truncation=given.truncation, loop=given.loop, batch=given.batch,
    )  # fmt: skip
    if _is_video(given.out):
        save_frames(given.out, (_grid(given, x[None]) for x in images), given.fps)
        return f"{len(images)} frames"
    # A row for each way, with both ends.
    rows = torch.arange(0, len(images) if given.loop else len(images) - 1, given.frames)[:, None]
    numbers = (rows + torch.arange(given.frames + 1)) % len(images)
    save_image(given.out, _grid(given, images[numbers.flatten()], given.frames + 1))
    return f"{len(rows)} ways of {given.frames} steps, a row each"


def _mix(given: argparse.Namespace, generator: LatentGenerator) -> str:
    style = _style(generator, "mix")
    rows, columns = (latent.draw_latents(style, s) for s in (given.rows, given.columns))
    if not _is_video(given.out):
        grid = latent.mix_styles(
            style, rows, columns, given.layers, labels=given.label, truncation=given.truncation, batch=given.batch
        )
        save_image(given.out, _grid(given, grid.flatten(0, 1), grid.shape[1]))
        return f"{len(rows)} x {len(columns)} mixtures"
    if given.layers is not None:
        raise ValueError("--layers is for a grid; an animation shows every crossover")
    frames = []
    for crossover in range(style.num_ws - 1, -1, -1):
        grid = latent.mix_styles(
            style, rows, columns, range(crossover, style.num_ws), labels=given.label, truncation=given.truncation,
            batch=given.batch,
        )  # fmt: skip
        frames.append(_grid(given, grid.flatten(0, 1), grid.shape[1]))
    save_frames(given.out, frames, given.fps)
    return f"{len(frames)} frames of {len(rows)} x {len(columns)} mixtures, from the finest layer to all"


def _truncate(given: argparse.Namespace, generator: LatentGenerator) -> str:
    style = _style(generator, "truncate")
    images = latent.truncation_sweep(
        style, latent.draw_latents(style, given.seeds), _values(given, given.truncations), labels=given.label,
        truncation_cutoff=given.cutoff, batch=given.batch,
    )  # fmt: skip
    return _write_sweep(given, images)


def _space(given: argparse.Namespace, generator: LatentGenerator) -> tuple[str, Callable[[Sequence[int]], Tensor]]:
    """The space to work in, and seeds to latents of it."""
    style = isinstance(generator, StyleGenerator)
    space = given.space or ("w" if style else "z")

    def latents(seeds: Sequence[int]) -> Tensor:
        z = latent.draw_latents(generator, seeds)
        return z if space == "z" else latent.map_latents(_style(generator, "space w"), z, given.label, given.truncation)

    return space, latents


def _arithmetic(given: argparse.Namespace, generator: LatentGenerator) -> str:
    space, latents = _space(given, generator)
    labels = given.label if space == "z" else None
    examples = given.positive is not None or given.negative is not None
    if examples == bool(given.plus or given.minus):
        raise ValueError("arithmetic needs --plus (and --minus) seeds, or --positive and --negative ones")
    if examples:
        if given.positive is None or given.negative is None:
            raise ValueError("--positive and --negative must be given both")
        direction = latent.attribute_direction(latents(given.positive), latents(given.negative), given.method)
        unit = latent.deviation(generator, direction, space=space, labels=given.label)
        images = latent.edit(
            generator, latents(given.seeds), unit * direction, _values(given, given.strengths), space=space, labels=labels,
            batch=given.batch,
        )  # fmt: skip
        return _write_sweep(given, images)
    if _is_video(given.out):
        raise ValueError("--out must be a .png for sums of latents")
    plus, minus = ([latents(s) for s in sets] for sets in (given.plus, given.minus))
    terms = [x.mean(0) for x in (*plus, *minus)] + [latent.latent_arithmetic(plus, minus)]
    points = torch.stack(terms)
    if space == "w":
        images = latent.render(generator, w=points, batch=given.batch)
    else:
        images = latent.render(generator, points, labels, batch=given.batch)
    save_image(given.out, _grid(given, images, len(images)))
    return f"the means of {len(plus)} sets added and {len(minus)} subtracted, and the result"


def _sefa(given: argparse.Namespace, generator: LatentGenerator) -> str:
    style = _style(generator, "sefa")
    directions, values = latent.sefa(style, max(given.directions) + 1, given.layers)
    w = latent.map_latents(style, latent.draw_latents(style, given.seeds), given.label, given.truncation)
    strengths = _values(given, given.strengths)
    rows = []
    for direction in directions[given.directions]:
        unit = latent.deviation(style, direction, labels=given.label)
        rows.append(latent.edit(style, w, unit * direction, strengths, layers=given.layers, batch=given.batch))
    shown = ", ".join(f"{i} ({values[i]:.3g})" for i in given.directions)
    return _write_sweep(given, torch.cat(rows)) + f"; directions and eigenvalues: {shown}"


def _perceptual(given: argparse.Namespace) -> Callable[[Tensor, Tensor], Tensor] | None:
    if given.perceptual is None:
        return None
    if given.perceptual == "lpips":
        lpips = optional("lpips", "--perceptual lpips needs the package lpips, which is not installed: pip install lpips")
        network: Any = lpips.LPIPS(net="vgg", verbose=False)
    else:
        module, colon, name = given.perceptual.partition(":")
        if not colon:
            raise ValueError(f"--perceptual must be 'lpips' or MODULE:NAME, got {given.perceptual!r}")
        try:
            network = getattr(importlib.import_module(module), name)()
        except (ImportError, AttributeError) as error:
            raise ValueError(f"--perceptual: no {name!r} in the module {module!r}: {error}") from error
    if isinstance(network, torch.nn.Module):
        network = network.to(given.device).eval().requires_grad_(False)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        a, b = (transforms.to_channels(x, 3) for x in (a, b))
        if a.shape[-1] > LARGEST_COMPARED:
            a, b = (F.interpolate(x, size=(LARGEST_COMPARED, LARGEST_COMPARED), mode="area") for x in (a, b))
        return network(a, b)

    return distance


def _project(given: argparse.Namespace, generator: LatentGenerator) -> str:
    style = _style(generator, "project")
    channels, size, _ = style.image_shape
    try:
        pixels = transforms.to_channels(decode(given.image), channels)
    except CorruptImage as error:
        raise ValueError(f"{given.image!r} cannot be read: {error}") from error
    target = transforms.to_float(transforms.center_crop(transforms.resize_short_side(pixels, size), size))[None]
    if given.every < 1:
        raise ValueError(f"--every must be at least 1, got {given.every}")
    frames: list[Tensor] = []

    def note(step: int, distance: float, image: Tensor) -> None:
        if _is_video(given.out) and step % given.every == 0:
            frames.append(_grid(given, torch.cat([target, image.cpu()])))
        if step % max(given.steps // 10, 1) == 0:
            print(f"step {step} of {given.steps}: distance {distance:.4g}", file=sys.stderr)

    found = latent.project(
        style, target, steps=given.steps, space=given.space, perceptual=_perceptual(given), pixel_weight=given.pixel_weight,
        optimise_noise=not given.no_noise, noise_weight=given.noise_weight, lr=given.lr, labels=given.label, seed=given.seed,
        callback=note,
    )  # fmt: skip
    last = _grid(given, torch.cat([target, found.image]))
    if _is_video(given.out):
        save_frames(given.out, [*frames, last], given.fps)
    else:
        save_image(given.out, last)
    if given.save is not None:
        with replacing(given.save) as temporary:
            torch.save({"w": found.w.cpu(), "noise": {n: x.cpu() for n, x in found.noise.items()}}, temporary)
    difference = (found.image - target).square().mean().item()
    return f"target and projection, mean squared difference {difference:.4g}"


_COMMANDS: dict[str, Callable[[argparse.Namespace, LatentGenerator], str]] = {
    "interpolate": _interpolate,
    "mix": _mix,
    "truncate": _truncate,
    "arithmetic": _arithmetic,
    "sefa": _sefa,
    "project": _project,
}


def main(argv: Sequence[str]) -> int:
    """Run ``gankern latent`` and give its exit code: 0 fine, 2 wrong usage."""
    given = _parser().parse_args(argv)
    try:
        _check_out(given.out)
        _check_device(given.device)
        for name in ("frames", "scale"):
            if getattr(given, name, 1) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(given, name)}")
        if given.command == "project" and not os.path.isfile(given.image):
            raise FileNotFoundError(f"no image {given.image!r}")
        text = _COMMANDS[given.command](given, _generator(given))
    except (FileNotFoundError, FloatingPointError, ImportError, TypeError, ValueError) as error:
        print(f"gankern latent: {error}", file=sys.stderr)
        return 2
    print(f"{given.out}: {text}")
    return 0


__all__ = ["main"]
