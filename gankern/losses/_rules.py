"""Which layers and functions qualify for the merged gradient of ``merged.py``, and how each runs on its tape."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gankern import ops
from gankern.losses._tape import Convolution, Factor, Matrix, Tape, Transposed, Unfit, from_images, pair, trained
from gankern.ops.conv2d_resample import arguments as resample_arguments
from gankern.ops.conv2d_resample.plan import steps as resample_steps

PIECEWISE_LINEAR = ("linear", "relu", "lrelu")
"""The activations of bias_act that qualify."""

Rule = Callable[..., Any]


# ---- rules: functions -------------------------------------------------------------------------------------------------------


def _native(run: Rule) -> Rule:
    """A function without parameters that is piecewise linear in all images it gets: autograd knows it."""

    def rule(tape: Tape, *args: Any, **kwargs: Any) -> Any:
        if any(trained(t) for t in tree_leaves((args, kwargs))):
            raise Unfit("it takes a trained tensor")
        return run(*args, **kwargs)

    return rule


def _conv2d(tape: Tape, input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
            groups: int = 1) -> Tensor:  # fmt: skip
    _images(input)
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(pair(dilation), weight.shape[2:], strict=True)]
        reach = [0, 0] if padding == "valid" else reach
        if any(r % 2 for r in reach):
            input = F.pad(input, [0, reach[1] % 2, 0, reach[0] % 2])
        padding = [r // 2 for r in reach]
    return tape.apply(Convolution(stride, padding, dilation, groups), input, weight, bias)


def _conv_transpose2d(tape: Tape, input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
                      output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Tensor:  # fmt: skip
    _images(input)
    return tape.apply(Transposed(stride, padding, output_padding, dilation, groups), input, weight, bias)


def _linear(tape: Tape, input: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    if input.dim() < 2:
        raise Unfit("it mixes the samples of a batch")
    return tape.apply(Matrix(), input, weight, bias)


def _conv2d_resample(tape: Tape, *args: Any, **kwargs: Any) -> Tensor:
    given = inspect.signature(ops.conv2d_resample).bind(*args, **kwargs)
    given.apply_defaults()
    w = given.arguments["w"]
    p = resample_arguments.prepare(*given.args)
    y = given.arguments["x"]
    correlation = w if p.flip_weight else w.flip(2, 3)
    for step in resample_steps(p.w.shape[2:], p.padding, p.f is not None, p.up, p.down, p.groups):
        if step.op == "upfirdn2d":
            y = ops.upfirdn2d(y, p.f if step.taps else None, flip_filter=p.flip_filter, **step.settings)
        elif step.op == "conv2d":
            y = _conv2d(tape, y, correlation, **step.settings)
        else:
            # A transposed convolution convolves, and takes [in, out / groups, kh, kw].
            kernel = correlation.flip(2, 3).unflatten(0, (p.groups, -1)).transpose(1, 2).flatten(0, 1)
            y = _conv_transpose2d(tape, y, kernel, **step.settings)
    return y


def _bias_act(tape: Tape, *args: Any, **kwargs: Any) -> Tensor:
    given = inspect.signature(ops.bias_act).bind(*args, **kwargs)
    given.apply_defaults()
    a = given.arguments
    if a["act"] not in PIECEWISE_LINEAR:
        raise Unfit(f"its activation {a['act']} is not piecewise linear")
    if any(trained(a[name]) or from_images(a[name]) for name in ("noise", "noise_strength")):
        raise Unfit("its noise has a trained strength")
    if a["b"] is not None and a["dim"] % a["x"].dim() == 0:
        raise Unfit("its bias belongs to the samples")
    a["x"] = tape.watch(a["x"], a["b"], a["dim"])
    a["b"] = None if a["b"] is None else a["b"].detach()
    return ops.bias_act(*given.args, **given.kwargs)


def _sum_of(sign: int) -> Rule:
    def rule(tape: Tape, input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
        parameter = next((t for t in (input, other) if trained(t)), None)
        if parameter is None:
            return input + other if sign * alpha == 1 else input + other * (sign * alpha)
        x = other if parameter is input else input
        _broadcast(x, parameter)
        x = x.to(torch.result_type(x, parameter))
        # The parameter with its sign and factor, graph and all, is what is added.
        term = parameter if parameter is input else parameter * (sign * alpha)
        x = x if parameter is other else x * (sign * alpha)
        return tape.watch(x, term, None) + term.detach()

    return rule


def _product(tape: Tape, input: Any, other: Any) -> Tensor:
    if from_images(input) and from_images(other):
        raise Unfit("it multiplies two tensors that depend on the images")
    parameter = next((t for t in (input, other) if trained(t)), None)
    if parameter is None:
        return input * other
    x = other if parameter is input else input
    _broadcast(x, parameter)
    dtype = torch.result_type(x, parameter)
    return tape.apply(Factor(), x.to(dtype), parameter.to(dtype))


def _quotient(tape: Tape, input: Any, other: Any) -> Tensor:
    if from_images(other):
        raise Unfit("it divides by a tensor that depends on the images")
    if trained(other):
        return _product(tape, input, 1 / other)
    return input / other


def _reduction(run: Rule) -> Rule:
    def rule(tape: Tape, input: Tensor, dim: Any = None, keepdim: bool = False, **rest: Any) -> Tensor:
        dims = range(input.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
        if any(d % input.dim() == 0 for d in dims):
            raise Unfit("it mixes the samples of a batch")
        return run(input, dim, keepdim, **rest)

    return rule


def _getitem(tape: Tape, value: Any, index: Any) -> Any:
    first = index[0] if isinstance(index, tuple) and index else index
    if first is not Ellipsis and first != slice(None):
        raise Unfit("it picks samples out of a batch")
    return value[index]


def _attribute(tape: Tape, value: Any, name: str) -> Any:
    if name not in ("shape", "dtype", "device", "ndim"):
        raise Unfit(f"it takes .{name} of a tensor that depends on the images")
    return getattr(value, name)


def _permute(tape: Tape, input: Tensor, *dims: Any) -> Tensor:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    if order[0] not in (0, -input.dim()):
        raise Unfit("it moves the batch to another dimension")
    return input.permute(*order)


_NATIVE_FUNCTIONS: list[Any] = [
    F.relu, torch.relu, F.relu_, F.leaky_relu, F.leaky_relu_, F.relu6, F.hardtanh, torch.clamp, torch.abs,
    F.avg_pool2d, F.adaptive_avg_pool2d, F.max_pool2d, F.adaptive_max_pool2d, F.interpolate, F.pixel_shuffle,
    F.pixel_unshuffle, F.pad, torch.flatten, torch.reshape, torch.cat, torch.concat, torch.neg, torch.squeeze,
    torch.unsqueeze, operator.neg, operator.pos, ops.upfirdn2d, ops.upsample2d, ops.downsample2d, ops.filter2d,
]  # fmt: skip
FUNCTIONS: dict[Any, Rule] = {
    **{f: _native(f) for f in _NATIVE_FUNCTIONS},
    **dict.fromkeys((F.conv2d, torch.conv2d, ops.conv2d), _conv2d),
    **dict.fromkeys((F.conv_transpose2d, torch.conv_transpose2d, ops.conv_transpose2d), _conv_transpose2d),
    **dict.fromkeys((operator.add, operator.iadd, torch.add), _sum_of(1)),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub), _sum_of(-1)),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul), _product),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div), _quotient),
    F.linear: _linear,
    ops.conv2d_resample: _conv2d_resample,
    ops.bias_act: _bias_act,
    torch.mean: _reduction(torch.mean),
    torch.sum: _reduction(torch.sum),
    torch.permute: _permute,
    operator.getitem: _getitem,
    getattr: _attribute,
}
_NATIVE_METHODS = ("relu", "relu_", "clamp", "abs", "view", "reshape", "flatten", "unflatten", "contiguous", "to", "float",
                   "double", "half", "bfloat16", "squeeze", "unsqueeze", "neg", "type_as", "size", "dim")  # fmt: skip
METHODS: dict[str, Rule] = {
    **{name: _native(getattr(Tensor, name)) for name in _NATIVE_METHODS},
    "add": _sum_of(1), "sub": _sum_of(-1), "mul": _product, "div": _quotient, "permute": _permute,
    "mean": _reduction(torch.mean), "sum": _reduction(torch.sum),
}  # fmt: skip


# ---- rules: modules ---------------------------------------------------------------------------------------------------------
def kind_of(module: nn.Module) -> type:
    """The module's class; under torch.nn.utils.parametrize the one that was written."""
    kind = type(module)
    return kind.__bases__[0] if nn.utils.parametrize.is_parametrized(module) else kind


def _conv2d_module(tape: Tape, m: nn.Conv2d, x: Tensor) -> Tensor:
    weight, padding = m.weight, m.padding
    if m.padding_mode != "zeros":
        x, padding = F.pad(x, m._reversed_padding_repeated_twice, mode=m.padding_mode), (0, 0)
    return _conv2d(tape, x, weight, m.bias, m.stride, padding, m.dilation, m.groups)


def _conv_transpose2d_module(tape: Tape, m: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    rest = (m.stride, m.padding, m.output_padding, m.groups, m.dilation)
    return _conv_transpose2d(tape, x, m.weight, m.bias, *rest)


def _equalized(tape: Tape, m: Any, x: Tensor) -> Tensor:
    """The Conv2d, ConvTranspose2d and Linear of gankern.nn."""
    if m.reference:
        raise Unfit("it runs its reference")
    weight, bias = m.scaled(x.dtype)
    if weight.dim() == 2:
        y = _linear(tape, x, weight)
    elif hasattr(m, "geometry"):
        y = _conv_transpose2d(tape, x, weight, None, **m.geometry)
    elif m.up == m.down == 1:
        y = _conv2d(tape, x, weight, None, m.stride, m.padding, 1, m.groups)
    else:
        y = _conv2d_resample(tape, x, weight, m.resample_filter, m.up, m.down, m.padding, m.groups)
    return _bias_act(tape, y, bias, **m.settings)


def _bias_act_module(tape: Tape, m: Any, x: Tensor) -> Tensor:
    if m.reference:
        raise Unfit("it runs its reference")
    if m.noise_strength is not None:
        raise Unfit("it adds noise of trained strength")
    return _bias_act(tape, x, m.bias, **m.settings)


def _as_it_is(tape: Tape, m: nn.Module, x: Tensor) -> Tensor:
    return m(x)  # type: ignore[no-any-return]


def _dropout(tape: Tape, m: nn.Module, x: Tensor) -> Tensor:
    if m.training:
        raise Unfit("it is random in training mode")
    return m(x)  # type: ignore[no-any-return]


@cache
def modules() -> dict[type, Rule]:
    """The rule of each class of module that qualifies."""
    from gankern import nn as layers  # not above: gankern.nn has penalties, which are made of this package's

    plain = [nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d,
             nn.AdaptiveMaxPool2d, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ZeroPad2d,
             nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.Upsample, layers.Blur, layers.Upsample2d,
             layers.Downsample2d]  # fmt: skip
    return {
        **dict.fromkeys(plain, _as_it_is),
        **dict.fromkeys((nn.Dropout, nn.Dropout2d), _dropout),
        **dict.fromkeys((layers.Conv2d, layers.ConvTranspose2d, layers.Linear), _equalized),
        nn.Conv2d: _conv2d_module,
        nn.ConvTranspose2d: _conv_transpose2d_module,
        nn.Linear: lambda tape, m, x: _linear(tape, x, m.weight, m.bias),
        layers.BiasAct: _bias_act_module,
    }


# ---- small things -----------------------------------------------------------------------------------------------------------
def _images(x: Tensor) -> None:
    if x.dim() != 4:
        raise Unfit(f"its input has {x.dim()} dimensions, not [N, C, H, W]")


def _broadcast(x: Tensor, parameter: Tensor) -> None:
    same = parameter.dim() < x.dim() or (parameter.dim() == x.dim() and parameter.shape[0] == 1)
    if not same or torch.broadcast_shapes(x.shape, parameter.shape) != x.shape:
        raise Unfit(f"a trained tensor of shape {list(parameter.shape)} does not broadcast to its input {list(x.shape)}")
