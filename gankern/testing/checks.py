"""The contract that every op, backend and sample is held to: forward, first and second derivative against float64.

Shared by ``tests/test_contract.py`` and ``gankern check``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankern._dispatch import OpSpec, use_backend
from gankern._layout import memory_format
from gankern._samples import Sample
from gankern.testing.compare import Comparison, compare
from gankern.testing.poison import poisoned_memory


@dataclass(frozen=True)
class Outcome:
    """What one check found: 'forward', 'vjp x' or 'double vjp x' (or another argument's name), and the comparison."""

    what: str
    comparison: Comparison


@dataclass(frozen=True)
class Values:
    """Output, gradients of <output, v>, and gradients of <those gradients, u> in the arguments and in v."""

    output: Tensor
    first: dict[str, Tensor | None]
    second: dict[str, Tensor | None]


def _like(tensors: list[Tensor], seed: int, rounding: list[torch.dtype]) -> list[Tensor]:
    """Random tensors of the same shapes and dtypes, with the numbers that ``rounding`` can hold."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for t, dtype in zip(tensors, rounding, strict=True):
        values = torch.randn(t.shape, generator=generator, dtype=torch.float64).to(dtype)
        made.append(values.to(t.dtype).to(t.device))
    return made


def derivatives(
    function: Callable[..., Tensor],
    kwargs: dict[str, Any],
    names: tuple[str, ...],
    order: int = 2,
    rounding: dict[str, torch.dtype] | None = None,
) -> Values:
    """Values and derivatives up to ``order`` (0, 1 or 2) of ``function(**kwargs)`` in the arguments ``names``.

    The cotangents are random but the same for every backend; ``rounding`` gives the dtypes ('output' and every name) whose
    numbers they are to be, so that a float64 truth and a half-precision result see the same ones.
    """
    rounding = rounding or {}
    output = function(**kwargs)
    if order == 0 or not names:
        return Values(output, {}, {})
    leaves = [kwargs[name] for name in names]
    (v,) = _like([output], 1, [rounding.get("output", output.dtype)])
    v.requires_grad_(order > 1)
    first = torch.autograd.grad(output, leaves, v, create_graph=order > 1, allow_unused=True)
    if order == 1:
        return Values(output, dict(zip(names, first, strict=True)), {})
    present = [(name, g) for name, g in zip(names, first, strict=True) if g is not None]
    gradients = [g for _, g in present]
    u = _like(gradients, 2, [rounding.get(name, g.dtype) for name, g in present])
    second = torch.autograd.grad(gradients, [v, *leaves], u, allow_unused=True)
    return Values(output, dict(zip(names, first, strict=True)), dict(zip(("cotangent", *names), second, strict=True)))


def in_float64(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same (already rounded) inputs in float64."""
    return {
        k: v.detach().to(torch.float64).requires_grad_(v.requires_grad)
        if isinstance(v, Tensor) and v.is_floating_point()
        else v
        for k, v in kwargs.items()
    }


def check_sample(
    spec: OpSpec, sample: Sample, backend: str | None, dtype: torch.dtype, layout: str, device: str = "cpu", order: int = 2
) -> list[Outcome]:
    """Hold one backend (None: what dispatch takes) to the float64 reference on one sample, in poisoned memory."""
    kwargs = sample.inputs(dtype, layout, device)
    rounding = {"output": dtype, **{name: kwargs[name].dtype for name in sample.differentiable}}
    truth = derivatives(spec.reference, in_float64(sample.inputs(dtype, layout)), sample.differentiable, order, rounding)
    half = dtype in (torch.bfloat16, torch.float16)
    eager = derivatives(spec.reference, sample.inputs(dtype, layout), sample.differentiable, order) if half else None
    with poisoned_memory():
        if backend is None:
            result = derivatives(spec.public, kwargs, sample.differentiable, order)
        else:
            with use_backend(backend):
                result = derivatives(spec.public, kwargs, sample.differentiable, order)
    # A chain of operators rounds between them, in half types, where the reference may not: once for every stage in forward,
    # again in backward, and in the adjoints of both.
    passes = [1.0] * 3 if spec.stages == 1 or not half else [1.0 * spec.stages, 2.0 * spec.stages, 4.0 * spec.stages]
    outcomes = [Outcome("forward", compare(result.output, truth.output, eager.output if eager else None, passes[0]))]
    expected = torch.float32 if spec.wide_output and half else dtype
    if result.output.dtype != expected:
        outcomes.append(Outcome("dtype", Comparison(0, 0, 0, f"{result.output.dtype} instead of {expected}")))
    if result.output.dim() == 4 and not result.output.is_contiguous(memory_format=memory_format(kwargs[spec.image])):
        outcomes.append(Outcome("layout", Comparison(0, 0, 0, f"strides {result.output.stride()} from {layout}")))
    for title, mine, right, eagers, factor in (
        ("vjp", result.first, truth.first, eager.first if eager else {}, passes[1]),
        ("double vjp", result.second, truth.second, eager.second if eager else {}, passes[2]),
    ):
        for name, value in mine.items():
            found = compare_gradient(value, right[name], eagers.get(name), result.output.numel(), factor)
            outcomes.append(Outcome(f"{title} {name}", found))
    return outcomes


def compare_gradient(
    result: Tensor | None, truth: Tensor | None, eager: Tensor | None, terms: int, factor: float = 1.0
) -> Comparison:
    """As :func:`compare`, but an absent gradient and one of zeros are the same, and a gradient that is a sum has its bound.

    A gradient with fewer elements than the output (``terms``) sums R = terms / elements numbers. Rounding errors scale with
    the sum of their magnitudes, R a, but the sum of R numbers of random sign is only sqrt(R) a: the quotient is sqrt(R).
    """
    if result is None and truth is not None and not truth.any():
        return Comparison(0.0, 0.0, 0.0)
    if truth is None and result is not None and not result.any():
        return Comparison(0.0, 0.0, 0.0)
    reduced = 1.0 if result is None else max(1.0, terms / max(result.numel(), 1)) ** 0.5
    return compare(result, truth, eager, factor=reduced * factor)
