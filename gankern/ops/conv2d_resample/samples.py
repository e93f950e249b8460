"""Named inputs of conv2d_resample: every path of the plan, then layers of StyleGAN2."""

from __future__ import annotations

from typing import Any

import torch

from gankern._samples import Sample, randn

_CONTRACT = frozenset({"contract"})
_CHECK = frozenset({"contract", "check"})
_QUICK = frozenset({"quick", "full"})
_FULL = frozenset({"full"})
_FOUR = [[1.0, 3, 3, 1]]


def _sample(
    name: str,
    x: tuple[int, int, int, int],
    w: tuple[int, int, int, int],
    taps: list[float] | list[list[float]] | None = None,
    *,
    tags: frozenset[str] = _CONTRACT,
    description: str = "",
    **settings: Any,
) -> Sample:
    """One case; a list of lists is an outer product with itself. Weights are scaled to outputs of variance 1."""
    up, down = settings.get("up", 1), settings.get("down", 1)
    pixels_in, pixels_out = x[0] * x[2] * x[3], x[0] * x[2] * x[3] * up**2 // down**2

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"x": randn(x, dtype, device, generator)}
        kwargs["w"] = randn(w, torch.float64, device, generator).mul((w[1] * w[2] * w[3]) ** -0.5).to(dtype)
        if taps is not None:
            f = torch.tensor(taps, dtype=torch.float64)
            f = f.squeeze(0)[:, None] * f if f.dim() == 2 else f
            kwargs["f"] = (f / f.sum()).to(torch.float32).to(device)
        return {**kwargs, **settings}

    return Sample(
        name=name,
        make=make,
        differentiable=("x", "w"),
        tags=tags,
        # The convolution at the lower of its two resolutions, and the filter's taps for every channel.
        macs=min(pixels_in, pixels_out) * w[0] * w[1] * w[2] * w[3],
        bytes=lambda itemsize: itemsize * (pixels_in * x[1] + w[0] * w[1] * w[2] * w[3] + pixels_out * w[0]),
        description=description,
    )


SAMPLES = [
    _sample("up_2_3x3", (2, 3, 5, 6), (4, 3, 3, 3), _FOUR, up=2, padding=1, tags=_CHECK),
    _sample("down_2_3x3", (2, 3, 8, 6), (4, 3, 3, 3), _FOUR, down=2, padding=1, tags=_CHECK),
    _sample("up_2_1x1", (2, 3, 5, 6), (4, 3, 1, 1), _FOUR, up=2),
    _sample("down_2_1x1", (2, 3, 8, 6), (4, 3, 1, 1), _FOUR, down=2),
    _sample("up_2_down_2_3x3", (1, 2, 6, 6), (3, 2, 3, 3), _FOUR, up=2, down=2, padding=1),
    _sample("up_4_down_2_1x1", (1, 2, 6, 6), (3, 2, 1, 1), _FOUR, up=4, down=2),
    _sample("up_3_5x5_uneven_padding", (1, 2, 5, 4), (3, 2, 5, 5), _FOUR, up=3, padding=[2, 1, 0, 3]),
    _sample("up_2_crops", (1, 2, 7, 8), (3, 2, 3, 3), _FOUR, up=2, padding=-2),
    _sample("down_3_separable", (1, 2, 12, 13), (3, 2, 3, 3), [0.2, 0.5, 0.9, 1.0, 0.3], down=3, padding=2),
    _sample("up_2_without_filter", (1, 2, 5, 6), (3, 2, 3, 3), up=2, padding=1),
    _sample("down_2_without_filter", (1, 2, 7, 6), (3, 2, 3, 3), down=2, padding=1),
    _sample("same_rate", (2, 3, 6, 7), (4, 3, 3, 3), _FOUR, padding=1),
    _sample("same_rate_uneven_padding", (2, 3, 6, 7), (4, 3, 3, 3), padding=[2, 0, -1, 1]),
    _sample("flipped_up_2", (1, 2, 5, 6), (3, 2, 3, 2), [1.0, 2, 3], up=2, flip_weight=False, flip_filter=True, padding=1),
    _sample("flipped_down_2", (1, 2, 8, 6), (3, 2, 2, 3), [1.0, 2, 3], down=2, flip_weight=False, flip_filter=True, padding=1),
    _sample("groups_2_up_2", (1, 4, 5, 4), (6, 2, 3, 3), _FOUR, up=2, groups=2, padding=1),
    _sample("groups_2_down_2", (1, 4, 6, 4), (6, 2, 3, 3), _FOUR, down=2, groups=2, padding=1),
    _sample("empty_batch", (0, 3, 5, 6), (4, 3, 3, 3), _FOUR, up=2, padding=1),
    _sample("stylegan2_up_128x64", (2, 128, 64, 64), (64, 128, 3, 3), _FOUR, up=2, padding=1, tags=_QUICK,
            description="up 2 + 3x3 conv, StyleGAN2 G: 128 ch 64^2 to 64 ch 128^2 x 2"),
    _sample("stylegan2_down_64x128", (2, 64, 128, 128), (128, 64, 3, 3), _FOUR, down=2, padding=1, tags=_QUICK,
            description="3x3 conv + down 2, StyleGAN2 D: 64 ch 128^2 to 128 ch 64^2 x 2"),
    _sample("stylegan2_skip_64x128", (2, 64, 128, 128), (128, 64, 1, 1), _FOUR, down=2, tags=_FULL,
            description="1x1 conv + down 2, StyleGAN2 D's skip: 64 ch 128^2 to 128 ch 64^2 x 2"),
]  # fmt: skip
