"""What every family of gankern.models has to satisfy, at its ``tiny`` size."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gankern import losses, models
from gankern.models import FAMILIES, GAN, example_inputs

pytestmark = pytest.mark.usefixtures("one_thread")

Inputs = tuple[Tensor, ...]
NETWORKS = ("generator", "discriminator")
NAMES = list(FAMILIES)


def made(name: str, ops: str = "fused", dtype: torch.dtype = torch.float64) -> GAN:
    """The tiny GAN in training mode, with parameters that are nowhere 0, as biases and noise strengths are at first."""
    torch.manual_seed(0)
    gan = models.from_config(FAMILIES[name].tiny, ops)
    with torch.no_grad():
        for parameter in gan.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return gan.to(dtype)


def inputs(gan: GAN, network: str, count: int = 2) -> Inputs:
    dtype = next(gan.parameters()).dtype
    return example_inputs(gan, count, dtype=dtype)[NETWORKS.index(network)]


def run(module: torch.nn.Module, given: Inputs, **options: Any) -> list[Tensor]:
    """Outputs of one forward pass whose noise and dropout are always the same."""
    torch.manual_seed(1)
    return tree_leaves(module(*given, **options))


def first_and_second_gradients(module: torch.nn.Module, given: Inputs) -> list[Tensor | None]:
    """Outputs, gradients in inputs and parameters, and the gradient of an R1 penalty in the parameters."""
    given = tuple(x.detach().requires_grad_() if x.is_floating_point() else x for x in given)
    leaves = [x for x in given if x.is_floating_point()]
    parameters = list(module.parameters())
    outputs = run(module, given)
    weights = [torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y) for y in outputs]
    total = sum((y * w).sum() for y, w in zip(outputs, weights, strict=True))
    firsts = torch.autograd.grad(total, [*leaves, *parameters], create_graph=True, allow_unused=True)
    penalty = sum(g.square().sum() for g in firsts[: len(leaves)])
    return [*outputs, *firsts, *torch.autograd.grad(penalty, parameters, allow_unused=True)]


def assert_same(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    """Equal, where no gradient and a gradient of 0 are the same."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        if a is None or b is None:
            assert (a is None or not a.any()) and (b is None or not b.any())
        else:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


class Operators(TorchDispatchMode):
    """The namespaces of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(function.namespace)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", NAMES)
def test_fused_equals_reference_to_second_order(name: str, network: str) -> None:
    fused, reference = made(name), made(name, "reference")
    reference.load_state_dict(fused.state_dict())
    given = inputs(fused, network)
    with Operators() as operators:
        expected = first_and_second_gradients(getattr(reference, network), given)
    assert "gankern" not in operators.seen, "ops='reference' runs operators of gankern"
    with Operators() as operators:
        found = first_and_second_gradients(getattr(fused, network), given)
    assert "gankern" in operators.seen, "ops='fused' runs no operator of gankern"
    assert all(g is None or g.isfinite().all() for g in found)
    assert sum(g is not None for g in found[-len(list(fused.parameters())) :]) > 0
    assert_same(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_set_ops_switches_everything_there_and_back(name: str) -> None:
    gan = made(name).eval()
    for network in NETWORKS:
        module, given = getattr(gan, network), inputs(gan, network)
        with torch.no_grad():
            models.set_ops(module, "reference")
            with Operators() as operators:
                expected = run(module, given)
            assert "gankern" not in operators.seen
            models.set_ops(module, "fused")
            with Operators() as operators:
                found = run(module, given)
            assert "gankern" in operators.seen
        assert_same(list(found), list(expected))


STYLE = [
    n for n in NAMES if isinstance(FAMILIES[n].generator, type) and issubclass(FAMILIES[n].generator, models.StyleGenerator)
]


@pytest.mark.parametrize("name", STYLE)
def test_path_length_gradients(name: str) -> None:
    fused, reference = made(name), made(name, "reference")
    reference.load_state_dict(fused.state_dict())
    given = inputs(fused, "generator")
    found = []
    for generator in (fused.generator, reference.generator):
        w = generator.mapping(*given)
        torch.manual_seed(1)
        images = generator.synthesis(w)
        (g,) = torch.autograd.grad((images * torch.randn_like(images)).sum(), w, create_graph=True)
        lengths = g.square().sum(2).mean(1).sqrt()
        gradients = torch.autograd.grad((lengths - 1).square().mean(), list(generator.parameters()), allow_unused=True)
        assert lengths.min() > 0
        found.append([lengths, *gradients])
    assert_same(found[0], found[1])


ONE_LOGIT = [n for n in NAMES if FAMILIES[n].task == "latent" and not getattr(FAMILIES[n].tiny, "num_classes", 0)]


@pytest.mark.parametrize("name", ONE_LOGIT)
def test_a_penalised_step_has_the_gradients_of_double_backward(name: str) -> None:
    """By the merged gradient, or by double backward where there are norms, statistics or dropout."""
    critic, given = made(name).eval().discriminator, inputs(made(name), "discriminator")
    (real,), (fake,) = given, (given[0].flip(0) * 0.5,)
    step = losses.PenalizedStep(critic, lambda r, f: torch.nn.functional.softplus(f - r).mean(), r1=2.0, r2=1.0)
    found = step.gradients(real, fake)
    real, fake = real.requires_grad_(), fake.requires_grad_()
    r, f = critic(real), critic(fake)
    total = torch.nn.functional.softplus(f - r).mean()
    total = total + losses.r1_penalty(r, real, 2.0) + losses.r2_penalty(f, fake, 1.0)
    assert_same(found, list(torch.autograd.grad(total, list(critic.parameters()), allow_unused=True)))


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name: str) -> None:
    gan = made(name, dtype=torch.float32).eval()
    with torch.no_grad():
        for image in run(gan.generator, inputs(gan, "generator", 3)):
            assert image.shape == (3, *gan.generator.image_shape) and image.isfinite().all()
        for logits in run(gan.discriminator, inputs(gan, "discriminator", 3)):
            assert logits.shape[:2] == (3, 1) and logits.dim() in (2, 4) and logits.isfinite().all()


def fixed_noise(generator: torch.nn.Module) -> dict[str, str]:
    """Options that leave nothing random in evaluation mode: compiled code may draw other numbers."""
    synthesis = getattr(generator, "synthesis", None)
    forward = synthesis.forward if isinstance(synthesis, torch.nn.Module) else synthesis
    takes = forward is not None and "noise_mode" in inspect.signature(forward).parameters
    return {"noise_mode": "const"} if takes else {}


def compiled_equals_eager(name: str, backend: str, modes: tuple[bool, ...]) -> None:
    gan = made(name, dtype=torch.float32).eval()
    given, options = inputs(gan, "generator"), fixed_noise(gan.generator)
    torch._dynamo.reset()
    compiled = torch.compile(gan.generator, fullgraph=True, backend=backend)
    for gradients in modes:
        with torch.set_grad_enabled(gradients):
            expected, found = run(gan.generator, given, **options), run(compiled, given, **options)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


# BigGAN-deep has four times the layers of the others: ten seconds of tracing.
QUICK_TO_TRACE = [pytest.param(n, marks=pytest.mark.slow if n == "biggan-deep" else ()) for n in NAMES]


@pytest.mark.parametrize("name", QUICK_TO_TRACE)
def test_the_generator_compiles_into_one_graph(name: str) -> None:
    compiled_equals_eager(name, "eager", (True,))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", NAMES)
def test_the_generator_compiles_with_and_without_gradients(name: str, backend: str) -> None:
    compiled_equals_eager(name, backend, (False, True))


def distance(found: list[Tensor], exact: list[Tensor]) -> float:
    """Norm of the difference over that of the exact values."""
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(found, exact, strict=True)]
    return float(sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)) ** 0.5


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", NAMES)
def test_autocast_is_as_exact_as_eager(name: str, network: str) -> None:
    exact, fused, reference = made(name), made(name, dtype=torch.float32), made(name, "reference", torch.float32)
    given = inputs(fused, network)
    outputs, gradients = [], []
    for gan in (fused, reference, exact):
        module = getattr(gan, network)
        mine = given if gan is not exact else tuple(x.double() if x.is_floating_point() else x for x in given)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=gan is not exact):
            outputs.append(run(module, mine))
            loss = sum(y.float().square().mean() if gan is not exact else y.square().mean() for y in outputs[-1])
        loss.backward()
        gradients.append([p.grad for p in module.parameters() if p.grad is not None])
        assert all(g.isfinite().all() for g in gradients[-1])
    for values in (outputs, gradients):
        mine, eager = distance(values[0], values[2]), distance(values[1], values[2])
        assert mine <= 2 * eager + 0.01, (mine, eager)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", NAMES)
def test_channels_last(name: str, network: str) -> None:
    module = getattr(made(name), network)
    given = inputs(made(name), network)
    expected = first_and_second_gradients(copy.deepcopy(module), given)
    last = tuple(x.to(memory_format=torch.channels_last) if x.dim() == 4 else x for x in given)
    found = first_and_second_gradients(module.to(memory_format=torch.channels_last), last)
    assert_same(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_deepcopy_is_another_network_with_the_same_weights(name: str) -> None:
    gan = made(name, dtype=torch.float32).eval()
    twin = copy.deepcopy(gan)
    given = inputs(gan, "generator")
    with torch.no_grad():
        expected = run(gan.generator, given)
        assert_same(list(run(twin.generator, given)), list(expected))
        for parameter in twin.parameters():
            parameter.zero_()
        assert_same(list(run(gan.generator, given)), list(expected))


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_round_trip_and_the_state_of_another_config(name: str, tmp_path: Path) -> None:
    gan = made(name, dtype=torch.float32).eval()
    models.save_checkpoint(tmp_path / "gan.pt", gan)
    again = models.load_checkpoint(tmp_path / "gan.pt").gan.eval()
    assert again.config == gan.config
    for network in NETWORKS:
        given = inputs(gan, network)
        with torch.no_grad():
            for a, b in zip(run(getattr(again, network), given), run(getattr(gan, network), given), strict=True):
                assert torch.equal(a, b)
    other = models.from_config(gan.config, channels=gan.config.channels + 1)
    for network in NETWORKS:
        before = {k: v.clone() for k, v in getattr(other, network).state_dict().items()}
        with pytest.raises(ValueError, match="is of another config"):
            getattr(other, network).load_state_dict(getattr(gan, network).state_dict())
        assert all(torch.equal(v, before[k]) for k, v in getattr(other, network).state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_named_errors(name: str) -> None:
    config = FAMILIES[name].tiny
    for setting in ("resolution", "channels"):
        with pytest.raises(ValueError, match=rf"{type(config).__name__}: {setting} must be"):
            config.replace(**{setting: 0})
    with pytest.raises(ValueError, match=r"no setting 'depths'; it has .*resolution"):
        models.from_config(name, depths=3)
    with pytest.raises(ValueError, match="ops must be 'fused' or 'reference', got 'eager'"):
        models.from_config(config, "eager")
    gan = made(name, dtype=torch.float32)
    for network in NETWORKS:
        module, given = getattr(gan, network), inputs(gan, network)
        for wrong in wrong_inputs(module, given):
            with pytest.raises(ValueError, match=r"must be"):
                module(*wrong)


def wrong_inputs(module: torch.nn.Module, given: Inputs) -> Iterator[Inputs]:
    """Latents of another width, images of another size or number of channels, labels that are no classes."""
    first, *rest = given
    yield torch.cat([first, first[:, :1]], 1), *rest
    yield first[:, :-1], *rest
    if first.dim() == 4:
        yield first[:, :, :-1], *rest
    classes = getattr(module, "num_classes", 0)
    if classes:
        for labels in (torch.full((2,), classes), torch.full((2,), -1), torch.zeros(3, dtype=torch.int64), torch.zeros(2)):
            yield first, labels
        yield (first,)
    elif isinstance(module, (models.LatentGenerator, models.Discriminator)) and len(given) == 1:
        yield first, torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize("name", NAMES)
def test_registered_as_the_other_parts_expect(name: str) -> None:
    family = FAMILIES[name]
    assert family.config.family == family.name == name
    assert isinstance(family.tiny, family.config) and family.title and family.paper
    assert all(isinstance(config, family.config) for config in family.presets.values())
    assert len(set(models.presets())) == len(models.presets())
    config = family.tiny
    assert family.config.from_dict(config.to_dict()) == config


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_forward_never_waits_for_the_gpu(name: str) -> None:
    gan = made(name, dtype=torch.float32).cuda()
    for network in NETWORKS:
        module, given = getattr(gan, network), inputs(gan, network)
        run(module, given)  # compiles kernels
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            module(*given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
