"""Counts of parameters and operations, and ``gankern models``."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from gankern import models
from gankern import nn as gk
from gankern.cli import main


def test_operations_of_layers_by_hand() -> None:
    x = torch.randn(2, 6, 8, 8)
    w = torch.randn(2, 5)
    conv = 2 * 2 * 4 * 6 * 9 * 64  # two samples, a product and a sum
    cases: list[tuple[nn.Module, tuple[torch.Tensor, ...], int]] = [
        (nn.Conv2d(6, 4, 3, padding=1), (x,), conv),
        (gk.Conv2d(6, 4, 3, act="lrelu"), (x,), conv),
        (gk.Conv2d(6, 4, 3, groups=2), (x,), conv // 2),
        (gk.Conv2d(6, 4, 3, stride=2), (x,), conv // 4),
        (gk.Conv2d(6, 4, 3, down=2), (x,), conv // 4),
        (gk.Conv2d(6, 4, 3, up=2), (x,), conv),  # a transposed convolution at the lower resolution
        (gk.ConvTranspose2d(6, 4, 4, 2, 1), (x,), conv * 16 // 9),
        (gk.ModulatedConv2d(6, 4, 3, 5), (x, w), conv + 2 * 2 * 5 * 6),
        (gk.ModulatedConv2d(6, 4, 3, 5, up=2), (x, w), conv + 2 * 2 * 5 * 6),
        (gk.ModulatedConv2d(6, 4, 3, 5, down=2), (x, w), conv // 4 + 2 * 2 * 5 * 6),
        (gk.Linear(6, 4, act="relu"), (x[:, :, 0, 0],), 2 * 2 * 6 * 4),
        (gk.Blur(), (x,), 0),
        (gk.BiasAct(6), (x,), 0),
    ]
    for module, inputs, expected in cases:
        assert models.count_flops(module, *inputs) == expected, module
        assert models.count_flops(module.to("meta"), *(t.to("meta") for t in inputs)) == expected, module


def test_counting_leaves_the_network_as_it_was() -> None:
    gan = models.from_config(models.FAMILIES["stylegan2"].tiny)
    frozen = next(gan.generator.parameters()).requires_grad_(False)
    before = [(p.requires_grad, p.clone()) for p in gan.parameters()]
    models.count_flops(gan.generator, *models.example_inputs(gan)[0])
    assert not frozen.requires_grad and not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    for (trained, value), p in zip(before, gan.parameters(), strict=True):
        assert p.requires_grad == trained and torch.equal(p, value) and p.grad is None


def test_published_numbers_of_stylegan2_at_256() -> None:
    """30.0 M parameters and 45.1 G multiplications (Liu et al. 2021, "Content-aware GAN compression", table 1)."""
    found = models.summarise("stylegan2-256")
    assert round(found.generator_parameters / 1e6, 1) == 30.0
    assert round(found.generator_flops / 2e9, 1) == 45.1
    assert (found.name, found.family, found.resolution, found.channels) == ("stylegan2-256", "stylegan2", 256, 3)


@pytest.mark.parametrize("name", list(models.FAMILIES))
def test_tiny_networks_count_alike_on_meta_and_for_real(name: str) -> None:
    config = models.FAMILIES[name].tiny
    found = models.summarise(config)
    gan = models.from_config(config).eval()
    for network, inputs in zip(("generator", "discriminator"), models.example_inputs(gan), strict=True):
        module = getattr(gan, network)
        assert getattr(found, f"{network}_parameters") == sum(p.numel() for p in module.parameters()) > 0
        assert getattr(found, f"{network}_flops") == models.count_flops(module, *inputs) > 0


def test_example_inputs_are_repeatable_and_checked() -> None:
    gan = models.from_config(models.FAMILIES["cgan"].tiny)
    for a, b in zip(models.example_inputs(gan, 3, seed=4), models.example_inputs(gan, 3, seed=4), strict=True):
        assert all(torch.equal(x, y) and x.shape[0] == 3 for x, y in zip(a, b, strict=True))
    assert models.example_inputs(gan, dtype=torch.float64)[1][0].dtype == torch.float64
    with pytest.raises(ValueError, match="example_inputs: count must be at least 1, got 0"):
        models.example_inputs(gan, 0)


# ---- the command ------------------------------------------------------------------------------------------------------------
def test_command_lists_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "dcgan"]) == 0
    text = capsys.readouterr().out
    assert "dcgan-64 " in text and "dcgan-tutorial-64" in text and "wgan" not in text
    assert "Radford et al. 2016" in text and "3.58 M" in text and "loss: nonsaturating" in text and "kernel_size=5" in text


def test_command_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "wgan-gp-cifar10", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["generator_parameters"] == 1_204_099 and row["discriminator_parameters"] == 1_053_825
    assert row["penalties"] == {"wgan_gp": 10.0} and row["settings"]["architecture"] == "resnet-cifar"


def test_command_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "dcgan-65"]) == 2
    error = capsys.readouterr().err
    assert "no model 'dcgan-65'" in error and "dcgan-64" in error


@pytest.mark.slow
def test_command_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(models.presets()) - set(rows) <= set(models.FAMILIES)
    for family in models.FAMILIES.values():
        assert set(family.presets) <= set(rows)
    assert all(
        row[f"{n}_{what}"] > 0
        for row in rows.values()
        for n in ("generator", "discriminator")
        for what in ("flops", "parameters")
    )
