"""BigGAN: published counts and tables, skip-z, attention's place, spectral norm, truncation, orthogonal regularisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize

from gankern import models
from gankern import nn as gk

TINY = models.BigGANConfig(resolution=32, z_dim=16, num_classes=3, shared_dim=8, width=4, attention_resolution=16)


def made(**changes: object) -> models.GAN:
    torch.manual_seed(0)
    gan = models.from_config(TINY.replace(**changes)).double()
    for name, p in gan.named_parameters():
        if name.endswith(("bias", "gamma")):
            nn.init.normal_(p)
    return gan


def test_published_parameter_counts() -> None:
    """What the authors' PyTorch implementation prints for ImageNet at 128x128: 70.43M and 87.98M."""
    with torch.device("meta"):
        gan = models.from_config("biggan-128")
    assert sum(p.numel() for p in gan.generator.parameters()) == 70_433_988
    assert sum(p.numel() for p in gan.discriminator.parameters()) == 87_982_370


@pytest.mark.parametrize(
    "preset, z_dim, generator, discriminator",
    [  # Brock et al. 2019, tables 4 to 6, in units of ch; * is the non-local block
        ("biggan-128", 120, "16 16 8 4 2* 1", "1* 2 4 8 16 16"),
        ("biggan-256", 140, "16 16 8 8 4* 2 1", "1 2* 4 8 8 16 16"),
        ("biggan-512", 160, "16 16 8 8 4* 2 1 1", "1 1 2* 4 8 8 16 16"),
    ],
)
def test_the_papers_tables(preset: str, z_dim: int, generator: str, discriminator: str) -> None:
    with torch.device("meta"):
        gan = models.from_config(preset)
    g, d, resolution = gan.generator, gan.discriminator, gan.config.resolution
    assert g.z_dim == z_dim and g.linear.weight.shape[1] == 20, "a first chunk of 20 numbers"
    assert all(b.norm1.style_dim == 148 for b in g.blocks), "each block: a chunk of 20 and the class's 128"
    found: list[tuple[str, int, int]] = []

    def record(module: nn.Module, _: object, y: torch.Tensor) -> None:
        found.append((type(module).__name__, y.shape[1], y.shape[2]))

    for module in gan.modules():
        if type(module).__name__ in ("GeneratorBlock", "DiscriminatorBlock", "SelfAttention2d"):
            module.register_forward_hook(record)
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes and nothing else
        gan.to_empty(device="cpu")
        images = g.from_embedding(torch.zeros(2, z_dim), torch.zeros(2, 128))
        d.blocks(images)
    expected = []
    for kind, table, first in (("GeneratorBlock", generator.split()[1:], 8), ("DiscriminatorBlock", discriminator.split(), 0)):
        for i, entry in enumerate(table):
            size = first << i if first else max(resolution >> (i + 1), 4)
            width = 96 * int(entry.removesuffix("*"))
            expected.append((kind, width, size))
            if entry.endswith("*"):
                assert size == 64
                expected.append(("SelfAttention2d", width, size))
    assert found == expected
    assert images.shape == (2, 3, resolution, resolution)


def test_each_chunk_of_the_latent_enters_where_it_should() -> None:
    """The gradient of a block's first batch norm in z: its own chunk, and those before it."""
    g = made().generator.eval()
    z = torch.randn(1, 16).double().requires_grad_()
    chunk = 16 // 4
    seen: list[torch.Tensor] = []
    for block in g.blocks:
        block.norm1.register_forward_hook(lambda m, a, y: seen.append(torch.autograd.grad(y.sum(), z, retain_graph=True)[0]))
    g(z, torch.tensor([1]))
    for i, gradient in enumerate(seen):
        reached = [bool(part.any()) for part in gradient[0].split(chunk)]
        assert reached == [j <= i + 1 for j in range(4)]


def test_classes_between_classes() -> None:
    g = made().generator.eval()
    z, labels = torch.randn(2, 16).double(), torch.tensor([2, 0])
    embedded = g.embedding(labels)
    torch.testing.assert_close(g(z, labels), g.from_embedding(z, embedded))
    middle = g.from_embedding(z, (embedded + g.embedding.weight[1]) / 2)
    assert middle.isfinite().all() and not torch.allclose(middle, g(z, labels))


def test_projection_by_hand() -> None:
    d = made().discriminator.eval()
    images, labels = torch.randn(3, 3, 32, 32).double(), torch.tensor([0, 1, 2])
    features = F.relu(d.blocks(images)).sum((2, 3))
    expected = (
        features @ d.output.linear.weight[0] + d.output.linear.bias + (d.output.embedding.weight[labels] * features).sum(1)
    )
    torch.testing.assert_close(d(images, labels)[:, 0], expected)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_all_weights_but_the_shared_embedding_are_spectrally_normalised(network: str) -> None:
    module = getattr(made(), network)
    weights = {name for name, p in module.named_parameters() if p.dim() > 1}
    plain = {name for name in weights if not name.endswith(".parametrizations.weight.original")}
    assert plain == ({"embedding.weight"} if network == "generator" else set())
    norms = [m for m in module.modules() if isinstance(m, gk.SpectralNorm)]
    assert len(norms) == len(weights) - len(plain) and all(n.eps == 1e-4 for n in norms)
    for part in module.modules():
        if parametrize.is_parametrized(part):
            for _ in range(30):
                normalised = part.weight
            sigma = torch.linalg.matrix_norm(normalised.flatten(1), 2)
            torch.testing.assert_close(sigma, torch.ones_like(sigma), rtol=1e-3, atol=0)


def test_first_weights_are_orthogonal() -> None:
    gan = models.from_config(TINY)
    originals = [p.flatten(1) for p in gan.parameters() if p.dim() > 1]
    for w in originals:
        small = w if w.shape[0] <= w.shape[1] else w.T
        torch.testing.assert_close(small @ small.T, torch.eye(small.shape[0]), rtol=0, atol=1e-5)


def test_truncation() -> None:
    g = made().generator
    for _ in range(3):
        seed = torch.Generator().manual_seed(1)
        z = g.sample_z(2000, seed, truncation=0.5)
        assert z.abs().max() <= 0.5 and z.shape == (2000, 16)
        # The variance of a normal distribution cut at t: 1 - 2 t pdf(t) / (cdf(t) - cdf(-t)).
        torch.testing.assert_close(z.var().item(), 1 - 2 * 0.5 * 0.35207 / 0.38292, rtol=0.05, atol=0)
    torch.testing.assert_close(g.sample_z(2000, torch.Generator().manual_seed(1)).std().item(), 1.0, rtol=0.05, atol=0)
    with pytest.raises(ValueError, match="truncation must be above 0 or None, got 0"):
        g.sample_z(1, truncation=0)


def test_orthogonal_penalty() -> None:
    g = made().generator
    with torch.no_grad():
        for p in g.parameters():
            p += 0.1 * torch.randn_like(p)
    expected = 0.0
    for name, p in g.named_parameters():
        if p.dim() > 1 and name != "embedding.weight":
            w = p.detach().flatten(1)
            for i in range(w.shape[0]):
                for j in range(w.shape[0]):
                    expected += float((w[i] @ w[j]) ** 2) if i != j else 0.0
    value = models.orthogonal_penalty(g, beta=0.1)
    torch.testing.assert_close(value.item(), 0.1 * expected)
    value.backward()
    assert g.embedding.weight.grad is None and g.to_rgb.parametrizations.weight.original.grad.any()


def test_standing_statistics() -> None:
    """They are the mean of the batches' means, layer by layer; weights, modes and singular vectors stay."""
    gan = made()
    g = gan.generator
    buffers = {name: b.clone() for name, b in g.named_buffers() if "running" not in name and "tracked" not in name}
    first = g.blocks[0].norm1.norm
    inputs: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda m, a: inputs.append(a[0]))
    models.standing_statistics(g, 4, batches=3, truncation=0.5, random=torch.Generator().manual_seed(0))
    assert len(inputs) == 3
    torch.testing.assert_close(first.running_mean, sum(x.mean((0, 2, 3)) for x in inputs) / 3)
    assert g.training and all(m.training and (not isinstance(m, nn.BatchNorm2d) or m.momentum == 0.1) for m in g.modules())
    for name, b in g.named_buffers():
        assert name not in buffers or torch.equal(b, buffers[name]), name
    with pytest.raises(ValueError, match="batch_size must be at least 2, got 1"):
        models.standing_statistics(g, 1)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"resolution": 48}, "BigGANConfig: resolution must be one of 16, 32, 64, 128, 256, 512, got 48"),
        ({"z_dim": 18}, "z_dim must be a multiple of 4: a chunk for the first layer and for each block, got 18"),
        ({"attention_resolution": 32}, "attention_resolution must be 0 or one of 8, 16, got 32"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1"),
        ({"eps": 0.0}, r"eps must be above 0, got 0\.0"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TINY.replace(**changes)


def test_attention_may_be_left_out() -> None:
    gan = made(attention_resolution=0)
    assert not any(isinstance(m, gk.SelfAttention2d) for m in gan.modules())
    labels = torch.tensor([0, 1])
    assert gan.discriminator(gan.generator(torch.randn(2, 16).double(), labels), labels).shape == (2, 1)
