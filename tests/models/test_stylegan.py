"""StyleGAN: published counts, layers by hand, resampling as the paper describes it, noise, classes, merged gradient."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from network_checks import assert_fused_equals_reference, count, moved
from torch import Tensor, nn

from gankern import losses, models
from gankern.models import StyleGANConfig, StyleGANDiscriminator, StyleGANGenerator
from gankern.models.stylegan import StyleGANLayer

TINY = models.FAMILIES["stylegan"].tiny
assert isinstance(TINY, StyleGANConfig)


def test_published_parameter_counts() -> None:
    """26,219,627 and 23,087,249 in the summaries of the official networks (26.2M and 23.1M in the paper, section 2.1), with the
    1x1 convolutions of the eight lower resolutions, which growing leaves behind unused.
    """
    with torch.device("meta"):
        gan = models.from_config("stylegan-1024")
    config = gan.config
    assert isinstance(config, StyleGANConfig)
    left = [config.width(r) for r in config.resolutions[:-1]]
    assert count(gan.generator) + sum(3 * c + 3 for c in left) == 26_219_627
    assert count(gan.discriminator) + sum(3 * c + c for c in left) == 23_087_249
    assert count(gan.generator.mapping) == 8 * (512 * 512 + 512)
    assert round(count(gan.generator) / 1e6, 1) == 26.2 and round(count(gan.discriminator) / 1e6, 1) == 23.1


def test_table_of_layers() -> None:
    with torch.device("meta"):
        gan = models.from_config("stylegan-1024")
    g = gan.generator
    assert g.num_ws == 18 and g.w_dim == g.z_dim == 512
    widths = [512] * 8 + [256] * 2 + [128] * 2 + [64] * 2 + [32] * 2 + [16] * 2
    assert [layer.epilogue.channels for layer in g.synthesis.layers] == widths
    assert [layer.noise_const.shape[0] for layer in g.synthesis.layers] == [2**i for i in range(2, 11) for _ in (0, 1)]
    assert [layer.noise_strength.numel() for layer in g.synthesis.layers] == widths
    assert g.synthesis.layers[0].conv is None and g.synthesis.const.shape == (1, 512, 4, 4)


def test_initialisation() -> None:
    """A constant of ones, biases and strengths of noise 0, weights N(0, 1), scales 1 (appendix C)."""
    torch.manual_seed(0)
    g = StyleGANGenerator(TINY)
    assert torch.equal(g.synthesis.const, torch.ones(1, 16, 4, 4))
    for layer in g.synthesis.layers:
        assert not layer.noise_strength.any() and not layer.epilogue.bias.any() and not layer.epilogue.affine.bias.any()
        if layer.conv is not None:
            assert float(layer.conv.weight.detach().std()) == pytest.approx(1, abs=0.1)


def blurred(x: Tensor) -> Tensor:
    """The separable binomial filter [1, 2, 1]."""
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
    return F.conv2d(x, torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])


def test_resampling_is_the_papers_away_from_the_borders() -> None:
    """Upsampling by repetition, convolution, binomial filter; binomial filter, convolution, 2x2 means."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 8, 8).double()
    layer = StyleGANLayer(16, 16, 2, TINY).double()
    w = layer.conv.weight / math.sqrt(9 * 16)
    expected = blurred(F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), w, padding=1))
    inside = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(layer.conv(x)[inside], expected[inside])
    down = StyleGANDiscriminator(TINY).double().layers[1]
    x = torch.randn(2, 16, 16, 16).double()
    w = down.weight / math.sqrt(9 * 16)
    expected = F.leaky_relu(F.avg_pool2d(F.conv2d(blurred(x), w, padding=1), 2), 0.2) * math.sqrt(2)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(down(x)[inside], expected[inside])


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("mode", ["const", "none", "random"])
def test_layer_is_the_papers(per_channel: bool, mode: str) -> None:
    """Convolution, + strength * noise, + bias, leaky ReLU, statistics of each plane, scale and shift: in this order."""
    torch.manual_seed(0)
    layer = moved(StyleGANLayer(16, 16, 1, TINY.replace(noise_per_channel=per_channel)))
    x, w = torch.randn(2, 16, 16, 16).double(), torch.randn(2, 16).double()
    torch.manual_seed(1)
    y = layer(x, w, mode)
    torch.manual_seed(1)
    noise = {"const": layer.noise_const, "none": torch.zeros(()).double(), "random": None}[mode]
    noise = torch.randn(2, 1, 16, 16, dtype=torch.float64) if noise is None else noise
    strength = layer.noise_strength[:, None, None] if per_channel else layer.epilogue.noise_strength
    h = F.conv2d(x, layer.conv.weight / 12, padding=1) + strength * noise + layer.epilogue.bias[:, None, None]
    h = F.leaky_relu(h, 0.2) * math.sqrt(2)
    var, mean = torch.var_mean(h, (2, 3), correction=0, keepdim=True)
    style = w @ layer.epilogue.affine.weight.T / 4 + layer.epilogue.affine.bias
    expected = (h - mean) / (var + 1e-8).sqrt() * (1 + style[:, :16, None, None]) + style[:, 16:, None, None]
    torch.testing.assert_close(y, expected)


def test_noise_modes_and_dtypes() -> None:
    torch.manual_seed(0)
    g = StyleGANGenerator(TINY)
    z = torch.randn(2, 16)
    assert torch.equal(g(z), g(z)), "the strength of the noise is 0 at first"
    for layer in g.synthesis.layers:
        nn.init.ones_(layer.noise_strength)
    const, none = g(z, noise_mode="const"), g(z, noise_mode="none")
    assert torch.equal(const, g(z, noise_mode="const")) and not torch.allclose(const, none)
    assert not torch.allclose(g(z), g(z))
    a, b = g(z[:1].expand(2, -1))
    assert not torch.allclose(a, b), "each sample has its own noise"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = g(z, noise_mode="const")
    assert half.dtype == torch.float32
    assert float(((half - const).norm() / const.norm()).detach()) < 0.05
    assert copy.deepcopy(g).double()(z.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="noise_mode must be one of random, const, none, got 'fixed'"):
        g(z, noise_mode="fixed")


def test_without_noise_nothing_is_drawn() -> None:
    g = StyleGANGenerator(TINY.replace(use_noise=False))
    before = torch.get_rng_state()
    g(torch.zeros(2, 16))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any("noise" in name for name in g.state_dict())


@pytest.mark.parametrize("changes", [{"noise_per_channel": False}, {"num_classes": 3}, {"use_noise": False, "mbstd_group": 0}])
def test_fused_equals_reference(changes: dict[str, int]) -> None:
    """Outputs, gradients and R1 gradients of the settings that the family's smallest config does not have."""
    torch.manual_seed(0)
    assert_fused_equals_reference(TINY.replace(**changes))


def test_classes() -> None:
    torch.manual_seed(0)
    gan = models.from_config(TINY, num_classes=3)
    z, labels = torch.randn(2, 16), torch.tensor([0, 2])
    image = gan.generator(z, labels)
    assert not torch.allclose(image, gan.generator(z, labels.flip(0)))
    d = gan.discriminator
    before_last = d.fc(d.conv(d.mbstd(d.layers(d.from_rgb(image)))).flatten(1))
    torch.testing.assert_close(d(image, labels), d.out(before_last)[[0, 1], [0, 2]][:, None])


def test_without_minibatch_statistics_the_gradients_merge() -> None:
    d = StyleGANDiscriminator(TINY.replace(mbstd_group=0))
    step = losses.PenalizedStep(d, lambda real, fake: F.softplus(fake - real).mean(), r1=1.0, fallback=False)
    assert step.explain(torch.randn(2, 3, 16, 16)).startswith("merged gradient")


def test_compiles_in_one_graph() -> None:
    torch.manual_seed(0)
    g = StyleGANGenerator(TINY.replace(num_classes=3))
    z, labels = torch.randn(2, 16), torch.tensor([0, 2])
    options = {"truncation": 0.7, "truncation_cutoff": 3, "mixed_z": z.flip(0), "noise_mode": "const"}
    crossover = torch.tensor([1, 4])
    compiled = torch.compile(g, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(z, labels, crossover=crossover, **options), g(z, labels, crossover=crossover, **options), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"resolution": 48}, "resolution must be a power of 2 of at least 8, got 48"),
        ({"resolution": 4}, "resolution must be a power of 2 of at least 8, got 4"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"num_classes": -1}, "num_classes must be 0 or more, got -1"),
        ({"channel_base": 8}, "channel_base must be at least the resolution, 16, got 8"),
        ({"mbstd_channels": 3}, "mbstd_channels must be a divisor of the 16 channels at 4 x 4, got 3"),
    ],
)
def test_settings_that_it_cannot_do(changes: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=f"StyleGANConfig: {text}"):
        TINY.replace(**changes)
