"""What the style-based generators share: the mapping by hand, truncation, the running mean, style mixing, named errors."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import losses, models
from gankern.models import MappingNetwork, StyleGenerator

STYLES = [name for name in models.FAMILIES if name.startswith("stylegan")]


def generator(name: str = "stylegan2", **changes: int) -> StyleGenerator:
    torch.manual_seed(0)
    made = models.from_config(models.FAMILIES[name].tiny.replace(**changes)).generator
    assert isinstance(made, StyleGenerator)
    return made


def by_hand(m: MappingNetwork, z: Tensor | None, labels: Tensor | None = None) -> Tensor:
    """Each step as the papers have it, in plain PyTorch."""

    def unit(x: Tensor) -> Tensor:
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()

    parts = [] if z is None else [unit(z)]
    if m.embedding is not None:
        assert labels is not None
        parts.append(unit(m.embedding.weight[labels]))
    x = torch.cat(parts, 1)
    for layer in m.layers:
        weight = layer.weight * (0.01 / math.sqrt(x.shape[1]))
        x = F.leaky_relu(x @ weight.T + 0.01 * layer.bias, 0.2) * math.sqrt(2)
    return x


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("reference", [False, True])
def test_mapping_is_the_papers(classes: int, reference: bool) -> None:
    torch.manual_seed(0)
    m = MappingNetwork(6, 8, 5, classes, num_layers=3, reference=reference).double()
    for layer in m.layers:
        torch.nn.init.normal_(layer.bias, std=30)
    z, labels = torch.randn(4, 6).double(), torch.tensor([0, 1, 2, 0]) if classes else None
    w = m(z, labels)
    assert w.shape == (4, 5, 8)
    for i in range(5):
        torch.testing.assert_close(w[:, i], by_hand(m, z, labels))
    torch.testing.assert_close(m(3 * z, labels), w, msg="only the direction of z matters")


def test_the_first_w_has_unit_variance_and_no_layers_are_no_axis() -> None:
    torch.manual_seed(0)
    w = MappingNetwork(64, 64)(torch.randn(256, 64))
    assert w.shape == (256, 64)
    assert float(w.square().mean().sqrt()) == pytest.approx(1, abs=0.3)


def test_classes_alone() -> None:
    torch.manual_seed(0)
    m = MappingNetwork(0, 8, num_classes=3, num_layers=2, w_avg_beta=None)
    labels = torch.tensor([2, 0])
    torch.testing.assert_close(m(None, labels), by_hand(m, None, labels))
    assert "w_avg" not in m.state_dict()


@pytest.mark.parametrize("cutoff", [None, 0, 2, 6])
def test_truncation(cutoff: int | None) -> None:
    m = generator(resolution=16).mapping
    z = torch.randn(3, 16)
    torch.nn.init.normal_(m.w_avg)
    plain, w = m(z), m(z, truncation=0.3, truncation_cutoff=cutoff)
    n = 6 if cutoff is None else cutoff
    torch.testing.assert_close(w[:, :n], m.w_avg + 0.3 * (plain[:, :n] - m.w_avg))
    assert torch.equal(w[:, n:], plain[:, n:])
    torch.testing.assert_close(m(z, truncation=0.0), m.w_avg.expand(3, 6, 16))
    assert torch.equal(m(z, truncation=1.0), plain)


def test_running_mean() -> None:
    m = MappingNetwork(6, 8, 4, num_layers=2, w_avg_beta=0.9)
    z = torch.randn(5, 6)
    w = m(z)
    assert torch.equal(m.w_avg, torch.zeros(8)), "nothing moves unless asked"
    assert torch.equal(m(z, update_w_avg=True), w)
    torch.testing.assert_close(m.w_avg, 0.1 * w[:, 0].mean(0))
    m.update_w_avg(w)
    torch.testing.assert_close(m.w_avg, 0.19 * w[:, 0].mean(0))
    m.update_w_avg(w[:, 0])
    assert not m.w_avg.requires_grad
    for _ in range(200):
        m.update_w_avg(w)
    torch.testing.assert_close(m.w_avg, w[:, 0].mean(0), msg="it converges to the mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        m(z, update_w_avg=True)
    assert m.w_avg.dtype == torch.float32
    with pytest.raises(ValueError, match=r"w must be \[N, 8\] or \[N, num_ws, 8\], got \[2, 7\]"):
        m.update_w_avg(torch.zeros(2, 7))


@pytest.mark.parametrize("name", STYLES)
def test_forward_is_mapping_then_synthesis_and_mixing(name: str) -> None:
    g = generator(name).double().eval()  # StyleGAN3 in training mode moves running magnitudes
    torch.nn.init.normal_(g.mapping.w_avg)
    z1, z2 = torch.randn(2, 3, g.z_dim).double()
    w1, w2 = g.mapping(z1), g.mapping(z2)
    assert w1.shape == (3, g.num_ws, g.w_dim)
    options = {"noise_mode": "const"} if name in ("stylegan", "stylegan2") else {}
    image = g(z1, **options)
    assert image.shape == (3, *g.image_shape)
    torch.testing.assert_close(image, g.synthesis(w1, **options))
    torch.testing.assert_close(g(z1, None, 0.5, 2, **options), g.synthesis(g.mapping(z1, None, 0.5, 2), **options))
    mixed = g.mix(w1, w2, 2)
    assert torch.equal(mixed[:, :2], w1[:, :2]) and torch.equal(mixed[:, 2:], w2[:, 2:])
    torch.testing.assert_close(g(z1, mixed_z=z2, crossover=2, **options), g.synthesis(mixed, **options))
    torch.testing.assert_close(g(z1, mixed_z=z2, crossover=g.num_ws, **options), image)
    torch.testing.assert_close(g.synthesis(w1[:, 0], **options), image, msg="one w serves all layers")
    assert not torch.allclose(g.synthesis(mixed, **options), image)


def test_mix_by_sample() -> None:
    g = generator()
    w1, w2 = torch.zeros(3, g.num_ws, g.w_dim), torch.ones(3, g.num_ws, g.w_dim)
    mixed = g.mix(w1, w2, torch.tensor([0, 2, g.num_ws]))
    assert mixed[..., 0].tolist() == [[1.0] * 6, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [0.0] * 6]
    assert g.mix(w1[:1], w2, 3).shape == w2.shape and g.mix(w1[:, 0], w2[:1, 0], 3).shape == w2.shape
    torch.manual_seed(0)
    drawn = g.sample_crossover(2000, 0.5)
    assert drawn.dtype == torch.int64 and set(drawn.tolist()) == {1, 2, 3, 4, 5, 6}
    assert float((drawn < g.num_ws).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(g.sample_crossover(9, 0.0), torch.full((9,), g.num_ws))
    seeded = [g.sample_crossover(9, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*seeded)


@pytest.mark.parametrize("name", ["stylegan", "stylegan2"])
def test_path_length_gradients(name: str) -> None:
    """Fused and reference agree in the gradients of path length regularisation: second derivatives of the whole synthesis."""
    g = generator(name).double()
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.1 * torch.randn_like(p))  # strengths and biases are 0 at first
    other = copy.deepcopy(g)
    models.set_ops(other, "reference")
    z, noise = torch.randn(2, g.z_dim).double(), torch.randn(2, *g.image_shape).double() / g.image_shape[1]
    found = []
    for m in (g, other):
        w = m.mapping(z)
        penalty, lengths, _ = losses.path_length_penalty(m.synthesis(w, noise_mode="const"), w, 0.0, noise=noise)
        assert bool((lengths > 0).all())
        gradients = torch.autograd.grad(penalty, list(m.parameters()), allow_unused=True)
        found.append([penalty, *(torch.zeros(()) if t is None else t for t in gradients)])
        # Constants and biases of the image are not differentiated through; what makes styles of z is.
        assert sum(t is not None for t in gradients) > len(gradients) / 2
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_bad_input() -> None:
    g = generator(num_classes=3)
    z, labels = torch.randn(2, 16), torch.tensor([0, 1])
    for call in (g, g.mapping):
        with pytest.raises(ValueError, match=r"z must be \[N, 16\], got \[2, 17\]"):
            call(torch.randn(2, 17), labels)
        with pytest.raises(ValueError, match="labels must be given, the model has 3 classes"):
            call(z)
        with pytest.raises(ValueError, match="labels must be from 0 to 2, got 3"):
            call(z, labels + 2)
        with pytest.raises(ValueError, match="truncation_cutoff must be 0 to 6 or None, got 7"):
            call(z, labels, 0.5, 7)
    with pytest.raises(ValueError, match="mixed_z and crossover must be given both or neither"):
        g(z, labels, crossover=2)
    w = g.mapping(z, labels)
    for crossover in (-1, 7, 1.5, True):
        with pytest.raises(ValueError, match="crossover must be an int from 0 to 6"):
            g.mix(w, w, crossover)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"crossover must be int64 \[2\], got torch.int64 \[3\]"):
        g.mix(w, w, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match=r"w2 must be \[N, 6, 16\] or \[N, 16\], got \[2, 5, 16\]"):
        g.mix(w, w[:, :5], 1)
    with pytest.raises(ValueError, match=r"StyleGAN2Generator: w must be \[N, 6, 16\] or \[N, 16\], got \[2, 6, 15\]"):
        g.synthesis(w[..., :15])
    with pytest.raises(ValueError, match="as many samples, got 2 and 3"):
        g.mix(w, torch.zeros(3, 16), 1)
    plain = MappingNetwork(6, 8, w_avg_beta=None)
    with pytest.raises(ValueError, match=r"truncation must be 1 without w_avg, got 0\.5"):
        plain(torch.randn(2, 6), truncation=0.5)
    with pytest.raises(ValueError, match="made without w_avg"):
        plain.update_w_avg(torch.zeros(2, 8))
    with pytest.raises(ValueError, match="z must be None"):
        MappingNetwork(0, 8, num_classes=2)(torch.randn(2, 6), labels)
    for arguments, text in (((0, 8), "z_dim must be positive"), ((8, 8, 2, 0, 0), "num_layers must be at least 1")):
        with pytest.raises(ValueError, match=text):
            MappingNetwork(*arguments)
    with pytest.raises(ValueError, match="w_avg_beta must be 0 to 1, got 2"):
        MappingNetwork(8, 8, w_avg_beta=2)
