"""Random calls of every public function of gankern.ops: arguments that are right by construction, and then one that is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from gankern import ops
from gankern._dispatch import OPS
from gankern.ops.adain.reference import adain_from_features_reference, instance_norm_reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ACTS = list(ops.activation_funcs)
LAYOUTS = ["contiguous", "channels_last", "strided", "shifted", "transposed"]


@dataclass
class Call:
    """One call: ``function(**arguments)``, right unless ``broken`` names the argument that was replaced.

    ``differentiable`` are names of tensor arguments that may require gradients; ``images`` names the argument whose dtype
    the result has; ``stages`` is the number of roundings to it on the way. ``huge``: float32 overflows where float64 may not.
    """

    name: str
    arguments: dict[str, Any]
    differentiable: tuple[str, ...]
    images: str
    broken: str | None = None
    huge: bool = False
    order: int = 0

    @property
    def function(self) -> Callable[..., Any]:
        return getattr(ops, self.name)

    @property
    def reference(self) -> Callable[..., Any]:
        """The definition: of ops with one of their own that, else what they are compositions of, in float64."""
        own = {"instance_norm": instance_norm_reference, "adain_from_features": adain_from_features_reference}
        return own.get(self.name) or (OPS[self.name].reference if self.name in OPS else self.function)

    @property
    def stages(self) -> int:
        return OPS[self.name].stages if self.name in OPS else 1

    def __repr__(self) -> str:
        def show(v: Any) -> str:
            if isinstance(v, Tensor):
                return f"tensor({list(v.shape)}, strides {v.stride()}, {v.dtype}, {v.device})"
            return repr(v)

        arguments = ", ".join(f"{k}={show(v)}" for k, v in self.arguments.items())
        return f"{self.name}({arguments}), order {self.order}, broken {self.broken}"


@dataclass
class Draw:
    """Hypothesis's draw, and the tensors made from it: dtype and layout are one choice for the call."""

    draw: Callable[..., Any]
    dtype: torch.dtype = field(init=False)
    layout: str = field(init=False)
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = self.one_of(DTYPES)
        self.layout = self.one_of(LAYOUTS)
        self.generator = torch.Generator().manual_seed(self.integer(0, 9999))

    def one_of(self, values: list[Any]) -> Any:
        return self.draw(st.sampled_from(values))

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def maybe(self, make: Callable[[], Any]) -> Any:
        return make() if self.flag() else None

    def numbers(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Normal values, contiguous."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(dtype or self.dtype)

    def side(self, *shape: int) -> Tensor:
        """A companion of the images: of their dtype or of float32, with a stride at times."""
        dtype = self.one_of([self.dtype, self.dtype, torch.float32])
        return self.numbers(*shape, 2, dtype=dtype)[..., 1] if self.integer(0, 3) == 0 else self.numbers(*shape, dtype=dtype)

    def image(self, n: int, c: int, h: int, w: int) -> Tensor:
        if self.layout == "channels_last":
            return self.numbers(n, c, h, w).contiguous(memory_format=torch.channels_last)
        if self.layout == "strided":
            return self.numbers(n, c, h, w, 2)[..., 0]
        if self.layout == "shifted":  # not at the start of its memory, with rows that are not aligned
            return self.numbers(n, c, h + 1, w + 3)[:, :, 1:, 1 : w + 1]
        if self.layout == "transposed":
            return self.numbers(n, c, w, h).transpose(2, 3)
        return self.numbers(n, c, h, w)

    def sizes(self, least: int = 1) -> tuple[int, int, int, int]:
        h, w = self.integer(least, 9), self.integer(least, 17)
        return self.one_of([1, 2, 3, 0]), self.one_of([1, 2, 3, 5, 8, 17]), h, w

    def act(self) -> dict[str, Any]:
        return {
            "act": self.one_of(ACTS),
            "alpha": self.one_of([None, 0.2, 0.0, 1.5, -0.3]),
            "gain": self.one_of([None, 1.0, 0.7, -1.5, 3]),
        }

    def clamp(self) -> float | None:
        # A number that every dtype can hold: which elements are clamped must not hang on its rounding.
        return self.one_of([None, None, 0.5, 2.0, 256])

    def taps(self, most: int = 6) -> Tensor | None:
        kind = self.integer(0, 2)
        size = (self.integer(1, most),) if kind == 1 else (self.integer(1, most), self.integer(1, most))
        return None if kind == 0 else self.numbers(*size, dtype=self.one_of([torch.float32, torch.float64]))

    def factor(self, most: int = 4) -> Any:
        return self.one_of([self.integer(1, most), [self.integer(1, most), self.integer(1, most)]])

    def padding(self, low: int = -1, high: int = 6) -> Any:
        count = self.one_of([1, 2, 4])
        values = [self.integer(low, high) for _ in range(count)]
        return values[0] if count == 1 else values


def _noise(d: Draw, n: int, h: int, w: int) -> Tensor:
    return d.side(*d.one_of([(n, 1, h, w), (1, 1, h, w), (h, w), (1, h, w), (w,), (1, 1), ()]))


def bias_act(d: Draw) -> Call:
    if d.flag():
        n, c, h, w = d.sizes()
        x, noise = d.image(n, c, h, w), d.maybe(lambda: _noise(d, n, h, w))
        strength = None if noise is None else d.one_of([None, 0.3, 2, d.side(), d.side(1)])
        arguments = {"x": x, "b": d.maybe(lambda: d.side(c)), "noise": noise, "noise_strength": strength}
    else:
        shape = [d.integer(0, 5) for _ in range(d.integer(1, 5))]
        dim = d.integer(-len(shape), len(shape) - 1)
        arguments = {"x": d.numbers(*shape), "b": d.side(shape[dim]), "dim": dim}
    return Call("bias_act", {**arguments, **d.act(), "clamp": d.clamp()}, ("x", "b", "noise", "noise_strength"), "x")


def modulate(d: Draw) -> Call:
    n, c, h, w = d.sizes()
    arguments = {
        "x": d.image(n, c, h, w),
        "scale": d.maybe(lambda: d.side(d.one_of([n, 1]), c)),
        "noise": d.maybe(lambda: _noise(d, n, h, w)),
        "b": d.maybe(lambda: d.side(c)),
    }
    return Call("modulate", {**arguments, **d.act(), "clamp": d.clamp()}, ("x", "scale", "noise", "b"), "x")


def adain(d: Draw) -> Call:
    n, c, h, w = d.sizes(2)

    def factor() -> Tensor:
        rows = d.one_of([n, 1])
        return d.side(*d.one_of([(rows, c), (rows, c, 1, 1), (rows, c, h, w)]))

    arguments = {
        "x": d.image(n, c, h, w),
        "scale": d.maybe(factor),
        "shift": d.maybe(factor),
        "eps": d.one_of([1e-5, 1e-2, 1]),
        "pre_noise": d.maybe(lambda: _noise(d, n, h, w)),
        "pre_bias": d.maybe(lambda: d.side(c)),
        "pre_act": d.one_of(ACTS),
    }
    return Call("adain", {**arguments, **d.act()}, ("x", "scale", "shift", "pre_noise", "pre_bias"), "x")


def instance_norm(d: Draw) -> Call:
    n, c, h, w = d.sizes(2)
    arguments = {"x": d.image(n, c, h, w), "weight": d.maybe(lambda: d.side(c)), "bias": d.maybe(lambda: d.side(c))}
    return Call("instance_norm", {**arguments, "eps": d.one_of([1e-5, 0.1]), **d.act()}, ("x", "weight", "bias"), "x")


def adain_from_features(d: Draw) -> Call:
    n, c, h, w = d.sizes(2)
    style = d.image(d.one_of([n, 1]), c, d.integer(2, 5), d.integer(2, 5))
    arguments = {"content": d.image(n, c, h, w), "style": style, "eps": d.one_of([1e-5, 0.1])}
    return Call("adain_from_features", arguments, ("content", "style"), "content")


def pixel_norm(d: Draw) -> Call:
    x = d.image(*d.sizes()) if d.flag() else d.numbers(*(d.integer(0, 6) for _ in range(d.integer(1, 5))))
    return Call("pixel_norm", {"x": x, "dim": d.integer(-x.dim(), x.dim() - 1), "eps": d.one_of([1e-8, 1e-3, 1])}, ("x",), "x")


def minibatch_stddev(d: Draw) -> Call:
    _, _, h, w = d.sizes()
    channels = d.integer(1, 3)
    x = d.image(d.integer(0, 8), channels * d.integer(1, 3), h, w)
    return Call("minibatch_stddev", {"x": x, "group_size": d.integer(1, 6), "num_channels": channels}, ("x",), "x")


def grid_sample(d: Draw) -> Call:
    n, c, h, w = d.sizes()
    grid = d.numbers(n, d.integer(0, 5), d.integer(0, 5), 2, dtype=d.one_of([d.dtype, torch.float32]))
    return Call("grid_sample", {"input": d.image(n, c, h, w), "grid": grid}, ("input", "grid"), "input")


def interpolate(d: Draw) -> Call:
    if d.flag():
        n, c, h, w = d.sizes()
        real, fake = d.image(n, c, h, w), d.image(n, c, h, w)
    else:
        shape = [d.integer(0, 6) for _ in range(d.integer(1, 4))]
        real, fake = d.numbers(*shape), d.numbers(*shape)
    n, rank = real.shape[0], real.dim()
    eps = d.side(*d.one_of([(n,), (n, *(1,) * (rank - 1)), (1,), ()]))
    return Call("interpolate", {"real": real, "fake": fake, "eps": eps}, ("real", "fake", "eps"), "real")


def grad_norm_penalty(d: Draw) -> Call:
    grad = d.image(*d.sizes()) if d.flag() else d.numbers(*(d.integer(0, 6) for _ in range(d.integer(2, 5))))
    arguments = {"grad": grad, "center": d.one_of([0.0, 1.0, 1, -0.5]), "weight": d.one_of([1.0, 10, 0.5, 0])}
    return Call("grad_norm_penalty", arguments, ("grad",), "grad")


def spectral_norm(d: Draw) -> Call:
    shape = [d.integer(1, 6) for _ in range(d.integer(1, 3))] + [
        d.integer(2, 6)
    ]  # a single number's gradient is 0 but for rounding
    dim = d.integer(-len(shape), len(shape) - 1)
    rows = shape[dim]
    wide = torch.float64 if d.dtype == torch.float64 else torch.float32
    arguments = {
        "weight": d.numbers(*shape),
        "u": d.numbers(rows, dtype=wide),
        "v": d.numbers(math.prod(shape) // rows, dtype=wide),
        "dim": dim,
        "n_power_iterations": d.integer(0, 3),
    }
    return Call("spectral_norm", arguments, ("weight",), "weight")


def upfirdn2d(d: Draw) -> Call:
    n, c, h, w = d.sizes()
    arguments = {"x": d.image(n, c, h, w), "f": d.taps(), "up": d.factor(), "down": d.factor(), "padding": d.padding(2, 7)}
    arguments |= {"flip_filter": d.flag(), "gain": d.one_of([1, 2.5, -1.0, 0])}
    return Call("upfirdn2d", arguments, ("x", "f"), "x")


def _resampled(name: str, **factors: Any) -> Callable[[Draw], Call]:
    def make(d: Draw) -> Call:
        n, c, h, w = d.sizes(4)
        arguments = {"x": d.image(n, c, h, w), "f": d.taps(), **{k: d.factor() for k in factors}, "padding": d.padding(0, 3)}
        arguments |= {"flip_filter": d.flag(), "gain": d.one_of([1, 2.5, -1.0])}
        return Call(name, arguments, ("x",), "x")

    return make


def filtered_lrelu(d: Draw) -> Call:
    n, c, h, w = d.sizes(2)
    arguments = {
        "x": d.image(n, c, h, w), "fu": d.taps(), "fd": d.taps(), "b": d.maybe(lambda: d.side(c)), "up": d.factor(),
        "down": d.factor(), "padding": d.padding(5, 8), "gain": d.one_of([2**0.5, 1.0, 0.5]), "slope": d.one_of([0.2, 0, 1.0]),
        "clamp": d.clamp(), "flip_filter": d.flag(),
    }  # fmt: skip
    return Call("filtered_lrelu", arguments, ("x", "b"), "x")


def conv2d(d: Draw) -> Call:
    groups, n = d.integer(1, 3), d.one_of([1, 2, 0])
    inputs, outputs, kh, kw = groups * d.integer(1, 3), groups * d.integer(1, 3), d.integer(1, 3), d.integer(1, 3)
    arguments = {
        "input": d.image(n, inputs, d.integer(5, 9), d.integer(5, 9)),
        "weight": d.image(outputs, inputs // groups, kh, kw),
        "bias": d.maybe(lambda: d.numbers(outputs)),
        "stride": d.factor(3),
        "padding": d.one_of([0, 1, 2, [1, 2], "valid"]),
        "dilation": d.factor(2),
        "groups": groups,
    }
    if d.integer(0, 4) == 0:
        arguments |= {"padding": "same", "stride": 1}
    return Call("conv2d", arguments, ("input", "weight", "bias"), "input")


def conv_transpose2d(d: Draw) -> Call:
    groups, n, step = d.integer(1, 3), d.one_of([1, 2, 0]), d.integer(1, 3)
    inputs, outputs, kh, kw = groups * d.integer(1, 3), groups * d.integer(1, 3), d.integer(1, 4), d.integer(1, 4)
    arguments = {
        "input": d.image(n, inputs, d.integer(3, 6), d.integer(3, 6)),
        "weight": d.image(inputs, outputs // groups, kh, kw),
        "bias": d.maybe(lambda: d.numbers(outputs)),
        "stride": step,
        "padding": d.integer(0, 1),
        "output_padding": d.integer(0, step - 1),
        "groups": groups,
        "dilation": d.factor(2),
    }
    return Call("conv_transpose2d", arguments, ("input", "weight", "bias"), "input")


def conv2d_resample(d: Draw) -> Call:
    groups, n = d.integer(1, 2), d.one_of([1, 2, 0])
    inputs, outputs, k = groups * d.integer(1, 3), groups * d.integer(1, 3), d.integer(1, 3)
    arguments = {
        "x": d.image(n, inputs, d.integer(5, 8), d.integer(5, 8)),
        "w": d.image(outputs, inputs // groups, k, d.integer(1, 3)),
        "f": d.taps(4),
        "up": d.integer(1, 3),
        "down": d.integer(1, 3),
        "padding": d.padding(0, 3),
        "groups": groups,
        "flip_weight": d.flag(),
        "flip_filter": d.flag(),
    }
    return Call("conv2d_resample", arguments, ("x", "w"), "x")


def modulated_conv2d(d: Draw) -> Call:
    n, inputs, outputs = d.one_of([1, 2, 3, 0]), d.integer(1, 4), d.integer(1, 4)
    mixed = d.integer(0, 3) == 0
    kernels = (d.integer(1, 3),) if mixed else ()
    arguments = {
        "x": d.image(n, inputs, d.integer(4, 7), d.integer(4, 7)),
        "weight": d.numbers(
            *kernels, outputs, inputs, d.integer(1, 3), d.integer(1, 3), dtype=d.one_of([d.dtype, torch.float32])
        ),
        "styles": d.side(n, inputs),
        "up": 1,
        "down": 1,
        "padding": d.padding(0, 2),
        "resample_filter": d.taps(4),
        # Demodulated, a single channel's style has no effect but by epsilon: its gradient is the rounding of what cancels.
        "demodulate": inputs > 1 and d.flag(),
        "flip_weight": d.flag(),
        "input_gain": d.one_of([None, 0.5, d.side(), d.side(inputs), d.side(n, inputs)]),
        "bias": d.maybe(lambda: d.side(outputs)),
        "kernel_mix": d.side(n, *kernels) if mixed else None,
        **d.act(),
        "clamp": d.clamp(),
    }
    arguments[d.one_of(["up", "down"])] = d.integer(1, 2)
    return Call("modulated_conv2d", arguments, ("x", "weight", "styles", "input_gain", "bias", "kernel_mix"), "x")


MAKERS: list[Callable[[Draw], Call]] = [
    bias_act, modulate, adain, instance_norm, adain_from_features, pixel_norm, minibatch_stddev, grid_sample, interpolate,
    grad_norm_penalty, spectral_norm, upfirdn2d, _resampled("filter2d"), _resampled("upsample2d", up=2),
    _resampled("downsample2d", down=2), filtered_lrelu, conv2d, conv_transpose2d, conv2d_resample, modulated_conv2d,
]  # fmt: skip
"""One for every public function that computes with images (setup_filter and those in place have tests of their own)."""

# Arguments that size memory or time: a huge one is no error but a wish, which the machine may grant.
_SIZES = ("up", "down", "padding", "stride", "dilation", "output_padding", "n_power_iterations")
_HUGE = [2**70, -(2**70), 10**400, 1e308]


def _odd_tensors(value: Any, d: Draw) -> list[Any]:
    t = value if isinstance(value, Tensor) else torch.ones(3)
    return [
        torch.tensor(3.0),
        torch.zeros(0),
        torch.zeros(2, 3),
        t.long(),
        t.to(torch.complex64),
        t.to("meta"),
        t.unsqueeze(0),
        t.expand(2, *t.shape),
        t[..., :1] if t.dim() else t,
        t[:0] if t.dim() else t,
        torch.cat([t, t]) if t.dim() else t,
        t.double(),
        t.half(),
        t > 0,
        t.numpy() if t.dtype not in (torch.bfloat16,) else [1.0],
        t.tolist(),
    ]


def _odd_values(name: str, d: Draw) -> list[Any]:
    values = [
        None,
        "x",
        "relu",
        True,
        False,
        -1,
        0,
        7,
        1.5,
        -0.5,
        math.nan,
        math.inf,
        1j,
        [],
        [1, 2, 3],
        [1.5, 2],
        (1,),
        (0, 0),
    ]
    values += [[-20, -20], {}, object(), torch.float32, b"same", "same"]
    return values + ([] if name in _SIZES else _HUGE)


@st.composite
def calls(draw: Callable[..., Any]) -> Call:
    """A right call, or one with one argument replaced by something odd (which may be right again)."""
    d = Draw(draw)
    call = d.one_of(MAKERS)(d)
    call.order = d.one_of([0, 1, 1, 2])
    if d.integer(0, 2) == 0:
        call.broken = name = d.one_of(list(call.arguments))
        was_tensor = isinstance(call.arguments[name], Tensor)
        odd = _odd_tensors(call.arguments[name], d) if d.integer(0, 3) > 0 or not was_tensor else []
        plain = _odd_values(name, d)
        pool = odd if was_tensor and odd else plain if d.flag() or not odd else odd
        call.arguments[name] = value = pool[d.integer(0, len(pool) - 1)]
        call.huge = isinstance(value, (int, float)) and abs(value) > 1e9
    return call
