"""A codebase's own ``modulated_conv2d``, recognised by its signature, on :func:`gankern.ops.modulated_conv2d`.

A function of the same name and signature may compute something else in a fork. So both are called once with a few small
numbers, and a function that disagrees is left as it is, with a warning.
"""

# The signatures are the codebases', which have no types.
# mypy: disallow-untyped-defs=False, check-untyped-defs=True

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from gankern import _usage, ops
from gankern._dispatch import use_backend
from gankern.compat._shims import Changes, CompatWarning

NAME = "modulated_conv2d"


def stylegan2_modulated_conv2d(
    x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True, flip_weight=True,
    fused_modconv=True,
):  # fmt: skip
    """StyleGAN2's signature. ``fused_modconv`` chose between two ways to compute the same, and is ignored."""
    return ops.modulated_conv2d(
        x, weight, styles, noise=noise, up=up, down=down, padding=padding, resample_filter=resample_filter,
        demodulate=demodulate, flip_weight=flip_weight,
    )  # fmt: skip


def stylegan3_modulated_conv2d(x, w, s, demodulate=True, padding=0, input_gain=None):
    """StyleGAN3's signature; padding is [y, x].

    It normalises s over the whole batch and each row of w over (in, kh, kw) first. Demodulation undoes both, so all that this
    decides is how the 1e-8 under its square root compares with the sum. Here one factor on s does it, the same for all rows:
    rows of w would have to differ in norm by four orders of magnitude for float32 to notice, and no gradient passes the
    factor, on which nothing depends.

    The first layer's images have channels innermost, by the way they are made. As there, NCHW goes out: a random tensor like
    the images is then the same for a seed, and on a CPU it is the faster layout for the backward of filtered_lrelu.
    """
    x = x.contiguous()
    if demodulate:
        with torch.no_grad():
            factor = s.square().mean().rsqrt() * (w.numel() ** 0.5 / torch.linalg.vector_norm(w))
        s = s * factor
    if isinstance(input_gain, Tensor):
        input_gain = input_gain.expand(x.shape[0], x.shape[1])
    pads = padding if isinstance(padding, int) else [padding[1], padding[0]]
    return ops.modulated_conv2d(x, w, s, padding=pads, demodulate=demodulate, input_gain=input_gain)


def _signature(function: Callable[..., Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((p.name, p.default) for p in inspect.signature(function).parameters.values())


KNOWN: Mapping[tuple[tuple[str, Any], ...], Callable[..., Tensor]] = {
    _signature(one): one for one in (stylegan2_modulated_conv2d, stylegan3_modulated_conv2d)
}
"""Parameters with their defaults -> what computes the same."""


def undecorated(function: Any) -> Any:
    """What a decorator like ``misc.profiled_function`` wraps, which has no ``__wrapped__``: the function of the same name."""
    while isinstance(function, FunctionType):
        inner = getattr(function, "__wrapped__", None)
        if inner is None:
            cells = [c.cell_contents for c in function.__closure__ or () if c.cell_contents is not function]
            inner = next((c for c in cells if isinstance(c, FunctionType) and c.__name__ == function.__name__), None)
        if inner is None:
            break
        function = inner
    return function


def counterpart(function: Any) -> Callable[..., Tensor] | None:
    """The function of gankern for one of a known signature, or None."""
    inner = undecorated(function)
    return KNOWN.get(_signature(inner)) if isinstance(inner, FunctionType) else None


def patch(module: ModuleType, changes: Changes) -> None:
    """Replace the ``modulated_conv2d`` that a module defines."""
    own = vars(module).get(NAME)
    if own is None or hasattr(own, "_gankern") or not _defined_in(own, module):
        return
    ours = counterpart(own)
    if ours is None:
        return
    difference = _difference(own, ours)
    if difference is not None:
        message = f"{module.__name__}.{NAME} has a known signature but is left as it is: {difference}"
        warnings.warn(message, CompatWarning, stacklevel=2)
        return
    changes.replace(module, NAME, _copy(ours, module))


def _defined_in(function: Any, module: ModuleType) -> bool:
    """Not one that is imported from elsewhere: there it is replaced, and here rebound by identity."""
    return getattr(undecorated(function), "__globals__", None) is vars(module)


def _copy(function: Any, module: ModuleType) -> FunctionType:
    """A function object of its own for this place, see :meth:`gankern.compat._shims.Changes.replace`."""
    new = FunctionType(function.__code__, function.__globals__, NAME, function.__defaults__, function.__closure__)
    new.__doc__, new.__module__ = function.__doc__, module.__name__
    new._gankern = True  # type: ignore[attr-defined]
    return new


def _difference(own: Callable[..., Any], ours: Callable[..., Tensor]) -> str | None:
    """Why the two do not compute the same, or None."""
    # On the reference: a backend that gankern run forces may not know the CPU, and the trial is no work of the script's.
    with torch.no_grad(), _usage.uncounted(), use_backend("reference"):
        for call in _calls(ours):
            try:
                want = own(**{name: value.clone() if isinstance(value, Tensor) else value for name, value in call.items()})
            except Exception as error:
                return f"it raises {error!r} for a small example on the CPU"
            got = ours(**call)
            if not isinstance(want, Tensor) or want.shape != got.shape:
                return f"it gives {_shape(want)} for a small example where gankern gives {_shape(got)}"
            if not torch.allclose(want.to(got.dtype), got, rtol=1e-3, atol=1e-3):
                return f"its result differs from gankern's by {float((want - got).abs().max()):.3g} for a small example"
    return None


def _shape(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _calls(ours: Callable[..., Tensor]) -> list[dict[str, Any]]:
    """Small examples. Made without random numbers, so that a script's own do not change."""

    def numbers(*shape: int) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        return torch.sin(1.3 * torch.arange(1, count + 1, dtype=torch.float32, device="cpu")).reshape(shape) + 0.2

    x, w, s = numbers(2, 3, 4, 5), numbers(2, 3, 3, 3).flip(0, 3), numbers(2, 3).flip(1)
    if ours is stylegan3_modulated_conv2d:
        gained = {"x": x, "w": w, "s": s, "padding": 2, "input_gain": torch.tensor([0.5, 1.0, 2.0], device="cpu")}
        return [gained, {"x": x, "w": w, "s": s, "demodulate": False}]
    taps = ops.setup_filter([1, 3, 3, 1])
    resampled = {"x": x, "weight": w, "styles": s, "noise": numbers(8, 10), "up": 2, "padding": 1, "resample_filter": taps,
                 "flip_weight": False}  # fmt: skip
    return [resampled, {"x": x, "weight": w[:, :, :1, :1], "styles": s, "demodulate": False, "fused_modconv": False}]
