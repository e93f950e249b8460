"""Plain convolutions alone: what would remain of a network's time if everything else cost nothing.

A :class:`Convolutions` mode notes what a network asks for, each by its shapes, and repeats that later without the network: as
it was called (a codebase's own ceiling, benchmarks/peers.py), or as often as a phase must (:meth:`Convolutions.alone`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gankern import ops  # noqa: F401  registers the operators that are noted

_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default
_WEIGHT = {_FORWARD: 1, _BACKWARD: 2}
_GROUPS = {_FORWARD: 8, _BACKWARD: 9}


def _modulated(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Any, ...]:
    """A modulated convolution as the one that it does; upsampling ones are transposed (1x1: come before the filter)."""
    up, (left, _, top, _) = rest[6], rest[8]
    transposed = up > 1 and weight.shape[-1] > 1
    if transposed:
        return x, weight.transpose(0, 1), None, [up, up], [0, 0], [1, 1], True, [0, 0], 1
    padding = [0, 0] if up > 1 else [top, left]
    return x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1


def _ours() -> dict[Any, Callable[..., tuple[Any, ...]]]:
    """Operators of gankern to the arguments of ``aten::convolution`` that compute the same sums of products."""
    own = torch.ops.gankern
    return {
        own.conv2d.default: lambda x, w, b, stride, padding, dilation, groups: (
            x, w, None, stride, padding, dilation, False, [0, 0], groups
        ),
        own.conv_transpose2d.default: lambda x, w, b, stride, padding, extra, dilation, groups: (
            x, w, None, stride, padding, dilation, True, extra, groups
        ),
        own.modulated_conv2d_inference.default: _modulated,
    }  # fmt: skip


_OURS = _ours()

Passes = tuple[int, int, int]
"""How many convolutions, input gradients and weight gradients are made of every layer."""
FORWARD: Passes = (1, 0, 0)
BACKWARD: Passes = (1, 1, 1)
DOUBLE_BACKWARD: Passes = (2, 2, 2)
"""Forward, first gradients, and double backward as in R1 and path length: of a layer's input gradient both gradients are a
convolution and a weight gradient, those of its output an input gradient and a weight gradient."""


class Convolutions(TorchDispatchMode):
    """Notes the convolutions that PyTorch or gankern is asked for, and can repeat each alone.

    Depthwise ones do not count: they are the filters of a reference implementation of resampling.

    Attributes:
        calls: (operator, arguments with tensors as their shapes, strides and dtypes) to how often it was called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[tuple[Any, ...], int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _OURS:
            self._note(_FORWARD, *_OURS[func](*args))
        if func in _WEIGHT:
            depthwise = args[_GROUPS[func]] > 1 and args[_WEIGHT[func]].shape[1] == 1
            if not depthwise:
                self._note(func, *args)
        return func(*args, **(kwargs or {}))

    def _note(self, func: Any, *args: Any) -> None:
        key = (func, *(_frozen(argument) for argument in args))
        self.calls[key] = self.calls.get(key, 0) + 1

    def seconds(self) -> float:
        """Time of all of them, each kind measured alone (over 10 ms at least) and counted as often as it was called."""
        total = 0.0
        for (func, *frozen), count in self.calls.items():
            args = [_thawed(argument) for argument in frozen]
            func(*args)
            runs, start = 0, time.perf_counter()
            while runs == 0 or time.perf_counter() - start < 0.01:
                func(*args)
                runs += 1
            total += count * (time.perf_counter() - start) / runs
        return total

    def alone(self, passes: Passes, device: torch.device, channels_last: bool = False) -> Callable[[], None]:
        """A call that runs the noted forward convolutions as often as a phase needs them.

        Inputs and gradients lie in memory that all share, so that the call allocates its outputs alone.

        Args:
            passes: how often each, forward and backward.
            device: where to run; the shapes may be those of a network on the 'meta' device.
            channels_last: in which layout.
        """
        kinds: list[tuple[int, list[Any], Any]] = []
        largest: dict[torch.dtype, int] = {}
        for (func, *frozen), count in self.calls.items():
            if func is not _FORWARD:
                continue
            (_, shape, _, dtype), (_, w_shape, _, _), _, stride, padding, dilation, transposed, extra, groups = frozen
            settings = [list(stride), list(padding), list(dilation), transposed, list(extra), groups]
            with torch.device("meta"):
                y = torch.ops.aten.convolution(torch.empty(shape), torch.empty(w_shape), None, *settings)
            kinds.append((count, [tuple(shape), tuple(w_shape), tuple(y.shape), dtype], settings))
            for size in (shape, w_shape, y.shape):
                largest[dtype] = max(largest.get(dtype, 0), torch.Size(size).numel())
        # Random numbers: some processors and all GPUs are faster on zeros.
        memory = {dtype: [_random(n, dtype, device) for _ in range(3)] for dtype, n in largest.items()}
        forwards, inputs, weights = passes
        calls: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []
        for count, (shape, w_shape, y_shape, dtype), settings in kinds:
            views = (_view(m, s, channels_last) for m, s in zip(memory[dtype], (shape, w_shape, y_shape), strict=True))
            x, w, dy = views
            calls.append((count * forwards, torch.ops.aten.convolution, (x, w, None, *settings)))
            both = min(inputs, weights)
            masks = ((both, [True, True, False]), (inputs - both, [True, False, False]), (weights - both, [False, True, False]))
            for repeats, mask in masks:
                if repeats:
                    arguments = (dy, x, w, None, *settings, mask)
                    calls.append((count * repeats, torch.ops.aten.convolution_backward, arguments))

        def run() -> None:
            with torch.no_grad():
                for repeats, function, arguments in calls:
                    for _ in range(repeats):
                        function(*arguments)

        return run


def _random(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return torch.empty(count, dtype=dtype, device=device).normal_(0, 0.1, generator=generator)


def _view(memory: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    flat = memory[: torch.Size(shape).numel()]
    if channels_last and len(shape) == 4:
        n, c, h, w = shape
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)
    return flat.view(shape)


def _frozen(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return ("tensor", tuple(argument.shape), tuple(argument.stride()), argument.dtype)
    return tuple(argument) if isinstance(argument, (list, tuple)) else argument


def _thawed(argument: Any) -> Any:
    if isinstance(argument, tuple) and argument[:1] == ("tensor",):
        _, shape, strides, dtype = argument
        return torch.empty_strided(shape, strides, dtype=dtype).fill_(0.5)
    return list(argument) if isinstance(argument, tuple) else argument
