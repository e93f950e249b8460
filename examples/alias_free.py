"""Move a fine grating by fractions of a pixel through a plain and a filtered leaky ReLU; plot what aliases; print numbers.

    python examples/alias_free.py
    python examples/alias_free.py --size 128 --taps 24 --out aliases.png

A leaky ReLU bends a wave, which makes overtones. Those above half the sampling rate cannot be told from lower frequencies: they
fold back, and then move another way than the wave does. In a picture they are texture that sticks to the pixels. filtered_lrelu
runs the leaky ReLU at a multiple of the rate and filters the overtones out before they can fold (Karras et al. 2021).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern._files import replacing
from gankern.nn import FilteredLReLU, lowpass_filter

Layer = Callable[[Tensor], Tensor]
WAVE = (19 / 64, 9 / 64)
"""Cycles per pixel of the grating along x and y; whole periods fit into the picture, so that it has no borders."""
STEPS = 32
"""Shifts along x, from 0 to a pixel."""


class PlainLReLU(nn.Module):
    """The leaky ReLU pixel by pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``."""
        return F.leaky_relu(x, 0.2) * math.sqrt(2)


def layers(up: int, taps: int) -> dict[str, Layer]:
    """Plain, and filtered at ``up`` times the rate."""
    f = lowpass_filter(taps * up, cutoff=0.375, width=0.25, sampling_rate=up)
    filtered = FilteredLReLU(1, up, up, f, f, bias=False)
    return {"plain": PlainLReLU(), f"filtered, {up}x rate, {taps * up} taps": filtered}


def grating(size: int, shifts: Tensor) -> Tensor:
    """[shifts, 1, size, size]: a wave of amplitude 1, moved along x by fractions of a pixel; exact, no interpolation."""
    place = torch.arange(size, dtype=torch.float64)
    phase = WAVE[0] * (place - shifts[:, None])[:, None, :] + WAVE[1] * place[None, :, None]
    return torch.cos(2 * math.pi * phase)[:, None]


def periodically(layer: Layer, x: Tensor) -> Tensor:
    """A layer on a picture that repeats itself, without the borders that zero padding would make."""
    margin = 16
    with torch.no_grad():
        return layer(F.pad(x, (margin,) * 4, mode="circular"))[:, :, margin:-margin, margin:-margin]


def moved(x: Tensor, shifts: Tensor) -> Tensor:
    """Periodic pictures moved along x by fractions of a pixel, in the frequency domain."""
    f = torch.fft.fftfreq(x.shape[-1], dtype=torch.float64)
    return torch.fft.ifft2(torch.fft.fft2(x) * torch.exp(-2j * math.pi * f * shifts[:, None, None, None])).real


def spectrum(x: Tensor) -> Tensor:
    """Power of one picture [size, size] at each frequency, the mean in the middle; the sum is its mean square."""
    return torch.fft.fftshift((torch.fft.fft2(x) / x.numel()).abs().square())


def harmonics(size: int) -> Tensor:
    """[size, size] of bool: mean, wave and the overtones that the sampling rate can hold; power elsewhere is aliased."""
    keep = torch.zeros(size, size, dtype=torch.bool)
    for k in range(-size, size + 1):
        fx, fy = k * WAVE[0], k * WAVE[1]
        if max(abs(fx), abs(fy)) < 0.5:
            keep[round(fy * size) + size // 2, round(fx * size) + size // 2] = True
    return keep


class Result:
    """What one layer did to the moving grating."""

    def __init__(self, layer: Layer, size: int) -> None:
        shifts = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
        self.y = periodically(layer, grating(size, shifts))
        self.shifts = shifts
        self.power = spectrum(self.y[0, 0])
        self.alias = float(self.power[~harmonics(size)].sum() / self.power.sum())
        # Equivariance: what came out at shift 0, moved, should be what comes out of the moved grating.
        expected = moved(self.y[:1], shifts)
        self.sticking = expected - self.y
        peak = expected.max() - expected.min()
        errors = self.sticking.square().mean((1, 2, 3)).clamp_min(1e-30)
        self.psnr = 10 * torch.log10(peak**2 / errors)
        self.worst = float(self.psnr.min())
        self.slice = self.sticking[:, 0, 0]  # one row of pixels over the steps


def draw(results: dict[str, Result], size: int, out: Path) -> None:
    """A column a layer: its output, its spectrum, what does not move along; below, the PSNR over the shift."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 13), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"A grating of ({WAVE[0]:.3f}, {WAVE[1]:.3f}) cycles per pixel through a leaky ReLU: overtones above the\n"
        "Nyquist frequency fold back as aliases, unless they are filtered out at a higher rate",
        fontsize=13,
    )
    rows = figure.add_gridspec(4, 2, height_ratios=[1, 1.15, 0.6, 0.75])
    colours = ["#D55E00", "#0072B2"]  # stay apart for colour-blind readers (Okabe and Ito)
    error = max(float(r.sticking.abs().max()) for r in results.values())
    curve = figure.add_subplot(rows[3, :])
    part = 32  # pixels to show
    for column, (name, r) in enumerate(results.items()):
        axis = figure.add_subplot(rows[0, column])
        image = axis.imshow(r.y[0, 0, :part, :part].numpy(), cmap="gray", extent=(0, part, part, 0), vmin=-0.4, vmax=1.5)
        axis.set(title=f"{name}: output", xlabel="x (pixels)", ylabel="y (pixels)")
        axis.title.set_fontweight("bold")
        figure.colorbar(image, ax=axis, label="value")

        axis = figure.add_subplot(rows[1, column])
        decibels = 10 * torch.log10(r.power.clamp_min(1e-20) / r.power.max())
        edge = 0.5 + 0.5 / size
        extent = (-edge, edge - 1 / size, edge - 1 / size, -edge)
        image = axis.imshow(decibels.numpy(), cmap="magma", vmin=-80, vmax=0, extent=extent, interpolation="nearest")
        at = (harmonics(size).nonzero() - size // 2) / size
        axis.plot(at[:, 1], at[:, 0], "o", mfc="none", mec="#56B4E9", ms=9, ls="none")
        axis.set_title(
            f"spectrum: {100 * r.alias:.2g} % of the power is aliased\n(circles: the wave and its mean, which are not)"
        )
        axis.set(xlabel="x frequency (cycles per pixel)", ylabel="y frequency (cycles per pixel)")
        figure.colorbar(image, ax=axis, label="power over the strongest (dB)")

        axis = figure.add_subplot(rows[2, column])
        image = axis.imshow(
            r.slice[:, :part].numpy(), cmap="RdBu", vmin=-error, vmax=error, extent=(0, part, 1, 0), aspect="auto"
        )
        axis.set(title="moved output - output of the moved input, one row", xlabel="x (pixels)", ylabel="shift (pixels)")
        figure.colorbar(image, ax=axis, label="difference")

        inner = slice(1, -1)  # whole pixels are exact for both
        curve.plot(
            r.shifts[inner], r.psnr[inner], "o-", ms=4, color=colours[column], label=f"{name}: at least {r.worst:.1f} dB"
        )
    curve.set(xlabel="shift along x (pixels)", ylabel="PSNR (dB)", xlim=(0, 1))
    curve.set_title("translation equivariance: higher is better; whole pixels are exact", fontsize=11)
    curve.grid(alpha=0.3)
    curve.legend()
    with replacing(out) as temporary:  # never half a picture
        figure.savefig(temporary)


def main() -> None:
    """Parse the command line, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="pixels along an axis, a multiple of 64 (default 64)")
    parser.add_argument(
        "--up", type=int, default=2, help="rate of the filtered leaky ReLU over that of the picture (default 2)"
    )
    parser.add_argument("--taps", type=int, default=6, help="taps of its filters for each step of the rate (default 6)")
    parser.add_argument("--out", type=Path, default=Path("alias_free.png"), help="picture to write")
    given = parser.parse_args()
    if given.size < 64 or given.size % 64:
        parser.error(f"--size must be a positive multiple of 64, got {given.size}")
    if given.up < 2 or given.taps < 1 or given.up * given.taps > 32:
        parser.error(f"--up must be at least 2 and --taps * --up at most 32, got {given.up} and {given.taps}")
    results = {name: Result(layer, given.size) for name, layer in layers(given.up, given.taps).items()}
    print(f"a grating of {given.size} x {given.size} pixels in {STEPS + 1} positions, float64:")
    for name, r in results.items():
        print(f"  {name:28s} aliased power {100 * r.alias:10.6f} %   equivariance {r.worst:6.1f} dB")
    try:
        draw(results, given.size, given.out)
    except ImportError:
        sys.exit('alias_free: no picture written, matplotlib is missing: pip install -e ".[bench]"')
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
