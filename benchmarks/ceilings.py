"""What this machine can do at all, measured first: copies, matrix products, convolutions and their double backward.

``python -m benchmarks.ceilings [--out FILE.json] [--device cpu|cuda] [--seconds N]`` prints each number as it is
measured and, with --out, keeps them all in the 'ceilings' section of that result file. On a GPU at the shapes of
StyleGAN2-1024; on the CPU at tiny shapes, which only show that the script works.

Convolutions are bfloat16 in channels_last, forward, gradient of the input (dgrad), gradient of the weight (wgrad), and
transposed with stride 2. The goals of modulated convolution assume that cuDNN reaches 80, 70, 50 and 27 % of the matrix
rate at 256+, 128, 64 and 32 channels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from gankern.bench import machine
from gankern.bench.common import BenchError, first_line
from gankern.bench.results import add_section
from gankern.bench.timing import Budget, Contender, CpuClock, CudaClock, Race, no_garbage_collection

BUDGET = Budget(0.15, 3, 40, 3)

# (batch, channels, resolution): StyleGAN2-1024, channel_base 32768.
CONVOLUTIONS = {
    "cuda": [(n, c, r) for n in (1, 8) for c, r in ((512, 16), (512, 64), (256, 128), (128, 256), (64, 512), (32, 1024))],
    "cpu": [(1, 8, 16), (1, 4, 32)],
}
# (batch, channels, resolution, groups): the second-order weight gradient, which PyTorch makes a convolution with an
# image-sized filter.
DOUBLE_BACKWARD = {
    "cuda": [(8, 32, 1024, 1), (8, 64, 256, 1), (8, 768, 32, 96)],
    "cpu": [(1, 4, 16, 1), (1, 8, 8, 4)],
}


@dataclass(frozen=True)
class Item:
    """One measured number."""

    name: str
    value: float
    unit: str
    median: float

    def __str__(self) -> str:
        return f"{self.name:58s} {self.value:9.4g} {self.unit:8s} ({1e3 * self.median:.4g} ms)"


class Bench:
    """Measures calls on a device, each alone, and turns times into numbers."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.clock: Any = CudaClock(device) if device.type == "cuda" else CpuClock()

    def median(self, call: Callable[[], Any]) -> float:
        """Median seconds of a call."""
        contender = Contender("call", call)
        race = Race([contender], self.clock, BUDGET, self.device)
        race.warm_up()
        with no_garbage_collection():
            race.run()
        stats = contender.stats()
        assert stats is not None
        return stats.median

    def random(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """Random numbers: zeros would run faster than real data."""
        value = torch.randn(shape, device=self.device).to(dtype)
        return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def copies(bench: Bench) -> Iterator[Item]:
    """Copies with and without a fresh output, bytes read plus bytes written."""
    sizes = (2**26, 2**29, 2**31) if bench.device.type == "cuda" else (2**22, 2**26)
    for size in sizes:
        x = torch.empty(size, dtype=torch.uint8, device=bench.device).random_()
        y = torch.empty_like(x)
        for name, call in ((f"copy {size >> 20} MiB", lambda x=x, y=y: y.copy_(x)), (f"clone {size >> 20} MiB", x.clone)):
            median = bench.median(call)
            yield Item(name, 2 * size / median / 1e9, "GB/s", median)


def products(bench: Bench) -> Iterator[Item]:
    """Large matrix products."""
    size = 8192 if bench.device.type == "cuda" else 256
    for dtype in (torch.bfloat16, torch.float32):
        a, b = bench.random(size, size, dtype=dtype), bench.random(size, size, dtype=dtype)
        median = bench.median(lambda a=a, b=b: a @ b)
        yield Item(f"matmul {size} {str(dtype).removeprefix('torch.')}", 2 * size**3 / median / 1e12, "TFLOP/s", median)


def convolutions(bench: Bench) -> Iterator[Item]:
    """3x3 convolutions: forward, dgrad, wgrad, transposed."""
    for n, c, r in CONVOLUTIONS[bench.device.type]:
        x, w, dy = bench.random(n, c, r, r), bench.random(c, c, 3, 3), bench.random(n, c, r, r)
        small = bench.random(n, c, r // 2, r // 2)
        flops = 2 * n * c * c * 9 * r * r

        def gradient(mask: list[bool], x: Any = x, w: Any = w, dy: Any = dy) -> Any:
            return torch.ops.aten.convolution_backward(dy, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)

        for name, call, share in (
            ("forward", lambda x=x, w=w: F.conv2d(x, w, padding=1), 1.0),
            ("dgrad", lambda gradient=gradient: gradient([True, False, False]), 1.0),
            ("wgrad", lambda gradient=gradient: gradient([False, True, False]), 1.0),
            ("transposed, stride 2", lambda s=small, w=w: F.conv_transpose2d(s, w, stride=2), 0.25),
        ):
            with torch.no_grad():
                median = bench.median(call)
            yield Item(f"conv 3x3 {c} ch {r}^2 batch {n} {name}", share * flops / median / 1e12, "TFLOP/s", median)


def double_backwards(bench: Bench) -> Iterator[Item]:
    """Second-order weight gradient: PyTorch's own against ``convolution_backward`` with the same result."""
    for n, c, r, groups in DOUBLE_BACKWARD[bench.device.type]:
        x = bench.random(n, c, r, r).requires_grad_()
        w = bench.random(c, c // groups, 3, 3).requires_grad_()
        dy, v = bench.random(n, c, r, r), bench.random(n, c, r, r)
        (dx,) = torch.autograd.grad(F.conv2d(x, w, padding=1, groups=groups), x, dy, create_graph=True)
        native = bench.median(lambda dx=dx, w=w, v=v: torch.autograd.grad(dx, w, v, retain_graph=True))

        def proper(v: Any = v, w: Any = w, dy: Any = dy, groups: int = groups) -> Any:
            mask = [False, True, False]
            return torch.ops.aten.convolution_backward(dy, v, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], groups, mask)

        with torch.no_grad():
            direct = bench.median(proper)
        name = f"double-backward wgrad {c} ch {r}^2 batch {n} groups {groups}"
        yield Item(f"{name}, native over direct", native / direct, "x", native)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and keep; 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ceilings", description="What this machine can do at all.")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="result file whose 'ceilings' section is written")
    parser.add_argument("--device", metavar="cpu|cuda", help="default: cuda where there is a GPU")
    parser.add_argument("--seconds", type=float, default=60.0, help="start nothing new after this long (default: 60)")
    arguments = parser.parse_args(argv)
    try:
        device = machine.device(arguments.device)
    except BenchError as error:
        print(f"ceilings: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    facts = machine.facts(device)
    section: dict[str, Any] = {"date": facts["date"], "commit": facts["commit"], "complete": False, "items": [], "failed": []}

    def keep() -> None:
        if arguments.out is not None:
            add_section(arguments.out, "ceilings", section, facts)

    bench = Bench(device)
    in_time = True
    for part in (copies, products, convolutions, double_backwards):
        try:
            for item in part(bench):
                print(item, flush=True)
                section["items"].append({"name": item.name, "value": item.value, "unit": item.unit, "median": item.median})
                keep()
                in_time = time.monotonic() - started < arguments.seconds
                if not in_time:
                    break
        except Exception as error:  # a shape that this machine refuses must not cost the other numbers
            section["failed"].append(f"{part.__name__}: {first_line(error)}")
            print(f"{part.__name__}: {first_line(error)}", file=sys.stderr)
        if not in_time:
            print(f"out of time after {arguments.seconds:g} s, the rest was left out", file=sys.stderr)
            break
    section["complete"] = in_time and not section["failed"]
    keep()
    return 0


if __name__ == "__main__":
    sys.exit(main())
