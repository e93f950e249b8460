"""How cost grows: with batch, resolution, channels, taps and threads; memory over many steps; the time of an import.

``gankern bench --scaling`` measures the main operators and an R1 step at a base size and, one setting at a time, around it,
ours beside eager PyTorch in one run, and writes ``scaling.json``; ``gankern bench --report`` draws it.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import _dispatch, losses, ops
from gankern._files import write_json
from gankern._scopes import own_random
from gankern.bench import machine
from gankern.bench.common import BenchError, digits, seconds
from gankern.bench.timing import Budget, Contender, CpuClock, CudaClock, Race, no_garbage_collection
from gankern.models import FAMILIES, from_config

FORMAT = "gankern-scaling 1"
PARAMETERS = ("batch", "resolution", "channels", "taps")
BUDGETS = {"full": Budget(0.6, 3, 30, 2), "quick": Budget(0.0, 1, 1, 1, once=True)}
STEPS = {"full": 1000, "quick": 20}
IMPORTS = {"full": 5, "quick": 1}

Settings = dict[str, int]
Pair = tuple[Callable[[], Any], Callable[[], Any]]


@dataclass(frozen=True)
class Subject:
    """Something whose cost is measured.

    Attributes:
        title: for plots.
        make: settings, device and random numbers to (ours, eager).
        base: settings that do not vary.
        sweeps: parameter to its values.
    """

    title: str
    make: Callable[[Settings, torch.device, torch.Generator], Pair]
    base: Settings
    sweeps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def _op(name: str, arguments: Callable[..., dict[str, Any]]) -> Callable[[Settings, torch.device, torch.Generator], Pair]:
    """Forward of an operator, and of its reference, without gradients."""

    def make(s: Settings, device: torch.device, random: torch.Generator) -> Pair:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random).to(device)

        spec, kwargs = _dispatch.OPS[name], arguments(draw, **s)

        def call(function: Callable[..., Any]) -> Callable[[], Any]:
            def run() -> Any:
                with torch.no_grad():
                    return function(**kwargs)

            return run

        return call(spec.public), call(spec.reference)

    return make


Draw = Callable[..., Tensor]


def _taps(draw: Draw, count: int) -> Tensor:
    taps = 0.5 + draw(count).abs()
    return taps / taps.sum()


def _modulated_conv2d(draw: Draw, batch: int, resolution: int, channels: int, taps: int) -> dict[str, Any]:
    x, w = draw(batch, channels, resolution, resolution), draw(channels, channels, taps, taps)
    return {
        "x": x,
        "weight": w,
        "styles": 1 + draw(batch, channels),
        "padding": taps // 2,
        "bias": draw(channels),
        "act": "lrelu",
    }


def _upfirdn2d(draw: Draw, batch: int, resolution: int, channels: int, taps: int) -> dict[str, Any]:
    x, pad = draw(batch, channels, resolution, resolution), [(taps + 1) // 2, (taps - 2) // 2] * 2
    return {"x": x, "f": _taps(draw, taps), "up": 2, "padding": pad, "gain": 4}


def _bias_act(draw: Draw, batch: int, resolution: int, channels: int) -> dict[str, Any]:
    return {"x": draw(batch, channels, resolution, resolution), "b": draw(channels), "act": "lrelu"}


def _adain(draw: Draw, batch: int, resolution: int, channels: int) -> dict[str, Any]:
    factors = {name: draw(batch, channels) for name in ("scale", "shift")}
    return {"x": draw(batch, channels, resolution, resolution), **factors}


def _filtered_lrelu(draw: Draw, batch: int, resolution: int, channels: int, taps: int) -> dict[str, Any]:
    # As many taps up as down: the output has the size of the input.
    pad = [taps - 1, taps - 2] * 2
    filters = {name: _taps(draw, taps) for name in ("fu", "fd")}
    return {
        "x": draw(batch, channels, resolution, resolution),
        "b": draw(channels),
        "up": 2,
        "down": 2,
        "padding": pad,
        **filters,
    }


def _r1(s: Settings, device: torch.device, random: torch.Generator) -> Pair:
    """Loss and R1 of two convolutions with leaky ReLU between."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(device)

    c, k = s["channels"], s["taps"]
    x = draw(s["batch"], c, s["resolution"], s["resolution"]).requires_grad_()
    ws = [(draw(c, c, k, k) / (c * k * k) ** 0.5).requires_grad_() for _ in range(2)]
    b = draw(c).requires_grad_()

    def ours() -> Any:
        y = ops.bias_act(ops.conv2d(x, ws[0], padding=k // 2), b, act="lrelu")
        logits = ops.conv2d(y, ws[1], padding=k // 2).mean((1, 2, 3))
        return torch.autograd.grad(F.softplus(-logits).mean() + losses.r1_penalty(logits, x), [*ws, b])

    def eager() -> Any:
        y = F.leaky_relu(F.conv2d(x, ws[0], padding=k // 2) + b[:, None, None], 0.2) * 2**0.5
        logits = F.conv2d(y, ws[1], padding=k // 2).mean((1, 2, 3))
        (g,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        penalty = 5 * g.square().sum((1, 2, 3)).mean()
        return torch.autograd.grad(F.softplus(-logits).mean() + penalty, [*ws, b])

    return ours, eager


def _sizes(batch: int, resolution: int, channels: int, taps: int = 0) -> Settings:
    made = {"batch": batch, "resolution": resolution, "channels": channels}
    return {**made, "taps": taps} if taps else made


_CONV = {"batch": (1, 2, 4, 8), "resolution": (8, 16, 32, 64), "channels": (16, 32, 64, 128, 256), "taps": (1, 3, 5)}
_POINTWISE = {"batch": (1, 2, 4, 8), "resolution": (16, 32, 64, 128, 256), "channels": (8, 16, 32, 64, 128)}

SUBJECTS: dict[str, Subject] = {
    "modulated_conv2d": Subject("modulated_conv2d", _op("modulated_conv2d", _modulated_conv2d), _sizes(2, 32, 64, 3), _CONV),
    "upfirdn2d": Subject(
        "upfirdn2d, up 2", _op("upfirdn2d", _upfirdn2d), _sizes(2, 64, 32, 4), {**_POINTWISE, "taps": (2, 4, 8, 12, 24)}
    ),
    "bias_act": Subject("bias_act", _op("bias_act", _bias_act), _sizes(2, 128, 32), _POINTWISE),
    "adain": Subject("adain", _op("adain", _adain), _sizes(2, 128, 32), _POINTWISE),
    "filtered_lrelu": Subject(
        "filtered_lrelu, up 2, down 2", _op("filtered_lrelu", _filtered_lrelu), _sizes(1, 32, 32, 12),
        {"batch": (1, 2, 4), "resolution": (16, 32, 64, 128), "channels": (8, 16, 32, 64), "taps": (4, 8, 12, 16, 24)},
    ),
    "conv2d_r1": Subject("conv2d, R1 step", _r1, _sizes(2, 32, 32, 3), {**_CONV, "channels": (16, 32, 64, 128)}),
}  # fmt: skip
"""What is measured."""

QUICK = ("upfirdn2d", "conv2d_r1")
"""The subjects of a quick run, with the first two values of each parameter."""


def _point(subject: Subject, settings: Settings, device: torch.device, clock: Any, budget: Budget) -> dict[str, Any]:
    """Both sides at one size: medians and quartiles in seconds."""
    ours, eager = subject.make(settings, device, torch.Generator().manual_seed(0))
    race = Race([Contender("ours", ours), Contender("eager", eager)], clock, budget, device)
    race.warm_up()
    with no_garbage_collection():
        race.run()
    found: dict[str, Any] = {}
    for contender in race.contenders:
        stats = contender.stats()
        if stats is None:
            raise BenchError(f"--scaling: {subject.title}, {contender.name} at {settings}: {contender.failed}")
        found[contender.name] = {"median": stats.median, "q1": stats.q1, "q3": stats.q3, "rounds": stats.rounds}
    return found


def sweeps(mode: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """Every subject around its base, one parameter at a time, and on the CPU at its base with 1 and 2 threads."""
    clock: Any = CudaClock(device) if device.type == "cuda" else CpuClock()
    for name, subject in SUBJECTS.items():
        if mode == "quick" and name not in QUICK:
            continue
        for parameter in PARAMETERS:
            values = subject.sweeps.get(parameter, ())
            values = values[:2] if mode == "quick" else values
            if not values:
                continue
            points = [
                {"value": value, **_point(subject, {**subject.base, parameter: value}, device, clock, BUDGETS[mode])}
                for value in values
            ]
            yield {"subject": name, "title": subject.title, "base": subject.base, "parameter": parameter, "points": points}
        if device.type == "cpu":
            before = torch.get_num_threads()
            try:
                points = []
                for count in (1, 2):
                    torch.set_num_threads(count)
                    points.append({"value": count, **_point(subject, subject.base, device, clock, BUDGETS[mode])})
            finally:
                torch.set_num_threads(before)
            yield {"subject": name, "title": subject.title, "base": subject.base, "parameter": "threads", "points": points}


# ---- memory ------------------------------------------------------------------------------------------------------------
def resident() -> int | None:
    """Bytes of this process that are in memory, where the system tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory(steps: int, device: torch.device) -> dict[str, Any]:
    """Memory over the training of a small WGAN-GP: resident bytes, and bytes of tensors on a GPU, at 20 points.

    ``growth_per_step``: bytes a step from the middle to the end; what is allocated once (libraries, caches) is there by then.
    """
    with own_random(0, device):
        gan = from_config(FAMILIES["wgan-gp"].tiny).to(device).train()
        config: Any = gan.config
        optimizers = [torch.optim.Adam(network.parameters(), 1e-4) for network in (gan.discriminator, gan.generator)]
        real = torch.rand(4, config.channels, config.resolution, config.resolution, device=device) * 2 - 1
        points: list[dict[str, int | None]] = []
        every = max(1, steps // 20)
        for step in range(steps + 1):
            if step % every == 0:
                gc.collect()
                held = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
                points.append({"step": step, "resident": resident(), "allocated": held})
            if step < steps:
                _train(gan, optimizers, real)
    half = points[len(points) // 2 :]
    kind = "allocated" if device.type == "cuda" else "resident"
    first, last = half[0], half[-1]
    grown = None
    if first[kind] is not None and last[kind] is not None and last["step"] != first["step"]:
        grown = (last[kind] - first[kind]) / (last["step"] - first["step"])  # type: ignore[operator]
    return {"family": "wgan-gp", "steps": steps, "points": points, "growth_per_step": grown}


def _train(gan: Any, optimizers: list[torch.optim.Adam], real: Tensor) -> None:
    """A step of both networks."""
    fake = gan.generator(torch.randn(real.shape[0], gan.config.z_dim, device=real.device))
    loss = losses.adversarial("wasserstein")
    critic = loss.discriminator(gan.discriminator(real), gan.discriminator(fake.detach()))
    critic = critic + losses.wgan_gp(gan.discriminator, real, fake.detach())
    for total, optimizer, network in ((critic, optimizers[0], gan.discriminator), (None, optimizers[1], gan.generator)):
        total = loss.generator(gan.discriminator(fake)) if total is None else total
        parameters = list(network.parameters())
        for p, g in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
            p.grad = g
        optimizer.step()


# ---- import ------------------------------------------------------------------------------------------------------------
def imports(repeats: int) -> dict[str, Any]:
    """CPU seconds of ``import torch`` and of ``import gankern`` after it, each in a process of its own: medians."""
    code = "import time, torch; t = time.process_time(); import gankern; print(t, time.process_time() - t)"
    found = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
        found.append([float(word) for word in done.stdout.split()])
    torch_seconds, own = (statistics.median(column) for column in zip(*found, strict=True))
    return {"torch": torch_seconds, "gankern": own, "repeats": repeats}


# ---- all ---------------------------------------------------------------------------------------------------------------
def run(out: Path, mode: str, device: torch.device, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure everything and write it; the file is rewritten whole after every part.

    Args:
        out: the JSON file.
        mode: 'full', or 'quick' for one round of a few sizes.
        device: where.
        say: is given a line for every part.

    Raises:
        BenchError: the file cannot be written.
    """
    data: dict[str, Any] = {
        "format": FORMAT, "mode": mode, "complete": False, "machine": machine.facts(device), "sweeps": [], "memory": None,
        "imports": None,
    }  # fmt: skip

    def save() -> None:
        try:
            write_json(out, data)
        except OSError as error:
            raise BenchError(f"cannot write {out}: {error.strerror}") from error

    save()
    for sweep in sweeps(mode, device):
        data["sweeps"].append(sweep)
        save()
        times = ", ".join(
            f"{p['value']}: {seconds(p['ours']['median'])} ({digits(p['eager']['median'] / p['ours']['median'])}x)"
            for p in sweep["points"]
        )
        say(f"{sweep['title']}, {sweep['parameter']} {times}")
    data["memory"] = memory(STEPS[mode], device)
    grown = data["memory"]["growth_per_step"]
    shown = "not known here" if grown is None else f"{grown:.0f} bytes a step in the second half"
    say(f"memory over {STEPS[mode]} steps: grows by {shown}")
    save()
    data["imports"] = imports(IMPORTS[mode])
    say(f"import: torch {seconds(data['imports']['torch'])}, then gankern {seconds(data['imports']['gankern'])}")
    data["complete"] = True
    save()
    return data
