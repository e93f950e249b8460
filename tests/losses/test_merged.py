"""The merged gradient against plain double backward of PyTorch's own layers and gankern's references."""

from __future__ import annotations

import copy
import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils._python_dispatch import TorchDispatchMode

from gankern import nn as gnn
from gankern import ops
from gankern.losses.merged import PenalizedStep


def logistic(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def relativistic(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(fake - real).mean()


# ---- critics ----------------------------------------------------------------------------------------------------------------
def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 12), nn.LeakyReLU(0.2), nn.Linear(12, 9, bias=False), nn.ReLU(),
                         nn.Linear(9, 1))  # fmt: skip


def dcgan() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(6, 8, 4, 2, 1, padding_mode="reflect"), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(8, 5, 2, padding="same"), nn.ReLU(), nn.Conv2d(5, 1, 2), nn.Flatten(0),
    )  # fmt: skip


class StyleGAN2Block(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = gnn.Conv2d(channels, channels, 3, act="lrelu", clamp=1.0)
        self.second = gnn.Conv2d(channels, out, 3, act="lrelu", clamp=1.5, down=2, gain=1.0)
        self.skip = gnn.Conv2d(channels, out, 1, bias=False, down=2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x)) + self.skip(x)) * (1 / math.sqrt(2))


class StyleGAN2(nn.Module):
    """Without minibatch standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = gnn.Blur()
        self.stem = gnn.Conv2d(3, 4, 1, act="lrelu", lr_multiplier=0.5)
        self.blocks = nn.Sequential(StyleGAN2Block(4, 6), StyleGAN2Block(6, 6))
        self.up = gnn.Conv2d(6, 3, 3, up=2)
        self.act = gnn.BiasAct(3, act="relu", clamp=0.8)
        self.down = gnn.Downsample2d()
        self.fc = gnn.Linear(12, 5, act="lrelu")
        self.out = gnn.Linear(5, 1)

    def forward(self, img: Tensor, c: Any = None, update: bool = False) -> Tensor:
        x = self.down(self.act(self.up(self.blocks(self.stem(self.blur(img))))))
        return self.out(self.fc(x.flatten(1)))


class R3GANBlock(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.randn(channels, channels, 1, 1) / 2)
        self.two = nn.Parameter(torch.randn(channels, channels // groups, 3, 3) / 3)
        self.three = nn.Parameter(torch.randn(channels, channels, 1, 1) / 2)
        self.shift, self.factor = nn.Parameter(torch.randn(channels)), nn.Parameter(torch.randn(1, channels, 1, 1))
        self.offset = nn.Parameter(torch.randn(()))
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        y = ops.bias_act(F.conv2d(x, self.one * 0.7), self.shift, act="lrelu")
        y = F.leaky_relu(ops.conv2d(y, self.two, padding=1, groups=self.groups) * self.factor - self.offset, 0.2)
        return x + F.conv2d(y, self.three)


def r3gan() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), R3GANBlock(8, 4), gnn.Downsample2d(), R3GANBlock(8, 2),
                         nn.Conv2d(8, 8, 4, groups=8, bias=False), nn.Flatten(), nn.Linear(8, 1, bias=False))  # fmt: skip


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.skip = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1, stride=2)
        self.a, self.b = nn.Conv2d(6, 7, 3, padding=1), nn.Conv2d(7, 6, 3, padding=2, dilation=2, groups=1)
        self.wide = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1)
        self.last = nn.Linear(4, 1)
        self.alpha = 0.3

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.avg_pool2d(self.b(torch.relu(self.a(torch.relu(x)))), 2)
        x = torch.cat([self.skip(x) - self.alpha * y, y], 1)[:, 2:8]
        x = F.max_pool2d(self.wide(x / 2), 2)
        return self.last(F.relu(x).mean(dim=(2, 3))).view(x.shape[0])


def spectral() -> nn.Module:
    return nn.Sequential(spectral_norm(nn.Conv2d(3, 6, 3, 2, 1)), nn.LeakyReLU(0.1), spectral_norm(nn.Conv2d(6, 4, 3, 2, 1)),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), spectral_norm(nn.Linear(4, 1)))  # fmt: skip


class Shared(nn.Module):
    """One convolution used twice, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3, padding=1), nn.Linear(5, 1)
        self.stem.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = F.leaky_relu(self.conv(x), 0.3)
        return self.head(x.sum((2, 3)) * 0.1)


CRITICS = [mlp, dcgan, StyleGAN2, r3gan, ResNet, spectral, Shared]


def made(build: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    critic = build()
    with torch.no_grad():
        for name, p in critic.named_parameters():
            if name.endswith("bias"):
                p.normal_()
    return critic.to(dtype)


def images(n: int = 4, m: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    real, fake = (torch.randn(k, 3, 8, 8, generator=g, dtype=torch.float64).to(dtype) for k in (n, m))
    return real, fake


def eager(
    critic: nn.Module, loss: Any, r1: float, r2: float, real: Tensor, fake: Tensor
) -> tuple[list[Tensor | None], list[Tensor]]:
    """Plain double backward on a copy that runs references: gradients, and (loss, R1, R2)."""
    critic = copy.deepcopy(critic)
    for m in critic.modules():
        if hasattr(m, "reference"):
            m.reference = True
    inputs = [real.clone().requires_grad_(), fake.clone().requires_grad_()]
    logits = [critic(x) for x in inputs]
    parts = [loss(*logits)]
    for x, y, weight in zip(inputs, logits, (r1, r2), strict=True):
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        parts.append(weight / 2 * g.square().flatten(1).sum(1).mean())
    parameters = list(critic.parameters())
    asked = [p for p in parameters if p.requires_grad]
    found = iter(torch.autograd.grad(sum(parts[1:], parts[0]), asked, allow_unused=True))
    gradients = [next(found) if p.requires_grad else None for p in parameters]
    return gradients, [p.detach() for p in parts]


def assert_same(actual: list[Tensor | None], expected: list[Tensor | None], tolerance: float = 1e-10) -> None:
    largest = max(float(e.abs().max()) for e in expected if e is not None)  # some gradients are 0 but for rounding
    for a, e in zip(actual, expected, strict=True):
        if a is None or e is None:
            given = a if e is None else e
            assert given is None or not given.any()
        else:
            assert a.dtype == e.dtype
            torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * largest)


# ---- values -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weights", [(10.0, 0.0), (0.0, 3.0), (4.0, 3.0), (0.0, 0.0)], ids=str)
@pytest.mark.parametrize("build", CRITICS, ids=lambda b: b.__name__)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_gradients_are_those_of_double_backward(build: Any, weights: tuple[float, float]) -> None:
    critic = made(build)
    loss = relativistic if weights[1] else logistic
    expected, parts = eager(critic, loss, *weights, *images())
    step = PenalizedStep(critic, loss, *weights, fallback=False)
    found = step.backward(*images())
    assert step.explain().startswith("merged" if any(weights) else "no penalty")
    assert_same([p.grad for p in critic.parameters()], expected)
    assert any(p.grad is not None and p.grad.abs().max() > 1e-4 for p in critic.parameters())
    for a, e in zip((found.loss, found.r1, found.r2), parts, strict=True):
        torch.testing.assert_close(a, e)
        assert not a.requires_grad
    assert found.real_logits.shape == found.fake_logits.shape


@pytest.mark.parametrize("build", [dcgan, StyleGAN2, r3gan, ResNet], ids=lambda b: b.__name__)
def test_float32_errs_no_more_than_twice_as_much_as_eager(build: Any) -> None:
    critic = made(build, torch.float32)
    truth, _ = eager(copy.deepcopy(critic).double(), relativistic, 5.0, 5.0, *images())
    plain, _ = eager(critic, relativistic, 5.0, 5.0, *images(dtype=torch.float32))
    mine = PenalizedStep(critic, relativistic, 5.0, 5.0, fallback=False).gradients(*images(dtype=torch.float32))

    def error(gradients: list[Tensor | None]) -> float:
        return math.sqrt(sum(float((g.double() - t).square().sum()) for g, t in zip(gradients, truth, strict=True)))

    assert error(mine) <= 2 * error(plain)


def test_one_sample_and_batches_of_different_size() -> None:
    for n, m in ((1, 1), (1, 3), (5, 2)):
        critic = made(ResNet)
        expected, _ = eager(critic, logistic, 2.0, 3.0, *images(n, m))
        step = PenalizedStep(critic, logistic, 2.0, 3.0, fallback=False)
        assert_same(step.gradients(*images(n, m)), expected)


def test_no_gradient_reaches_the_generator() -> None:
    for build in (dcgan, normalised):
        real, fake = images()
        fake.requires_grad_()
        found = PenalizedStep(made(build), logistic, 2.0, 3.0).backward(real, fake)
        assert fake.grad is None and not found.fake_logits.requires_grad


@pytest.mark.parametrize("build", [StyleGAN2, ResNet], ids=lambda b: b.__name__)
def test_channels_last(build: Any) -> None:
    critic = made(build)
    expected, _ = eager(critic, logistic, 2.0, 3.0, *images())
    critic = critic.to(memory_format=torch.channels_last)
    last = [x.contiguous(memory_format=torch.channels_last) for x in images()]
    PenalizedStep(critic, logistic, 2.0, 3.0, fallback=False).backward(*last)
    assert_same([p.grad for p in critic.parameters()], expected)


def test_spectral_norm_iterates_once_a_forward() -> None:
    critic, plain = made(spectral), made(spectral)
    for x in images():
        plain(x)
    PenalizedStep(critic, logistic, 2.0, 3.0, fallback=False).backward(*images())
    for a, e in zip(critic.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0)


def test_micro_batches_accumulate() -> None:
    critic = made(StyleGAN2)
    expected, _ = eager(critic, logistic, 2.0, 3.0, *images())
    step = PenalizedStep(critic, logistic, 2.0, 3.0, fallback=False)
    for part in range(2):
        step.backward(*(x[2 * part : 2 * part + 2] for x in images()), scale=0.5)
    assert_same([p.grad for p in critic.parameters()], expected)


def test_scale_is_a_factor_on_gradients_alone() -> None:
    for build in (dcgan, normalised):
        critic = made(build)
        step = PenalizedStep(critic, logistic, 2.0)
        plain, scaled = step.gradients(*images()), step.gradients(*images(), scale=torch.tensor([8.0]))
        assert_same(scaled, [None if g is None else 8 * g for g in plain])
        assert step.backward(*images(), scale=8).r1 == step.backward(*images()).r1


def test_autocast_gives_gradients_in_the_parameters_dtype() -> None:
    critic = made(ResNet, torch.float32)
    truth = PenalizedStep(critic, logistic, 1.0, 1.0, fallback=False).gradients(*images(dtype=torch.float32))
    step = PenalizedStep(critic, logistic, 1.0, 1.0, fallback=False)
    with torch.autocast("cpu", torch.bfloat16):
        lower = step.gradients(*images(dtype=torch.float32))
        inside, _ = eager(critic, logistic, 1.0, 1.0, *images(dtype=torch.float32))
    for g, t, e in zip(lower, truth, inside, strict=True):
        assert g.dtype == torch.float32 and not torch.equal(g, t)
        assert (g - t).norm() <= 2 * (e - t).norm() + 1e-3 * t.norm()


# ---- work -------------------------------------------------------------------------------------------------------------------
class Units(TorchDispatchMode):
    """Counts convolutions: each forward, input gradient, tangent and weight gradient of a layer is one unit of work."""

    NAMES = ("gankern.conv2d.default", "gankern.conv_transpose2d.default", "gankern.conv2d_weight_gradient.default")

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        if name in self.NAMES or name == "aten.convolution.default":
            self.calls[name] += 1
        elif name == "aten.convolution_backward.default":
            self.calls[name] += sum(args[-1][:2])
        return function(*args, **(kwargs or {}))


def units(step: PenalizedStep) -> int:
    step.gradients(*images())  # decides
    with Units() as count:
        step.gradients(*images())
    return count.calls.total()


@pytest.mark.parametrize("build, layers", [(dcgan, 4), (StyleGAN2, 8), (r3gan, 8)], ids=["dcgan", "stylegan2", "r3gan"])
def test_a_penalised_batch_costs_four_units_a_layer(build: Any, layers: int) -> None:
    critic = made(build)
    assert units(PenalizedStep(critic, logistic, 1.0, 1.0, fallback=False)) == 8 * layers
    # Of a batch without penalty the first layer gives no input gradient.
    assert units(PenalizedStep(critic, logistic, 1.0, 0.0, fallback=False)) == 4 * layers + 3 * layers - 1


def test_double_backward_costs_more() -> None:
    critic = made(dcgan)
    handle = critic[1].register_forward_hook(lambda *_: None)
    assert units(PenalizedStep(critic, logistic, 1.0, 1.0)) >= 2 * 4 * 5
    handle.remove()


# ---- what does not qualify --------------------------------------------------------------------------------------------------
def normalised() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.2),
                         nn.Conv2d(4, 1, 6), nn.Flatten(0))  # fmt: skip


class Odd(nn.Module):
    """A critic whose forward is given."""

    def __init__(self, course: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)
        self.slope = nn.PReLU()
        self.count = 0
        self.register_buffer("seen", torch.zeros(()))
        self.course = course

    def forward(self, x: Tensor) -> Any:
        return self.course(self, x)


def _counts(m: Any, x: Tensor) -> Tensor:
    m.count += 1
    return m.head(m.conv(x).mean((2, 3)))


def _branches(m: Any, x: Tensor) -> Tensor:
    return m.head(m.conv(x if x.mean() > 100 else 2 * x).mean((2, 3)))


def _without_autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=not torch.is_autocast_enabled("cpu"), dtype=torch.bfloat16):
        x = m.conv(x)
    return m.head(x.to(m.head.weight.dtype).mean((2, 3)))


def _scaled(m: Any, x: Tensor, *, by: Callable[[Tensor], Tensor]) -> Tensor:
    x = m.conv(x)
    return m.head((x * by(x)).mean((2, 3)))


ODD: dict[str, tuple[Callable[..., Any], str]] = {
    "tanh": (lambda m, x: m.head(torch.tanh(m.conv(x)).mean((2, 3))), "tanh: it is not known to be piecewise linear"),
    "sigmoid": (lambda m, x: m.head(m.conv(x).sigmoid().mean((2, 3))), "sigmoid: it is not known"),
    "prelu": (lambda m, x: m.head(m.slope(m.conv(x)).mean((2, 3))), "layer slope (PReLU): it is not known"),
    "swish": (lambda m, x: m.head(ops.bias_act(m.conv(x), act="swish").mean((2, 3))), "activation swish is not piecewise"),
    "map": (lambda m, x: m.conv(x)[:, :1], "it gives 36 logits a sample, not one"),
    "several": (lambda m, x: [m.head(m.conv(x).mean((2, 3)))], "the critic: it gives several outputs"),
    "batch mean": (lambda m, x: m.head((lambda y: y - y.mean(0, keepdim=True))(m.conv(x)).mean((2, 3))), "mixes the samples"),
    "batch matrix": (lambda m, x: F.linear(m.head(m.conv(x).mean((2, 3))).flatten(), m.conv.weight[:3, :, 0, 0]), "mixes the"),
    "batch bias": (lambda m, x: ops.bias_act(m.head(m.conv(x).mean((2, 3))), m.conv.bias[:3], dim=0), "belongs to the samples"),
    "batch reshape": (lambda m, x: m.head(m.conv(x).reshape(-1, 6, 6).mean((1, 2)).view(-1, 4)), "does not keep the batch"),
    "gate": (lambda m, x: _scaled(m, x, by=lambda y: y), "multiplies two tensors that depend on the images"),
    "norm": (lambda m, x: (lambda y: m.head((y / y.abs().mean((1, 2, 3), keepdim=True)).sum((2, 3))))(m.conv(x)), "divides"),
    "noise": (lambda m, x: m.head((m.conv(x) + torch.randn(1, 4, 1, 1, dtype=x.dtype)).mean((2, 3))), "cannot|makes a"),
    "counts": (_counts, "changes attributes"),
    "branches": (_branches, "torch.fx cannot trace it"),
    "autocast": (_without_autocast, "switches autocast or gradients"),
    "trained taps": (lambda m, x: m.head(ops.upfirdn2d(m.conv(x), m.conv.weight[0, 0]).mean((2, 3))), "takes a trained tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_does_not_qualify_is_named_and_refused_without_fallback(name: str) -> None:
    course, text = ODD[name]
    critic = made(lambda: Odd(course))
    step = PenalizedStep(critic, logistic, 1.0)
    found = step.explain(images()[0])
    assert found.startswith("plain double backward: "), found
    assert any(part in found for part in text.split("|")), found
    assert critic.count == 0 and not critic.seen.any()
    with pytest.raises(ValueError, match=r"PenalizedStep: the critic does not qualify .*fallback=False"):
        PenalizedStep(critic, logistic, 1.0, fallback=False).backward(*images(3, 3))


def stddev() -> nn.Module:
    class Stddev(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x.std(0, keepdim=True).mean().expand_as(x[:, :1])], 1)

    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), Stddev(), nn.Conv2d(5, 1, 6), nn.Flatten())


def patches() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4))


@pytest.mark.parametrize("build", [normalised, stddev, patches], ids=lambda b: b.__name__)
def test_falls_back_to_double_backward(build: Any) -> None:
    critic = made(build)
    expected, parts = eager(critic, logistic, 4.0, 3.0, *images())
    step = PenalizedStep(critic, logistic, 4.0, 3.0)
    found = step.backward(*images())
    assert step.explain().startswith("plain double backward")
    assert_same([p.grad for p in critic.parameters()], expected)
    torch.testing.assert_close(torch.stack([found.loss, found.r1, found.r2]), torch.stack(parts))


def test_names_the_first_layer() -> None:
    step = PenalizedStep(made(normalised), logistic, 1.0)
    assert "not decided" in step.explain()
    assert step.explain(images()[0]) == (
        "plain double backward: layer 2 (InstanceNorm2d): it is not known to be piecewise linear"
    )


def test_dropout_and_other_changes_decide_anew() -> None:
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(4, 1, 6), nn.Flatten()).double()
    step = PenalizedStep(critic, logistic, 1.0)
    assert "layer 1: it is random in training mode" in step.explain(images()[0])
    critic.eval()
    assert step.explain(images()[0]).startswith("merged")
    handle = critic[2].register_forward_hook(lambda *_: None)
    assert "layer 2: it has hooks" in step.explain(images()[0])
    handle.remove()
    assert step.explain(images()[0]).startswith("merged")


@pytest.mark.parametrize("change", ["alpha", "forward"])
def test_changes_of_a_critic_are_seen(change: str) -> None:
    critic = made(ResNet)
    step = PenalizedStep(critic, logistic, 1.0)
    step.gradients(*images())
    if change == "alpha":
        critic.alpha = -2.0
    else:
        critic.a.forward = MethodType(lambda m, x: F.conv2d(x, m.weight, m.bias, padding=1).tanh(), critic.a)
    expected, _ = eager(critic, logistic, 1.0, 0.0, *images())
    assert_same(step.gradients(*images()), expected)
    assert step.explain().startswith("merged" if change == "alpha" else "plain double backward: layer a: its forward was")


def test_what_only_the_whole_batch_shows_falls_back() -> None:
    """A layer that takes three samples for what they are not."""
    critic = made(lambda: Odd(lambda m, x: m.head(m.conv(x).view(3, -1, 4, 36).flatten(0, 1).mean(2))))
    real, fake = images(6, 6)
    expected, _ = eager(critic, logistic, 1.0, 2.0, real, fake)
    step = PenalizedStep(critic, logistic, 1.0, 2.0)
    assert_same(step.gradients(real, fake), expected)
    assert "does not keep the batch" in step.explain()


def test_thawed_parameters_get_gradients() -> None:
    critic = made(Shared)
    step = PenalizedStep(critic, logistic, 1.0, fallback=False)
    assert step.gradients(*images())[0] is None
    critic.stem.weight.requires_grad_(True)
    expected, _ = eager(critic, logistic, 1.0, 0.0, *images())
    assert_same(step.gradients(*images()), expected)


def _marks(m: Any, x: Tensor) -> Tensor:
    m.seen.add_(1)
    return m.head(m.conv(x).mean((2, 3)) + m.seen)


def test_buffers_change_as_in_one_forward() -> None:
    critic = made(lambda: Odd(_marks))
    step = PenalizedStep(critic, logistic, 1.0, 1.0, fallback=False)
    assert step.explain(images()[0]).startswith("merged") and critic.seen == 0
    expected, _ = eager(critic, logistic, 1.0, 1.0, *images())
    assert_same(step.gradients(*images()), expected)
    assert critic.seen == 2


# ---- how gradients arrive ---------------------------------------------------------------------------------------------------
def test_hooks_of_parameters_run_once() -> None:
    critic = made(Shared)
    calls: Counter[str] = Counter()
    for name, p in critic.named_parameters():
        if p.requires_grad:
            p.register_post_accumulate_grad_hook(lambda _, name=name: calls.update([name]))
    PenalizedStep(critic, logistic, 1.0, 1.0, fallback=False).backward(*images())
    assert calls == {name: 1 for name, p in critic.named_parameters() if p.requires_grad}


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    # What is parallel must be gone by now: it would end the group with Python's lock held, and wait for its threads.
    gc.collect()
    dist.destroy_process_group()


@pytest.mark.parametrize("build", [StyleGAN2, normalised], ids=lambda b: b.__name__)
def test_distributed_reduces_the_gradients(build: Any, group: None) -> None:
    """A reduction that doubles: what arrives has been through it, once a step."""
    critic = made(build)
    wrapped = DistributedDataParallel(critic)
    sizes: list[int] = []

    def double(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        sizes.append(bucket.buffer().numel())
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer() * 2)
        return future

    double.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[Tensor]}
    wrapped.register_comm_hook(None, double)
    step = PenalizedStep(wrapped, logistic, 2.0, 3.0)
    expected, _ = eager(critic, logistic, 2.0, 3.0, *images())
    for _ in range(2):
        sizes.clear()
        critic.zero_grad()
        step.backward(*images())
        assert_same([p.grad for p in critic.parameters()], [None if e is None else 2 * e for e in expected])
        assert sum(sizes) == sum(p.numel() for p in critic.parameters())
    assert "forward" not in vars(critic)
    with wrapped.no_sync():
        sizes.clear()
        step.backward(*images())
    assert not sizes


# ---- bad input --------------------------------------------------------------------------------------------------------------
def test_bad_arguments() -> None:
    critic = made(dcgan)
    with pytest.raises(TypeError, match=r"PenalizedStep: critic must be a torch\.nn\.Module, got function"):
        PenalizedStep(lambda x: x, logistic)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loss must be a function of"):
        PenalizedStep(critic, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="r1 must not be negative, got -1"):
        PenalizedStep(critic, logistic, r1=-1)
    with pytest.raises(TypeError, match="fallback must be a bool"):
        PenalizedStep(critic, logistic, fallback=1)  # type: ignore[arg-type]
    step = PenalizedStep(critic, logistic, 1.0)
    real, fake = images()
    with pytest.raises(TypeError, match="scale must be a number"):
        step.backward(real, fake, scale="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fake must be \[N, \.\.\.\] with at least one sample"):
        step.backward(real, fake[:0])
    with pytest.raises(ValueError, match="loss must give a scalar tensor that depends on the logits, got shape"):
        PenalizedStep(critic, lambda r, f: r - f, 1.0).backward(real, fake)
    with pytest.raises(ValueError, match="no parameter of the critic requires gradients"):
        PenalizedStep(critic.requires_grad_(False), logistic, 1.0).backward(real, fake)
