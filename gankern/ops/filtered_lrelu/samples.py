"""Named inputs of filtered_lrelu: contract cases first, then layers of StyleGAN3 for ``gankern check`` and benchmarks."""

from __future__ import annotations

import math
from typing import Any

import torch

from gankern._samples import Sample, randn
from gankern._validate import factors, paddings
from gankern.ops.filtered_lrelu.geometry import layer_geometries

_CONTRACT = frozenset({"contract"})
_CHECK = frozenset({"contract", "check"})
_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})

Taps = tuple[int, ...]


def _sample(
    name: str,
    shape: tuple[int, int, int, int],
    fu: Taps | None,
    fd: Taps | None,
    up: int | list[int] = 1,
    down: int | list[int] = 1,
    padding: int | list[int] = 0,
    *,
    bias: bool = True,
    tags: frozenset[str] = _CONTRACT,
    description: str = "",
    **settings: Any,
) -> Sample:
    """One case. Taps are random: [taps] separable, [taps_y, taps_x] full; of a size that keeps the variance of white noise."""
    n, c, h, w = shape
    up2, down2, pad = factors("sample", "up", up), factors("sample", "down", down), paddings("sample", padding)

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        numbers = _whole if "contract" in tags and dtype.itemsize == 2 else randn

        def filter_of(taps: Taps | None, factor: tuple[int, int]) -> Any:
            if taps is None:
                return None
            axes = (taps[0] * factor[1], taps[-1] * factor[0])
            deviation = (math.prod(axes) if len(taps) == 2 else math.prod(axes) ** 0.5) ** 0.5
            return numbers(taps, wide, device, generator) / 2 ** round(math.log2(deviation))

        return {
            "x": numbers(shape, dtype, device, generator),
            "fu": filter_of(fu, up2),
            "fd": filter_of(fd, (1, 1)),
            "b": numbers((c,), dtype, device, generator) if bias else None,
            "up": up,
            "down": down,
            "padding": padding,
            **settings,
        }

    macs, outputs = _work(shape, fu, fd, up2, down2, pad)
    return Sample(
        name=name,
        make=make,
        differentiable=("x", "b") if bias else ("x",),
        tags=tags,
        macs=macs,
        bytes=lambda itemsize: (n * c * h * w + outputs) * itemsize,
        description=description,
    )


def _whole(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> torch.Tensor:
    """Small whole numbers, for half types: near a kink a rounding decides about a derivative, so that it could be off by the
    whole difference of the slopes. Sums of these are exact in all kernels, and are 0 or far from it.
    """
    return torch.randint(-2, 3, shape, generator=generator).to(dtype).to(device)


def _work(shape: Any, fu: Taps | None, fd: Taps | None, up: Any, down: Any, pad: Any) -> tuple[int, int]:
    """Useful multiply-adds, those of taps that meet a pixel, and numbers of the output; separable filters count two passes."""
    n, c, h, w = shape
    (uh, uw), (dh, dw) = ((f[0], f[-1]) if f else (1, 1) for f in (fu, fd))
    out_w = (w * up[0] + pad[0] + pad[1] - uw - dw + 1) // down[0] + 1
    out_h = (h * up[1] + pad[2] + pad[3] - uh - dh + 1) // down[1] + 1
    mid_w, mid_h = (out_w - 1) * down[0] + dw, (out_h - 1) * down[1] + dh
    per_x, per_y = math.ceil(uw / up[0]), math.ceil(uh / up[1])
    rows = min(h, math.ceil(mid_h / up[1]) + per_y)
    first = mid_h * mid_w * per_x * per_y if fu and len(fu) == 2 else mid_w * (rows * per_x + mid_h * per_y)
    second = out_h * out_w * dh * dw if fd and len(fd) == 2 else out_w * (mid_h * dw + out_h * dh)
    return n * c * (first + mid_h * mid_w + second), n * c * out_h * out_w


# Small: the Triton interpreter runs them as well.
CONTRACT = [
    _sample("up2_down2_12", (2, 3, 10, 9), (12,), (12,), up=2, down=2, padding=[9, 8, 9, 8], clamp=1.5, tags=_CHECK),
    _sample("up4_down2_24", (1, 3, 8, 9), (24,), (12,), up=4, down=2, padding=[-1, 2, 3, 0]),
    _sample("up2_down4_24", (1, 2, 16, 17), (12,), (24,), up=2, down=4, padding=10, flip_filter=True, slope=0.0),
    _sample("up3_down2_5x3", (2, 2, 7, 6), (5, 3), (4,), up=3, down=2, padding=[2, 1, 3, 4], gain=0.7),
    _sample("up2x1_down1x3", (1, 5, 8, 9), (4,), (3, 6), up=[2, 1], down=[1, 3], padding=[3, 2, 5, 4], slope=0.5),
    _sample("same_rate", (2, 3, 9, 11), (3,), (4,), padding=3, clamp=0.8),
    _sample("full_down_12x12", (2, 2, 9, 10), (12,), (12, 12), up=2, down=2, padding=[11, 10, 11, 10], tags=_CHECK),
    _sample("full_up_12x12", (1, 2, 10, 9), (12, 12), (8,), up=2, down=2, padding=[8, 7, 9, 6], flip_filter=True),
    _sample("no_filters", (2, 5, 6, 7), None, None, clamp=1.0, slope=1.0, gain=1.0),
    _sample("no_bias_no_down_filter", (2, 3, 5, 6), (6,), None, up=2, down=3, padding=[3, 2, 1, 4], bias=False),
    _sample("crop", (2, 5, 12, 13), (8,), (6,), up=2, down=2, padding=[-3, -2, -1, -4], clamp=256.0),
    _sample("empty_batch", (0, 3, 5, 5), (4,), (4,), up=2, down=2, padding=3),
]


def _layer(kind: str, resolution: int, index: int, tags: frozenset[str]) -> Sample:
    """A layer of StyleGAN3 as it is used: behind its convolution, one image."""
    settings: dict[str, Any] = {"conv_kernel": 1, "radial": True, "channel_base": 65536, "channel_max": 1024}
    g = layer_geometries(resolution, **settings if kind == "r" else {})[index]
    size = g.in_size + g.conv_kernel - 1
    fd = (g.down_taps, g.down_taps) if g.radial else (g.down_taps,)
    return _sample(
        f"stylegan3_{kind}{resolution}_l{index}", (1, g.out_channels, size, size), (g.up_taps,), fd, g.up, g.down, g.padding,
        clamp=256.0, tags=tags,
        description=f"StyleGAN3-{kind.upper()} {resolution}^2, layer {index}: {g.out_channels} ch {size}^2 to {g.out_size}^2, "
        f"up {g.up}, down {g.down}{', radial' if g.radial else ''}",
    )  # fmt: skip


BENCH = [
    _layer("t", 128, 5, _QUICK),
    _layer("r", 128, 2, _QUICK),
    _layer("t", 128, 9, _FULL),
    _layer("t", 128, 11, _FULL),
    _layer("t", 256, 9, _FULL),
    _layer("t", 256, 10, _FULL),
    _layer("t", 256, 11, _FULL),
    _layer("r", 128, 9, _FULL),
    _layer("r", 128, 11, _FULL),
    _layer("r", 256, 9, _FULL),
    _layer("r", 256, 11, _FULL),
]

SAMPLES = CONTRACT + BENCH
