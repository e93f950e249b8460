"""The rows of whole models: both sides compute the same, and what a step is said to contain is in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gankern.bench import models, rows
from gankern.models import FAMILIES

STEP, FORWARD = models.MODELS["model_step"], models.MODELS["model_forward"]


def inputs(op: str, family: str) -> dict[str, Any]:
    sample = next(s for s in models.MODELS[op].samples if s.name == family)
    return sample.inputs(torch.float64)


def test_every_family_has_its_rows() -> None:
    for op in models.MODELS:
        for mode in rows.MODES:
            mine = list(rows.selections(mode, "cpu", [op]))
            assert {row.sample for row in mine} == set(FAMILIES)
            assert not any(row.compile for row in mine)
            assert {(row.layout, row.direction) for row in mine} == {("nchw", "forward")}


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_and_reference_compute_the_same(family: str) -> None:
    kwargs = inputs("model_step", family)
    with torch.no_grad():
        images, right = FORWARD.public(**kwargs), FORWARD.reference(**kwargs)
        norms, expected = STEP.public(**kwargs), STEP.reference(**kwargs)
    for a, b in zip((*images, *norms), (*right, *expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    assert all(bool(n > 0) for n in norms)


def test_the_kept_networks_are_those_of_the_given_state() -> None:
    first, second = inputs("model_forward", "dcgan"), inputs("model_forward", "dcgan")
    name = next(k for k in second if k.endswith("convs.0.weight"))
    second[name] = second[name] * 2
    with torch.no_grad():
        y, z, again = (FORWARD.public(**k)[0] for k in (first, second, first))
    assert torch.equal(y, again) and not torch.allclose(y, z)


def test_a_step_has_the_penalty_and_the_terms_of_its_family() -> None:
    """The critic's part of StyleGAN2's is loss and R1; the generator's part of pix2pix's is loss and 100 times L1."""
    kwargs = inputs("model_step", "stylegan2")
    gan = models._gan("stylegan2", "reference", True, kwargs)
    parameters = list(gan.discriminator.parameters())
    torch.manual_seed(0)
    fake = gan.generator(kwargs["generator_0"]).detach()
    x = kwargs["critic_0"].clone().requires_grad_()
    logits = gan.discriminator(x)
    (g,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    loss = F.softplus(-logits).mean() + F.softplus(gan.discriminator(fake)).mean() + 5 * g.square().sum() / len(x)
    right = torch.autograd.grad(loss, parameters)
    norm = torch.stack([g.square().sum() for g in right]).sum().sqrt()
    torch.testing.assert_close(STEP.public(**kwargs)[0], norm, rtol=1e-8, atol=0)

    kwargs = inputs("model_step", "pix2pix")
    gan = models._gan("pix2pix", "reference", True, kwargs)
    torch.manual_seed(0)
    y, x = kwargs["critic_0"], kwargs["critic_1"]
    fake = gan.generator(kwargs["generator_0"])
    loss = F.softplus(-gan.discriminator(fake, x)).mean() + 100 * (fake - y).abs().mean()
    right = torch.autograd.grad(loss, list(gan.generator.parameters()))
    norm = torch.stack([g.square().sum() for g in right]).sum().sqrt()
    torch.testing.assert_close(STEP.public(**kwargs)[1], norm, rtol=1e-8, atol=0)
