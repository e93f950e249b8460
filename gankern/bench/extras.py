"""More contenders for some ops: what a goal compares with beside eager, torch.compile and the copy.

``EXTRAS[op]`` is a function of (row, keyword arguments) that gives {name: call}, for the rows where that makes sense. A
contender 'plain_conv' gives its row the numbers ``speedup_plain_conv`` (its time over ours) and
``time_over_plain_conv`` (the inverse).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from gankern.bench.convolutions import BACKWARD, DOUBLE_BACKWARD, Convolutions, Passes
from gankern.bench.inference import EXTRAS as INFERENCE_EXTRAS
from gankern.bench.metrics import CONTENDERS as METRIC_CONTENDERS
from gankern.bench.networks import CONTENDERS as NETWORK_CONTENDERS
from gankern.bench.penalised import CONTENDERS
from gankern.bench.rows import Row
from gankern.bench.steps import PATCHED


def _patched(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Eager code with gankern's convolutions alone."""
    return {"patched_conv": lambda: PATCHED[row.op](**kwargs)}


def _modulated_conv2d(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The convolution alone, and eager code that scales images rather than weights (StyleGAN2's without fused_modconv).

    Forward and backward: the convolution and its two gradients alone, the ceiling of a speed-up.
    """
    if row.direction == "backward" and kwargs["weight"].dim() == 4:
        return _plain_convs(row, BACKWARD, [(kwargs["x"], kwargs["weight"], kwargs.get("up", 1), kwargs.get("padding", 0))])
    return {**_plain_conv(row, kwargs), **_scaled_conv(row, kwargs)}


def _path_length(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The convolutions of both layers alone, as often as two derivatives need them."""
    return _plain_convs(row, DOUBLE_BACKWARD, [(kwargs["x"], kwargs[name], 1, 1) for name in ("w0", "w1")])


def _plain_convs(
    row: Row, passes: Passes, layers: Sequence[tuple[torch.Tensor, torch.Tensor, int, Any]]
) -> dict[str, Callable[[], Any]]:
    """The convolutions of layers (image, weight, up, padding) alone, with their gradients."""
    noted = Convolutions()
    with torch.no_grad():
        for x, w, up, padding in layers:
            image, weight = (t.detach().to("meta") for t in (x, w))
            with noted:
                _convolution(image, weight, up, padding)
    return {"plain_convs": noted.alone(passes, layers[0][0].device, row.layout == "channels_last")}


def _convolution(x: torch.Tensor, w: torch.Tensor, up: int, padding: Any) -> torch.Tensor:
    """The convolution inside a modulated layer: no style, no resampling filter, no epilogue."""
    if up > 1:
        return F.conv_transpose2d(x, w.transpose(0, 1), stride=up)
    return F.conv2d(x, w, padding=padding)


def _scaled_conv(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    x, weight, styles, b = (kwargs[k].detach() for k in ("x", "weight", "styles", "bias"))
    if row.direction != "forward" or kwargs.get("up", 1) > 1 or weight.dim() == 5:
        return {}

    def scaled() -> Any:
        with torch.no_grad():
            d = (styles.square() @ weight.square().sum((2, 3)).t() + 1e-8).rsqrt()
            y = F.conv2d(x * styles[:, :, None, None], weight, padding=kwargs.get("padding", 0))
            y = y * d[:, :, None, None] + kwargs["noise"] + b[:, None, None]
            return (F.leaky_relu(y, 0.2) * 2**0.5).clamp(-256, 256)

    return {"scaled_conv": scaled}


def _plain_conv(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The convolution inside a modulated layer, alone."""
    if row.direction != "forward":
        return {}
    x = kwargs["x"].detach()
    w = (
        kwargs["weight"]
        .detach()
        .contiguous(memory_format=torch.channels_last if row.layout == "channels_last" else torch.contiguous_format)
    )
    up, padding = kwargs.get("up", 1), kwargs.get("padding", 0)

    def plain() -> Any:
        with torch.no_grad():
            return _convolution(x, w, up, padding)

    return {"plain_conv": plain}


def _instance_norm(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """PyTorch's own operator and the activation behind it, where that says it all."""
    acts: dict[str, Callable[[Any], Any]] = {"relu": F.relu, "lrelu": lambda v: F.leaky_relu(v, 0.2)}
    factors = [kwargs["scale"], kwargs["shift"]]
    plain = kwargs["act"] in acts and all(t is None or (t.dim() == 2 and t.shape[0] == 1) for t in factors)
    if row.direction != "forward" or not plain or kwargs.keys() & {"pre_noise", "pre_bias", "pre_act"}:
        return {}
    x, act = kwargs["x"].detach(), acts[kwargs["act"]]
    weight, bias = (None if t is None else t.detach()[0] for t in factors)

    def instance_norm() -> Any:
        with torch.no_grad():
            return act(F.instance_norm(x, weight=weight, bias=bias))

    return {"instance_norm": instance_norm}


def _penalised(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The step without a penalty, and eager code with gankern's convolutions alone."""

    def bound(step: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: step(**kwargs)

    return {name: bound(step) for name, step in CONTENDERS.items()}


EXTRAS: dict[str, Callable[[Row, dict[str, Any]], dict[str, Callable[[], Any]]]] = {
    **{name: _patched for name in PATCHED},
    "penalised_step": _penalised,
    "adain": _instance_norm,
    "modulated_conv2d": _modulated_conv2d,
    "path_length_step": _path_length,
    **METRIC_CONTENDERS,
    **NETWORK_CONTENDERS,
    **INFERENCE_EXTRAS,
}
