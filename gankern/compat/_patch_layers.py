"""What :func:`gankern.patch` makes of PyTorch's own layers.

A patched module stays the object that it is, with everything in it: its class changes, to one that is made here out of a
forward method of this file and the module's own class, and changes back. So there is nothing to keep in step: parameters,
buffers, hooks, names in the state_dict, references from elsewhere and ``isinstance`` are what they were.

Each forward method takes the inputs it is sure of; with anything else (no batch dimension, integers, complex numbers, tensor
subclasses, tracers' proxies) the module's own forward method runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.spectral_norm import SpectralNorm

from gankern import ops
from gankern.nn.bias_act import epilogue

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# What a fused call knows of the activation behind a layer: its name in gankern.ops and its alpha.
ACTIVATIONS: dict[type[nn.Module], Callable[[Any], tuple[str, float | None]]] = {
    nn.ReLU: lambda m: ("relu", None),
    nn.LeakyReLU: lambda m: ("lrelu", float(m.negative_slope)),
    nn.Sigmoid: lambda m: ("sigmoid", None),
    nn.SiLU: lambda m: ("swish", None),
    nn.Tanh: lambda m: ("tanh", None),
}


class Patch(NamedTuple):
    """What a class of a patched module is made of: the module's own class, the kind of forward method, and its settings."""

    original: type[Any]
    kind: str
    settings: tuple[Any, ...] = ()


def usual(x: Any, dim: int = 4) -> bool:
    """Whether ``x`` is a plain floating-point tensor of so many dimensions, outside of tracing and exporting."""
    return _plain(x) and x.dim() == dim


def _plain(x: Any) -> bool:
    fits = type(x) in (Tensor, nn.Parameter) and x.dtype in DTYPES and x.layout is torch.strided
    return fits and not _traced()


def _traced() -> bool:
    """Whether ``torch.jit.trace`` or forward-mode differentiation wants to see PyTorch's own operators."""
    return torch.jit.is_tracing() or forward_ad._current_level >= 0


class Patched:
    """Behaviour that all classes of patched modules share."""

    _gankern_patch: Patch

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        made: Any = super().__reduce_ex__(protocol)
        return (rebuild, tuple(self._gankern_patch), *made[2:])

    def extra_repr(self) -> str:
        """The module's own, and that it is patched."""
        own = super().extra_repr()  # type: ignore[misc]
        return f"{own}, gankern" if own else "gankern"


def _activated(run: Callable[[Any], Any], input: Any, bias: Any, act: nn.Module | None, from_last: int) -> Any:
    """``act`` of what ``run(bias)`` gives, with the bias in one call with the activation where that can be."""
    if act is None:
        return run(bias)
    if bias is None or not _plain(input):
        return act(run(bias))
    y = run(None)
    name, alpha = ACTIVATIONS[type(act)](act)
    return epilogue(y, False, fresh=True, b=bias, dim=y.dim() - from_last, act=name, alpha=alpha, gain=1.0)


class _Linear(Patched):
    def forward(self, input: Any, *, act: nn.Module | None = None) -> Any:
        own: Any = self
        weight = own.weight  # read once: a parametrization may count
        return _activated(lambda bias: F.linear(input, weight, bias), input, own.bias, act, 1)


class _PlainConv2d(Patched):
    """PyTorch's own convolution; only the bias moves into the activation behind it."""

    def forward(self, input: Any, *, act: nn.Module | None = None) -> Any:
        own: Any = self
        weight = own.weight
        return _activated(lambda bias: own._conv_forward(input, weight, bias), input, own.bias, act, 3)


def _needless(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the operator would be PyTorch's own convolution with a longer way to it: no gradient is asked for.

    In half types, and under autocast, which makes such, it may have another layout inside.
    """
    graph = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (input, weight, bias))
    wide = input.dtype in (torch.float32, torch.float64)
    return wide and not graph and not torch.is_autocast_enabled(input.device.type)


class _Conv2d(_PlainConv2d):
    def _conv_forward(self, input: Any, weight: Any, bias: Any) -> Any:
        own: Any = self
        if not (usual(input) and usual(weight)) or _needless(input, weight, bias):
            return super()._conv_forward(input, weight, bias)  # type: ignore[misc]
        padding = own.padding
        if own.padding_mode != "zeros":
            input, padding = F.pad(input, own._reversed_padding_repeated_twice, mode=own.padding_mode), 0
        return ops.conv2d(input, weight, bias, own.stride, padding, own.dilation, own.groups)


class _PlainConvTranspose2d(Patched):
    """PyTorch's own transposed convolution; only the bias moves into the activation behind it."""

    _convolve: Any = staticmethod(F.conv_transpose2d)

    def forward(self, input: Any, output_size: Any = None, *, act: nn.Module | None = None) -> Any:
        own: Any = self
        if not usual(input) or own.padding_mode != "zeros":
            y = super().forward(input, output_size)  # type: ignore[misc]
            return y if act is None else act(y)
        more = own._output_padding(input, output_size, own.stride, own.padding, own.kernel_size, 2, own.dilation)
        weight = own.weight
        convolve = self._convolve if usual(weight) else F.conv_transpose2d

        def run(bias: Any) -> Any:
            return convolve(input, weight, bias, own.stride, own.padding, more, own.groups, own.dilation)

        return _activated(run, input, own.bias, act, 3)


class _ConvTranspose2d(_PlainConvTranspose2d):
    _convolve = staticmethod(ops.conv_transpose2d)


class _InstanceNorm2d(Patched):
    def forward(self, input: Any, *, act: nn.Module | None = None) -> Any:
        own: Any = self
        fits = usual(input) and input.shape[1] == own.num_features and input.numel() > input.shape[0] * input.shape[1]
        if not fits or not (own.training or not own.track_running_stats):
            y = super().forward(input)  # type: ignore[misc]
            return y if act is None else act(y)
        if own.running_mean is not None:
            self._advance(input)
        name, alpha = ("linear", None) if act is None else ACTIVATIONS[type(act)](act)
        return ops.instance_norm(input, own.weight, own.bias, own.eps, name, alpha, gain=1.0)

    @torch.no_grad()
    def _advance(self, input: Tensor) -> None:
        """Move the running statistics towards the mean over the batch of each image's own, as PyTorch does."""
        own: Any = self
        momentum = 0.0 if own.momentum is None else own.momentum
        variance, mean = torch.var_mean(input.to(torch.promote_types(input.dtype, own.running_mean.dtype)), (2, 3))
        own.running_mean.lerp_(mean.mean(0).to(own.running_mean.dtype), momentum)
        own.running_var.lerp_(variance.mean(0).to(own.running_var.dtype), momentum)


class _SpectralNorm(Patched):
    """The parametrization of ``torch.nn.utils.parametrizations.spectral_norm``."""

    def forward(self, weight: Any) -> Any:
        own: Any = self
        if not isinstance(weight, Tensor) or weight.dim() < 2 or not usual(weight, weight.dim()):
            return super().forward(weight)  # type: ignore[misc]
        return ops.spectral_norm(weight, own._u, own._v, own.dim, own.n_power_iterations if own.training else 0, own.eps)


class SpectralNormHook(SpectralNorm):
    """The hook of ``torch.nn.utils.spectral_norm``, with the weight's division and its derivatives in few passes."""

    def compute_weight(self, module: nn.Module, do_power_iteration: bool) -> Any:
        """The weight divided by its largest singular value."""
        weight, u, v = (getattr(module, self.name + suffix) for suffix in ("_orig", "_u", "_v"))
        if not isinstance(weight, Tensor) or weight.dim() < 2 or not usual(weight, weight.dim()):
            return super().compute_weight(module, do_power_iteration)
        if do_power_iteration:
            with torch.no_grad():
                matrix = self.reshape_weight_to_matrix(weight)
                # v before u: the other way round than the parametrization, and than gankern's own iteration.
                for _ in range(self.n_power_iterations):
                    F.normalize(torch.mv(matrix.t(), u), dim=0, eps=self.eps, out=v)
                    F.normalize(torch.mv(matrix, v), dim=0, eps=self.eps, out=u)
        return ops.spectral_norm(weight, u, v, self.dim % weight.dim(), 0, self.eps)


# Layers that take the activation behind them into their own call.
WITH_ACT = ("linear", "plain_conv2d", "conv2d", "plain_conv_transpose2d", "conv_transpose2d", "instance_norm2d")


def unwatched(module: nn.Module) -> bool:
    """Whether nothing is called with this module's output, or in place of its forward method."""
    m: Any = module
    return not (m._forward_hooks or m._backward_hooks or m._backward_pre_hooks or "forward" in m.__dict__)


def fusable(first: nn.Module, second: nn.Module) -> bool:
    """Whether ``first``, a patched layer, may apply ``second`` itself: nothing looks at what goes between them."""
    patch = patch_of(type(first))
    return type(second) in ACTIVATIONS and patch is not None and patch.kind in WITH_ACT and between(first, second)


def between(first: nn.Module, second: nn.Module) -> bool:
    """Whether nothing looks at what goes between two layers that follow each other, or would see that they are one call."""
    hooked = first._forward_pre_hooks_with_kwargs or second._forward_pre_hooks
    return unwatched(first) and unwatched(second) and not hooked


class _Sequential(Patched):
    """Layers and the activations right behind them in one call each; looked up at every call, so that both may change."""

    def forward(self, input: Any) -> Any:
        modules: list[Any] = list(self._modules.values())  # type: ignore[attr-defined]
        fuse = not (_has_any_global_hook() or _traced())
        place = 0
        while place < len(modules):
            if fuse and place + 1 < len(modules) and fusable(modules[place], modules[place + 1]):
                input = modules[place](input, act=modules[place + 1])
                place += 2
            else:
                input = modules[place](input)
                place += 1
        return input


FORWARDS: dict[str, type[Patched]] = {
    "linear": _Linear,
    "plain_conv2d": _PlainConv2d,
    "conv2d": _Conv2d,
    "plain_conv_transpose2d": _PlainConvTranspose2d,
    "conv_transpose2d": _ConvTranspose2d,
    "instance_norm2d": _InstanceNorm2d,
    "spectral_norm": _SpectralNorm,
    "sequential": _Sequential,
}
"""Kinds of patched modules; _patch_probed adds its own."""

_MADE: dict[Patch, type[Any]] = {}
_MARK = "_gankern_patch"


def patch_of(cls: type[Any]) -> Patch | None:
    """What a class of a patched module was made of, or None."""
    return getattr(cls, _MARK, None)


def patched_class(patch: Patch) -> type[Any]:
    """The class of a patched module: its name is the original's, which initialisation code asks for."""
    if patch not in _MADE:
        original = patch.original
        if parametrized(original):
            made = _derived(original, (patched_class(patch._replace(original=original.__bases__[0])),))
            setattr(made, _MARK, patch)
        else:
            space = {"__module__": __name__, "__qualname__": original.__qualname__, "__doc__": original.__doc__, _MARK: patch}
            made = type(original.__name__, (FORWARDS[patch.kind], original), space)
        if parametrized(original):
            return made  # one module's own class, with one module's properties: not to be shared or kept
        _MADE[patch] = made
    return _MADE[patch]


def original_class(cls: type[Any]) -> type[Any]:
    """The class that a patched module had; of a class that was derived from a patched one since, the same without gankern."""
    patch: Patch | None = vars(cls).get(_MARK)
    if patch is not None and (not parametrized(cls) or set(vars(patch.original)) == set(vars(cls)) - {_MARK}):
        return patch.original
    return _derived(cls, tuple(base if patch_of(base) is None else original_class(base) for base in cls.__bases__))


def parametrized(cls: type[Any]) -> bool:
    """Whether ``torch.nn.utils.parametrize`` made this class, to hold the properties of one module."""
    return (
        cls.__name__.startswith("Parametrized") and cls.__module__ == "torch.nn.utils.parametrize" and len(cls.__bases__) == 1
    )


def _derived(cls: type[Any], bases: tuple[type[Any], ...]) -> type[Any]:
    """A class like ``cls`` with other bases, which is where torch.nn.utils.parametrize looks when it is undone."""
    space = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__", _MARK)}
    metaclass: Any = type(cls)
    made: type[Any] = metaclass(cls.__name__, bases, space)
    return made


def rebuild(original: type[Any], kind: str, settings: tuple[Any, ...]) -> Any:
    """An empty module of a patched class, for unpickling and copying."""
    cls = patched_class(Patch(original, kind, settings))
    return object.__new__(cls)
