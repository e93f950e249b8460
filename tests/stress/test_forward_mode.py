"""Forward-mode differentiation (torch.autograd.forward_ad): right through the reference, or refused, and never dropped."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad

from gankern import ops
from gankern._dispatch import OPS
from gankern._samples import Sample

CASES = {
    f"{spec.name}-{sample.name}": (spec, sample)
    for spec in OPS.values()
    for sample in [s for s in spec.samples if "check" in s.tags][:2]
}


def tangents(sample: Sample, arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {k: torch.randn(arguments[k].shape, generator=generator, dtype=torch.float64) for k in sample.differentiable}


@pytest.mark.parametrize("mode", ["no_grad", "grad", "leaves"])
@pytest.mark.parametrize("name", CASES)
def test_tangents_are_those_of_backward(name: str, mode: str) -> None:
    """<v, J t> by forward mode is <J^T v, t> by backward."""
    spec, sample = CASES[name]
    arguments = sample.inputs(torch.float64)
    t = tangents(sample, arguments)
    y = spec.public(**arguments)
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = torch.autograd.grad(y, [arguments[k] for k in t], v, allow_unused=True)
    expected = sum(float((g * t[k]).sum()) for k, g in zip(t, gradients, strict=True) if g is not None)

    arguments = sample.inputs(torch.float64)  # anew: spectral_norm moves its vectors
    with torch.no_grad() if mode == "no_grad" else nullcontext(), forward_ad.dual_level():
        for k in t:
            leaf = arguments[k].detach().requires_grad_(mode == "leaves")
            arguments[k] = forward_ad.make_dual(leaf, t[k])
        tangent = forward_ad.unpack_dual(spec.public(**arguments)).tangent
        assert tangent is not None, "the tangents were dropped"
        got = float((tangent.detach() * v).sum())
    assert abs(got - expected) <= 1e-9 * max(abs(expected), float(tangent.detach().norm() * v.norm()))


@pytest.mark.parametrize("name", ["bias_act_", "modulate_"])
def test_in_place_it_is_refused(name: str) -> None:
    with torch.no_grad(), forward_ad.dual_level():
        x = forward_ad.make_dual(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3))
        with pytest.raises(NotImplementedError, match=name):
            getattr(ops, name)(x, act="tanh")


def test_backward_of_an_earlier_call_is_refused() -> None:
    """The graph was made by kernels, which know no tangents."""
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    y = ops.adain(x, None, None)
    with forward_ad.dual_level():
        v = forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y))
        with pytest.raises(NotImplementedError, match="adain_backward"):
            torch.autograd.grad(y, x, v)


def test_other_tensors_are_not_in_the_way() -> None:
    x, bias = torch.randn(2, 3, 4, 4), torch.randn(3)
    want = ops.bias_act(x, bias, act="lrelu")
    with forward_ad.dual_level():
        assert torch.allclose(ops.bias_act(x, bias, act="lrelu"), want)
        assert forward_ad.unpack_dual(ops.bias_act(x, bias)).tangent is None
