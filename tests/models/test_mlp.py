"""The fully connected GAN of Goodfellow et al. 2014."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gankern import losses, models
from gankern.models.mlp import Maxout


def test_sizes_of_the_mnist_networks() -> None:
    with torch.device("meta"):
        gan = models.from_config("gan-mnist")
    shapes = {k: tuple(v.shape) for k, v in gan.generator.state_dict().items() if k.endswith("weight")}
    assert list(shapes.values()) == [(1200, 100), (1200, 1200), (784, 1200)]
    assert models.count_parameters(gan.generator) == 101 * 1200 + 1201 * 1200 + 1201 * 784
    assert models.count_parameters(gan.discriminator) == 785 * 240 * 5 + 241 * 240 * 5 + 241


def test_maxout_is_the_largest_of_its_pieces() -> None:
    torch.manual_seed(0)
    layer, x = Maxout(5, 3, 4), torch.randn(2, 5)
    weight, bias = layer.linear.weight, torch.nn.init.normal_(layer.linear.bias)
    pieces = torch.stack([F.linear(x, weight[i::4], bias[i::4]) for i in range(4)])
    torch.testing.assert_close(layer(x), pieces.amax(0))


def test_dropout_belongs_to_the_discriminators_training() -> None:
    torch.manual_seed(0)
    gan = models.from_config("gan", resolution=8, hidden=16, maxout_units=8)
    images = torch.randn(4, 1, 8, 8)
    assert not torch.equal(gan.discriminator(images), gan.discriminator(images))
    gan.eval()
    assert torch.equal(gan.discriminator(images), gan.discriminator(images))
    plain = models.from_config("gan", resolution=8, hidden=16, maxout_units=8, dropout=0.0, input_dropout=0.0)
    assert torch.equal(plain.discriminator(images), plain.discriminator(images))


def test_latents_and_images_have_their_ranges() -> None:
    generator = models.from_config("gan", hidden=16).generator
    z = generator.sample_z(2000, torch.Generator().manual_seed(0))
    assert z.shape == (2000, 100) and z.abs().max() <= 1 and abs(float(z.var()) - 1 / 3) < 0.01
    assert torch.equal(z, generator.sample_z(2000, torch.Generator().manual_seed(0)))
    assert generator(50 * z).abs().max() <= 1
    normal = models.from_config("gan", hidden=16, prior="normal").generator.sample_z(2000, torch.Generator().manual_seed(0))
    assert abs(float(normal.var()) - 1) < 0.02


def test_first_weights_have_the_published_ranges() -> None:
    torch.manual_seed(0)
    gan = models.from_config("gan-cifar10", hidden=32, maxout_units=16).requires_grad_(False)
    for name, parameter in gan.generator.named_parameters():
        if name.endswith("weight"):
            bound = 0.5 if "output" in name else 0.05
            assert 0.9 * bound < float(parameter.abs().max()) <= bound, name
    largest = [float(p.abs().max()) for n, p in gan.discriminator.named_parameters() if n.endswith("weight")]
    assert max(largest) <= 0.005 and min(largest) > 0.004
    assert [layer.settings["act"] for layer in gan.generator.layers] == ["relu", "sigmoid", "linear"]


def test_r1_of_the_discriminator_without_dropout() -> None:
    torch.manual_seed(0)
    discriminator = models.from_config("gan", resolution=4, hidden=8, maxout_units=4).discriminator.eval().double()
    images = torch.randn(3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    losses.r1_penalty(discriminator(images), images).backward()
    assert discriminator.hidden1.linear.weight.grad.any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1, got 1.0"),
        ({"second_act": "swish"}, "second_act must be 'relu' or 'sigmoid', got 'swish'"),
        ({"output_act": "relu"}, "output_act must be 'tanh' or 'linear', got 'relu'"),
        ({"output_range": 0.0}, "output_range must be positive, got 0.0"),
        ({"prior": "cauchy"}, "prior must be 'uniform' or 'normal', got 'cauchy'"),
    ],
    ids=str,
)
def test_settings_that_it_cannot_do(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"MLPConfig: {message}"):
        models.config_of("gan", **changes)
