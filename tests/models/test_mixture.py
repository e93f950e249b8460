from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from network_checks import count

from gankern.models import (
    FAMILIES,
    DCGANConfig,
    DCGANDiscriminator,
    DCGANGenerator,
    GeneratorMixture,
    MGANConfig,
    MGANDiscriminator,
    MGANGenerator,
    R3GANGenerator,
    from_config,
    set_ops,
)

TINY = MGANConfig(resolution=16, z_dim=6, width=8, generators=3)
ONE = DCGANConfig(resolution=16, z_dim=6, width=8)


def mixture(weights: Any = None, **changes: Any) -> GeneratorMixture:
    torch.manual_seed(0)
    made = GeneratorMixture([DCGANGenerator(ONE.replace(**changes)) for _ in range(3)], weights)
    made(made.sample_z(64))  # running statistics that are not the first ones
    return made.eval()


# ---- which generator --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_generators_are_drawn_with_their_weights(prior: str) -> None:
    g = mixture([3, 1, 4], prior=prior)
    z = g.sample_z(20_000, torch.Generator().manual_seed(1))
    assert z.shape == (20_000, 7) and g.z_dim == 7
    if prior == "uniform":
        assert float(z.min()) >= -1 and float(z.max()) <= 1
    counts = torch.bincount(g.component(z), minlength=3) / 20_000
    torch.testing.assert_close(counts, torch.tensor([3 / 8, 1 / 8, 4 / 8]), atol=0.015, rtol=0)  # 4 deviations


def test_a_generator_of_weight_0_makes_nothing() -> None:
    g = mixture([0, 1, 0])
    z = torch.linspace(-1, 1, 101)[:, None].expand(-1, 7)
    assert bool((g.component(z) == 1).all())


def test_the_last_latent_chooses_and_the_others_are_the_generators() -> None:
    g = mixture()
    z = g.sample_z(4)
    z[:, -1] = torch.tensor([-0.99, 0.0, 0.99, 0.2])
    assert g.component(z).tolist() == [0, 1, 2, 1]
    y = g(z)
    for n, k in enumerate([0, 1, 2, 1]):
        torch.testing.assert_close(y[n], g.generators[k](z[n : n + 1, :-1])[0])
    torch.testing.assert_close(g(z, component=2), g.generators[2](z[:, :-1]))
    torch.testing.assert_close(g(z, component=torch.tensor([2, 2, 0, 1]))[2], g.generators[0](z[2:3, :-1])[0])


def test_all_on_everything_and_each_on_its_own_are_the_same() -> None:
    """On a GPU and in training every generator sees the whole batch; in evaluation on a CPU its own samples."""
    g = mixture(prior="normal")
    whole = copy.deepcopy(g).train()
    for part in whole.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    z = g.sample_z(7)
    results = []
    for m in (g, whole):
        given = z.clone().requires_grad_()
        y = m(given)
        results.append((y, *torch.autograd.grad(y.pow(3).sum(), [given, *m.parameters()])))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert g(z[:0]).shape == (0, 3, 16, 16)


def test_fused_and_reference() -> None:
    g = mixture()
    z = g.sample_z(5)
    fused = g(z)
    set_ops(g, "reference")
    assert all(part.reference for part in g.modules() if hasattr(part, "reference"))
    torch.testing.assert_close(g(z), fused)


def test_generators_of_other_families_and_with_classes() -> None:
    torch.manual_seed(0)
    config: Any = FAMILIES["r3gan"].tiny.replace(num_classes=4)
    g = GeneratorMixture([R3GANGenerator(config) for _ in range(2)]).eval()
    labels = torch.tensor([0, 3, 1])
    z = g.sample_z(3)
    z[:, -1] = torch.tensor([-0.5, 0.7, -2])
    assert g.num_classes == 4 and g.component(z).tolist() == [0, 1, 0]
    y = g(z, labels)
    for n, k in enumerate(g.component(z)):
        alone = g.generators[int(k)](z[n : n + 1, :-1], labels[n : n + 1])
        torch.testing.assert_close(y[n : n + 1], alone, rtol=1e-4, atol=1e-5)


# ---- MGAN -------------------------------------------------------------------------------------------------------------------
def test_mgans_layers_are_those_of_the_paper() -> None:
    """CIFAR-10: 10 input layers 100 to 4x4x512, then shared 256, 128 and 3 channels; the discriminator has one more head."""
    with torch.device("meta"):
        gan: Any = from_config("mgan-cifar10")
        one = from_config("dcgan", resolution=32)
    g, d = gan.generator, gan.discriminator
    assert [tuple(p.weight.shape) for p in g.project] == [(4 * 4 * 512, 100)] * 10
    assert [c.weight.shape[1] for c in g.shared.convs] == [256, 128, 3]
    assert count(g) == count(one.generator) + 9 * (100 * 4 * 4 * 512 + 2 * 512)
    assert count(d) == count(one.discriminator) + 4 * 4 * 512 * 10 + 10
    assert d.classifier.weight.shape == (10, 4 * 4 * 512)


def test_each_of_mgans_generators_is_a_dcgan() -> None:
    torch.manual_seed(0)
    g = MGANGenerator(TINY)
    g(g.sample_z(32))
    g.eval()
    z = g.sample_z(6)
    z[:, -1] = torch.linspace(-0.9, 0.9, 6)
    chosen = g.component(z)
    assert chosen.tolist() == [0, 0, 1, 1, 2, 2]
    y = g(z)
    for k in range(3):
        alone = DCGANGenerator(ONE).eval()
        state = {f"layers.convs.{n}": v for n, v in g.shared.convs.state_dict().items()}
        state |= {"layers.project.weight": g.project[k].weight}
        state |= {f"layers.norms.0.{n}": v for n, v in g.norms[k].state_dict().items()}
        for i, norm in enumerate(g.shared.norms, 1):
            state |= {f"layers.norms.{i}.{n}": v for n, v in norm.state_dict().items()}
        alone.load_state_dict(state)
        right = alone(z[:, :-1])
        torch.testing.assert_close(g(z, component=k), right)
        torch.testing.assert_close(y[chosen == k], right[chosen == k])


def test_both_heads_are_of_one_pass() -> None:
    torch.manual_seed(0)
    d = MGANDiscriminator(TINY).eval()
    x = torch.randn(4, 3, 16, 16)
    logits, which = d.heads(x)
    assert logits.shape == (4, 1) and which.shape == (4, 3)
    assert torch.equal(d(x), logits) and torch.equal(d.classify(x), which)
    plain = DCGANDiscriminator(ONE).eval()
    plain.load_state_dict({k: v for k, v in d.state_dict().items() if not k.startswith("classifier")})
    torch.testing.assert_close(plain(x), logits)


def test_the_classifier_parts_the_generators() -> None:
    """The game of equation 2 without the discriminator's part: classifier and generators both minimise the cross-entropy."""
    torch.manual_seed(0)
    g, d = MGANGenerator(TINY), MGANDiscriminator(TINY)
    optimizer = torch.optim.Adam([*g.parameters(), *d.parameters()], 2e-3, (0.5, 0.999))
    losses = []
    for _ in range(20):
        z = g.sample_z(24)
        loss = F.cross_entropy(d.heads(g(z))[1], g.component(z))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 < 0.9 < losses[0]
    assert all(p.grad is not None for p in g.parameters())


# ---- bad input --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: GeneratorMixture([]), "GeneratorMixture: generators must be at least one, got none"),
        (
            lambda: GeneratorMixture([DCGANGenerator(ONE), DCGANGenerator(ONE.replace(z_dim=5))]),
            r"generators must have the z_dim of the first \(6\), got 5 at 1",
        ),
        (
            lambda: GeneratorMixture([DCGANGenerator(ONE), DCGANGenerator(ONE.replace(resolution=8))]),
            r"generators must have the image_shape of the first \(\(3, 16, 16\)\), got \(3, 8, 8\) at 1",
        ),
        (
            lambda: GeneratorMixture([DCGANGenerator(ONE), DCGANGenerator(ONE.replace(prior="normal"))]),
            r"generators must have the prior of the first \(uniform\), got normal at 1",
        ),
        (lambda: mixture([1, 1]), r"GeneratorMixture: weights must be 3 numbers, not negative and not all 0, got \[1, 1\]"),
        (lambda: mixture([1, -1, 1]), "weights must be 3 numbers, not negative and not all 0"),
        (lambda: mixture([0, 0, 0]), "weights must be 3 numbers, not negative and not all 0"),
        (lambda: mixture()(torch.zeros(2, 6)), r"GeneratorMixture: z must be \[N, 7\], got \[2, 6\]"),
        (lambda: mixture()(torch.zeros(2, 7), component=3), "component must be from 0 to 2, got 3"),
        (lambda: mixture()(torch.zeros(2, 7), component=torch.tensor([0, -1])), "component must be from 0 to 2, got -1"),
        (lambda: mixture()(torch.zeros(2, 7), component=torch.tensor([0])), r"component must be an int or int64 \[2\]"),
        (lambda: mixture()(torch.zeros(2, 7), component=1.0), r"component must be an int or int64 \[2\], got float"),
        (lambda: MGANGenerator(TINY)(torch.zeros(2, 6)), r"MGANGenerator: z must be \[N, 7\], got \[2, 6\]"),
        (lambda: MGANGenerator(TINY)(torch.zeros(2, 7), torch.zeros(2).long()), "MGANGenerator: labels must be None"),
        (lambda: TINY.replace(generators=0), "MGANConfig: generators must be at least 1, got 0"),
        (lambda: TINY.replace(weights=(1.0,)), r"MGANConfig: weights must be empty or 3 numbers, .*, got \(1.0,\)"),
        (lambda: TINY.replace(resolution=24), "MGANConfig: resolution must be a power of two"),
        (lambda: MGANDiscriminator(TINY).heads(torch.zeros(1, 3, 8, 8)), r"MGANDiscriminator: images must be \[N, 3, 16, 16\]"),
    ],
)
def test_bad_input_is_named(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_only_generators_from_latents() -> None:
    with pytest.raises(TypeError, match="GeneratorMixture: generators must be LatentGenerators, got ReLU at 1"):
        GeneratorMixture([DCGANGenerator(ONE), torch.nn.ReLU()])  # type: ignore[list-item]


def test_settings_go_through_json() -> None:
    config = TINY.replace(weights=(1.0, 2.0, 3.0))
    again = MGANConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert MGANGenerator(config).weights == pytest.approx((1 / 6, 2 / 6, 3 / 6))
