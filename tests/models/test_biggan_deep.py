"""BigGAN-deep: published counts and tables, the blocks by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from network_checks import count
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gankern import models
from gankern.models._resnet import Layers
from gankern.models.biggan import orthogonal
from gankern.models.biggan_deep import DeepDiscriminatorBlock, DeepGeneratorBlock
from gankern.nn import BatchNormAct2d

TINY = models.FAMILIES["biggan-deep"].tiny
LAYERS = Layers(orthogonal, 1e-4, False)


@pytest.mark.parametrize("resolution, published", [(128, 50.4), (256, 55.9), (512, 56.2)])
def test_published_parameter_counts(resolution: int, published: float) -> None:
    """Of the generators on TensorFlow Hub, whose last convolution has 128 outputs of which 3 are used; the paper's has 3."""
    with torch.device("meta"):
        g = models.from_config(f"biggan-deep-{resolution}").generator
    unused = (128 - 3) * (128 * 9 + 1)
    assert round((count(g) + unused) / 1e6, 1) == published


@pytest.mark.parametrize(
    "preset, generator, discriminator",
    [  # Brock et al. 2019, tables 7 to 9, in units of ch: channels behind each block; ^ up or down, * the non-local block
        ("biggan-deep-128", "16 16^ 16 8^ 8 4^ 4 2^* 2 1^", "2^ 2* 4^ 4 8^ 8 16^ 16 16^ 16"),
        ("biggan-deep-256", "16 16^ 16 8^ 8 8^ 8 4^* 4 2^ 2 1^", "2^ 2 4^ 4* 8^ 8 8^ 8 16^ 16 16^ 16"),
    ],
)
def test_the_papers_tables(preset: str, generator: str, discriminator: str) -> None:
    with torch.device("meta"):
        gan = models.from_config(preset)
    g, d = gan.generator, gan.discriminator
    assert g.linear.weight.shape == (16 * 128 * 16, 256), "the whole latent and the class's 128"
    found: list[tuple[str, int, int]] = []

    def record(module: nn.Module, _: object, y: Tensor) -> None:
        found.append((type(module).__name__, y.shape[1], y.shape[2]))

    for module in gan.modules():
        if type(module).__name__ in ("DeepGeneratorBlock", "DeepDiscriminatorBlock", "SelfAttention2d"):
            module.register_forward_hook(record)
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes and nothing else
        gan.to_empty(device="cpu")
        d.blocks(g.from_embedding(torch.zeros(2, 128), torch.zeros(2, 128)))
    expected = []
    size = 4.0
    for kind, table, factor in (
        ("DeepGeneratorBlock", generator, 2.0),
        ("DeepDiscriminatorBlock", discriminator, 0.5),
    ):
        for entry in table.split():
            size = size * factor if "^" in entry else size
            expected.append((kind, 128 * int(entry.strip("^*")), int(size)))
            if "*" in entry:
                assert size == 64
                expected.append(("SelfAttention2d", *expected[-1][1:]))
    assert found == expected


def conv(x: Tensor, layer: nn.Module) -> Tensor:
    w: Tensor = layer.weight  # type: ignore[assignment]
    return F.conv2d(x, w, layer.bias, padding=w.shape[2] // 2)  # type: ignore[arg-type]


def with_biases(module: nn.Module) -> nn.Module:
    for name, p in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p)
    return module.double()


@pytest.mark.parametrize("up", [False, True])
def test_generator_block_by_hand(up: bool) -> None:
    torch.manual_seed(0)

    class Norm(BatchNormAct2d):
        def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * condition

    block = with_biases(DeepGeneratorBlock(16, 8, up, LAYERS, Norm)).eval()
    x, condition = torch.randn(2, 16, 4, 4).double(), torch.tensor(0.7).double()
    double = partial(F.interpolate, scale_factor=2, mode="nearest") if up else (lambda x: x)
    y = x
    for i, (norm, layer) in enumerate(zip(block.norms, block.convs, strict=True)):
        y = F.relu(F.batch_norm(y, norm.norm.running_mean, norm.norm.running_var, norm.norm.weight, norm.norm.bias)) * condition
        y = conv(double(y) if i == 1 else y, layer)
    assert [layer.weight.shape[2] for layer in block.convs] == [1, 3, 3, 1] and block.convs[0].weight.shape[0] == 4
    torch.testing.assert_close(block(x, condition), y + double(x[:, :8]))


@pytest.mark.parametrize("outside", [8, 12])
@pytest.mark.parametrize("down", [False, True])
def test_discriminator_block_by_hand(down: bool, outside: int) -> None:
    torch.manual_seed(0)
    block = with_biases(DeepDiscriminatorBlock(8, outside, down, LAYERS)).eval()
    x = torch.randn(2, 8, 4, 4).double()
    pool = partial(F.avg_pool2d, kernel_size=2) if down else (lambda x: x)
    y = x
    for layer in (block.conv1, block.conv2, block.conv3):
        y = conv(F.relu(y), layer)
    y = conv(pool(F.relu(y)), block.conv4)
    shortcut = pool(x)
    if outside > 8:
        shortcut = torch.cat([shortcut, conv(pool(x), block.shortcut)], 1)
    torch.testing.assert_close(block(x), y + shortcut)


def test_latents_and_classes_reach_every_block() -> None:
    torch.manual_seed(0)
    gan = models.from_config(TINY).double().eval()
    z = torch.randn(2, 8).double()
    embedded = gan.generator.embedding(torch.tensor([0, 2]))
    seen: list[Tensor] = []
    for block in gan.generator.blocks:
        block.register_forward_hook(lambda m, a, y: seen.append(a[1]))
    gan.generator.from_embedding(z, embedded)
    assert len(seen) == 4 and all(torch.equal(c, torch.cat([embedded, z], 1)) for c in seen)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"BigGANDeepConfig: width must be a multiple of 4: bottlenecks .*, got 6"):
        TINY.replace(width=6)
    with pytest.raises(ValueError, match="resolution must be one of 16, 32, 64, 128, 256, 512, got 8"):
        TINY.replace(resolution=8)
    assert TINY.replace(z_dim=7).z_dim == 7, "the latent is not cut"
