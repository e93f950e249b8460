from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from gankern import losses, nn, ops


def modules() -> list[tuple[torch.nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    made = [
        (nn.BiasAct(6), (2, 6, 5, 4)),
        (nn.BiasAct(6, "swish", clamp=1.0), (3, 6)),
        (nn.BiasAct(6, "tanh", dim=-1, bias=False), (3, 4, 6)),
        (nn.Linear(6, 5, act="lrelu", lr_multiplier=0.01, bias_init=1.0), (3, 6)),
        (nn.Linear(6, 5, bias=False), (2, 3, 6)),
        (nn.Conv2d(6, 5, 3, act="lrelu", clamp=256.0), (2, 6, 8, 7)),
        (nn.Conv2d(6, 5, 1, bias=False), (2, 6, 8, 7)),
        (nn.Conv2d(6, 4, 3, stride=2, padding=0, act="relu"), (2, 6, 8, 7)),
        (nn.Conv2d(6, 4, 3, up=2, act="lrelu"), (2, 6, 4, 5)),
        (nn.Conv2d(6, 4, 3, down=2, act="lrelu", clamp=256.0), (2, 6, 8, 6)),
        (nn.Conv2d(6, 4, 1, down=2, bias=False, resample_filter=[1, 2, 1]), (2, 6, 8, 6)),
        (nn.Conv2d(6, 4, 3, up=2, resample_filter=None), (1, 6, 4, 4)),
        (nn.Conv2d(6, 4, 3, act="relu", equalized=False, groups=2), (2, 6, 5, 4)),
        (nn.Conv2d(6, 4, 3, down=2, groups=2), (2, 6, 8, 6)),
        (nn.Conv2d(6, 4, 3, up=2, groups=2), (2, 6, 4, 5)),
        (nn.Linear(6, 5, act="sigmoid", equalized=False), (3, 6)),
        (nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1, act="lrelu"), (2, 6, 4, 3)),
        (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, bias=False, equalized=False), (2, 6, 3, 4)),
        (nn.ConvTranspose2d(6, 4, 4, lr_multiplier=0.1, act="tanh", groups=2), (2, 6, 1, 1)),
    ]
    for module, _ in made:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
    return made


CASES = [pytest.param(m, s, id=f"{type(m).__name__}-{i}") for i, (m, s) in enumerate(modules())]


@pytest.mark.parametrize("module, shape", CASES)
def test_equals_its_reference_with_the_same_weights(module: torch.nn.Module, shape: tuple[int, ...]) -> None:
    module = copy.deepcopy(module).double()
    other = copy.deepcopy(module)
    other.reference = True
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    results = []
    for m in (module, other):
        y = m(x)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        parameters = list(m.parameters())
        grads = torch.autograd.grad(g.square().sum(), parameters, allow_unused=True) if parameters else ()
        results.append((y, g, *[h for h in grads if h is not None]))
    assert len(results[0]) == len(results[1])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("module, shape", CASES)
def test_inference_in_place_gives_the_same_and_keeps_the_input(module: torch.nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    kept = x.clone()
    expected = module(x)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), expected)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("module, shape", CASES)
def test_state_dict_pickle_and_deepcopy(module: torch.nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(twin(x), module(x))
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh = copy.deepcopy(module)
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    fresh.load_state_dict(torch.load(buffer))
    torch.testing.assert_close(fresh(x), module(x))


def test_noise() -> None:
    x, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 1, 4, 5)
    injection = nn.NoiseInjection()
    assert torch.equal(injection(x), x)
    torch.nn.init.constant_(injection.noise_strength, 0.5)
    torch.testing.assert_close(injection(x, noise), x + 0.5 * noise)
    assert not torch.equal(injection(x), injection(x))
    layer = nn.BiasAct(3, noise=True)
    torch.nn.init.constant_(layer.noise_strength, 0.5)
    torch.nn.init.normal_(layer.bias)
    expected = ops.bias_act(x + 0.5 * noise, layer.bias, act="lrelu")
    torch.testing.assert_close(layer(x, noise), expected)
    layer(x, noise).sum().backward()
    assert layer.noise_strength.grad is not None and layer.bias.grad is not None


def test_equalised_weights_keep_the_variance() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 256)
    for multiplier in (1.0, 0.01):
        layer = nn.Linear(256, 256, lr_multiplier=multiplier, bias_init=2.0)
        y = layer(x)
        assert abs(float(y.detach().std()) - 1) < 0.05 and abs(float(y.detach().mean()) - 2) < 0.05
    assert abs(float(nn.Conv2d(64, 64, 3, act="lrelu")(torch.randn(4, 64, 16, 16)).detach().square().mean()) - 1) < 0.1


def test_plain_weights_start_as_those_of_torch() -> None:
    for ours, theirs, x in (
        (lambda: nn.Linear(6, 5, equalized=False), lambda: torch.nn.Linear(6, 5), torch.randn(2, 6)),
        (
            lambda: nn.Conv2d(6, 4, 3, stride=2, equalized=False, groups=2),
            lambda: torch.nn.Conv2d(6, 4, 3, 2, 1, groups=2),
            torch.randn(2, 6, 5, 4),
        ),
        (
            lambda: nn.ConvTranspose2d(6, 4, 4, 2, 1, 1, equalized=False, groups=2),
            lambda: torch.nn.ConvTranspose2d(6, 4, 4, 2, 1, 1, groups=2),
            torch.randn(2, 6, 5, 4),
        ),
    ):
        torch.manual_seed(3)
        plain = theirs()
        torch.manual_seed(3)
        made = ours()
        assert torch.equal(made.weight, plain.weight) and not made.bias.any()
        made.load_state_dict(plain.state_dict())
        torch.testing.assert_close(made(x), plain(x))
    assert torch.equal(nn.Linear(6, 5, equalized=False, bias_init=0.5).bias.detach(), torch.full((5,), 0.5))


def test_transposed_convolutions_keep_the_variance() -> None:
    torch.manual_seed(0)
    for kernel, stride in ((4, 2), (2, 2), (3, 1)):
        layer = nn.ConvTranspose2d(64, 64, kernel, stride, kernel // 2, bias=False)
        assert abs(float(layer(torch.randn(4, 64, 16, 16)).detach().square().mean()) - 1) < 0.15, (kernel, stride)


def test_spectral_norm_of_a_transposed_convolution_has_outputs_as_rows() -> None:
    layer = nn.SpectralNorm.on(nn.ConvTranspose2d(3, 5, 4, equalized=False))
    assert layer.parametrizations.weight[0].dim == 1
    matrix = layer.eval().weight.detach().transpose(0, 1).flatten(1)
    assert abs(float(torch.linalg.matrix_norm(matrix, 2)) - 1) < 1e-3


def test_a_critic_of_grouped_and_transposed_layers_has_the_merged_gradient() -> None:
    torch.manual_seed(0)
    critic = torch.nn.Sequential(
        nn.Conv2d(3, 8, 3, act="lrelu", equalized=False),
        nn.Conv2d(8, 8, 3, act="lrelu", groups=4, equalized=False),
        nn.Conv2d(8, 8, 3, down=2, groups=2, act="relu"),
        nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, act="lrelu", groups=2),
        torch.nn.Flatten(),
        nn.Linear(4 * 64, 1, equalized=False),
    ).double()
    real, fake = torch.randn(2, 3, 3, 8, 8, dtype=torch.float64)
    step = losses.PenalizedStep(critic, lambda r, f: (f - r).mean(), r1=2.0, r2=1.0, fallback=False)
    merged = step.gradients(real, fake)
    assert step.explain().startswith("merged gradient")
    real, fake = real.requires_grad_(), fake.requires_grad_()
    r, f = critic(real), critic(fake)
    loss = (f - r).mean() + losses.r1_penalty(r, real, 2.0) + losses.r2_penalty(f, fake, 1.0)
    for a, b in zip(merged, torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True), strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


def test_autocast_with_float32_parameters() -> None:
    layer = nn.Conv2d(3, 4, 3, act="lrelu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(1, 3, 8, 8)).dtype == torch.bfloat16


def test_taps_are_made_where_the_weight_is() -> None:
    with torch.device("meta"):
        layer = nn.Conv2d(3, 4, 3, up=2)
    assert layer.resample_filter.is_meta and layer.weight.is_meta


def test_resampling_layers_keep_the_size_but_for_their_factor() -> None:
    x = torch.randn(1, 3, 8, 6)
    assert nn.Conv2d(3, 4, 3, up=2)(x).shape == (1, 4, 16, 12)
    assert nn.Conv2d(3, 4, 3, down=2)(x).shape == (1, 4, 4, 3)
    assert "resample_filter" not in nn.Conv2d(3, 4, 3).state_dict()
    assert "down=2" in repr(nn.Conv2d(3, 4, 3, down=2))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="Conv2d: stride must be 1 with up or down, got stride 2, up 2, down 1"):
        nn.Conv2d(3, 4, 3, stride=2, up=2)
    with pytest.raises(ValueError, match=r"BiasAct: act must be one of linear, .* got 'gelu'"):
        nn.BiasAct(3, "gelu")
    with pytest.raises(ValueError, match="lr_multiplier must be positive, got 0"):
        nn.Linear(3, 3, lr_multiplier=0)
    with pytest.raises(ValueError, match=r"Linear: lr_multiplier must be 1 with equalized=False, got 0.5"):
        nn.Linear(3, 3, lr_multiplier=0.5, equalized=False)
    for layer in (nn.Conv2d, nn.ConvTranspose2d):
        with pytest.raises(ValueError, match="groups must divide in_channels 4 and out_channels 6, got 4"):
            layer(4, 6, 3, groups=4)
    with pytest.raises(ValueError, match="made with noise=False"):
        nn.BiasAct(3)(torch.randn(1, 3, 2, 2), torch.randn(1, 1, 2, 2))
    with pytest.raises(ValueError, match="4 dimensions"):
        nn.NoiseInjection()(torch.randn(2, 3))
