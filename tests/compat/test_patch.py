from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_models import CASES, Adaptive, ModConv, Modulated, PixelNorm, assert_same, made, results
from torch import Tensor, nn

import gankern
from gankern import ops
from gankern.compat import _patch_layers as layers


# ---- equality ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-7), (torch.float32, 2e-5)], ids=["double", "float"])
def test_same_values_gradients_and_second_derivatives(name: str, training: bool, dtype: torch.dtype, tolerance: float) -> None:
    model, inputs, swapped = made(name)
    model.to(dtype).train(training)
    inputs = tuple(x.to(dtype) for x in inputs)
    ours = copy.deepcopy(model)
    report = gankern.patch(ours)
    assert len(report.swapped) == swapped, str(report)
    assert_same(results(ours, inputs), results(model, inputs), tolerance)
    with torch.no_grad():
        assert_same([ours(*inputs)], [model(*inputs)], tolerance)
    assert_same(list(ours.state_dict().values()), list(model.state_dict().values()), tolerance)


@pytest.mark.parametrize("name", CASES)
def test_everything_stays_in_place_and_comes_back(name: str) -> None:
    model, inputs, _ = made(name)
    kept = [(m, type(m), dict(m.__dict__)) for m in model.modules()]
    parameters, keys, text = list(map(id, model.parameters())), list(model.state_dict()), repr(model)
    gankern.patch(model)
    assert list(map(id, model.parameters())) == parameters and list(model.state_dict()) == keys
    assert "gankern" in repr(model) and "gankern" not in text
    for m, cls, _ in kept:
        assert isinstance(m, cls if not layers.parametrized(cls) else cls.__bases__[0]) and type(m).__name__ == cls.__name__
    assert gankern.unpatch(model) > 0
    assert repr(model) == text
    for m, cls, inside in kept:
        assert type(m) is cls
        assert m.__dict__.keys() == inside.keys() and all(m.__dict__[k] is v for k, v in inside.items() if k != "weight")
    assert gankern.unpatch(model) == 0
    model(*inputs)


@pytest.mark.parametrize("name", CASES)
def test_a_second_call_does_nothing_and_says_so(name: str) -> None:
    model, _, swapped = made(name)
    gankern.patch(model)
    types = [type(m) for m in model.modules()]
    report = gankern.patch(model)
    assert not report.swapped and len(report.already) == swapped
    assert "nothing to do" in str(report)
    assert [type(m) for m in model.modules()] == types


def test_the_operators_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name in (
        "conv2d",
        "conv_transpose2d",
        "instance_norm",
        "bias_act",
        "spectral_norm",
        "modulated_conv2d",
        "pixel_norm",
        "minibatch_stddev",
    ):
        own = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, own=own, name=name, **k: seen.append(name) or own(*a, **k))
    expected = {
        "conv": ["conv2d", "bias_act", "conv2d"],
        "instance-norm": ["conv2d", "instance_norm", "instance_norm"],
        "linear": ["bias_act", "bias_act"],
        "spectral-hook": ["spectral_norm", "conv2d", "bias_act"],
        "spectral-parametrization": ["spectral_norm", "conv2d", "bias_act"],
        "modulated-up": ["modulated_conv2d"],
        "adaptive": ["modulated_conv2d"],
        "pixel-norm": ["pixel_norm"],
        "minibatch-stddev": ["minibatch_stddev"],
    }  # fmt: skip
    for name, calls in expected.items():
        model, inputs, _ = made(name)
        gankern.patch(model)
        seen.clear()
        model(*(x.requires_grad_() for x in inputs))
        assert seen[: len(calls)] == calls, name


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.02), (torch.float16, 0.003)], ids=["bfloat16", "half"])
@pytest.mark.parametrize("name", ["conv", "transposed", "instance-norm-tracked", "linear"])
def test_half_types_and_channels_last(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model, (x,), _ = made(name)
    ours = copy.deepcopy(model)
    gankern.patch(ours)
    ours.to(dtype)
    lower = x.to(dtype)
    if name != "linear":
        ours.to(memory_format=torch.channels_last)
        lower = lower.contiguous(memory_format=torch.channels_last)
    y, want = ours(lower), model(x)
    assert y.dtype is dtype and (y.double() - want).norm() <= tolerance * want.norm()
    if name != "linear":
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["conv", "transposed", "instance-norm", "linear", "conv2dmod"])
def test_autocast(name: str) -> None:
    model, inputs, _ = made(name)
    ours = copy.deepcopy(model)
    gankern.patch(ours)
    with torch.autocast("cpu", torch.bfloat16):
        y, want = ours(*inputs), model(*inputs)
    assert y.dtype is want.dtype
    assert (y.double() - want.double()).norm() <= 0.02 * want.double().norm()
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in ours.parameters())


# ---- what is left ------------------------------------------------------------------------------------------------------
class OwnConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class JustNamed(nn.Conv2d):
    """A subclass that changes nothing."""


class Stack(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        for module in self:
            input = module(input) + 1
        return input


class Scaled(Modulated):
    """Like the others by its attributes, but for a factor in its forward method."""

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return 1.001 * super().forward(x, style)


class Pickled(Modulated):
    def __reduce__(self) -> Any:
        return (Pickled, ())


def reason(model: nn.Module, **options: bool) -> str:
    report = gankern.patch(model, **options)
    assert not report.swapped, str(report)
    return " | ".join(row.detail for row in report.left)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_reasons() -> None:
    replaced = nn.Conv2d(1, 1, 1)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    assert "forward of its own" in reason(OwnConv(1, 1, 1))
    assert "replaced on the object" in reason(replaced)
    assert "complex64" in reason(nn.Conv2d(1, 1, 1, dtype=torch.complex64))
    assert "eps is 0" in reason(nn.InstanceNorm2d(3, eps=0.0))
    assert "no layer that gankern knows" in reason(nn.BatchNorm2d(3))
    assert "lazy" in reason(nn.LazyConv2d(3, 3))
    assert "no activation" in reason(nn.Linear(3, 3))
    assert "right before it" in reason(nn.ReLU())
    assert "TorchScript" in reason(torch.jit.script(nn.Sequential(nn.ReLU())))
    assert "differ" in reason(Scaled())
    assert "__reduce__" in reason(Pickled())
    assert "eps is 1e-05" in reason(ModConv(eps=1e-5))
    stride = ModConv()
    stride.stride = 2
    assert "stride is 2" in reason(stride)
    assert "its trial failed" in reason(Raises())
    assert "convs=False" in reason(nn.Conv2d(1, 1, 1), convs=False)
    assert "norms=False" in reason(nn.InstanceNorm2d(1), norms=False)
    assert "norms=False" in reason(PixelNorm(), norms=False)
    assert "modulated=False" in reason(ModConv(), modulated=False)
    assert "spectral_norms=False" in reason(made("spectral-hook")[0], spectral_norms=False, convs=False, activations=False)
    assert "spectral_norms=False" in reason(
        made("spectral-parametrization")[0], spectral_norms=False, convs=False, activations=False
    )


class Raises(ModConv):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("no GPU")


def test_a_subclass_that_changes_nothing_is_swapped() -> None:
    model = JustNamed(2, 3, 3)
    gankern.patch(model)
    assert layers.patch_of(type(model)) is not None and type(model).__name__ == "JustNamed"
    assert type(pickle.loads(pickle.dumps(model))) is type(model)


def test_a_sequential_with_its_own_forward_is_not_fused() -> None:
    model = Stack(nn.Conv2d(4, 4, 1), nn.ReLU())
    x = torch.randn(1, 4, 3, 3)
    want = model(x)
    report = gankern.patch(model)
    assert [row.layer for row in report.swapped] == ["Conv2d"] and "Stack" in report.left[0].detail
    torch.testing.assert_close(model(x), want)


def test_unusual_arguments_run_the_original() -> None:
    model = Adaptive(1)
    x, mod = torch.randn(4, 4, 6, 6), torch.randn(2, 4)
    want = model(x, mod), model(fmap=x, mod=mod, kernel_mod=torch.empty(0, 0))
    gankern.patch(model)
    assert_same([model(x, mod), model(fmap=x, mod=mod, kernel_mod=torch.empty(0, 0))], list(want), 1e-6)
    model = ModConv()
    x, y = torch.randn(2, 4, 5, 5), torch.randn(2, 4)
    want = model(x=x, y=y)
    gankern.patch(model)
    assert_same([model(x=x, y=y)], [want], 1e-6)


def test_a_trial_leaves_random_numbers_and_parameters_alone() -> None:
    model, _, _ = made("modulated")
    model.modulation.weight.grad = torch.ones_like(model.modulation.weight)
    model.train(False).requires_grad_(False)
    torch.manual_seed(3)
    want = torch.randn(3)
    torch.manual_seed(3)
    with torch.no_grad():
        assert gankern.patch(model).swapped
    assert torch.equal(torch.randn(3), want)
    assert not model.training and not model.weight.requires_grad and model.weight.grad is None


@pytest.mark.parametrize("bad", [None, 3, nn.Conv2d, [nn.ReLU()]])
def test_bad_models(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        gankern.patch(bad)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        gankern.unpatch(bad)


def test_bad_options_change_nothing() -> None:
    model, _, _ = made("conv")
    with pytest.raises(TypeError, match="norms must be True or False, got 'no'"):
        gankern.patch(model, norms="no")  # type: ignore[arg-type]
    assert type(model[0]) is nn.Conv2d


def test_the_report_is_a_table() -> None:
    model, _, _ = made("residual")
    text = str(gankern.patch(nn.ModuleDict({"a": model, "b": nn.BatchNorm2d(3), "c": nn.BatchNorm2d(3)})))
    assert text.splitlines()[0] == "gankern.patch: 3 layers swapped, 2 left"
    assert "left 2 x" in text and "b, c" in text and "a.conv" in text


def test_the_example_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "compat.md").read_text(encoding="utf-8")
    page = page[page.index("## `gankern.patch(model)`") :]
    code, table = (page.split(start)[1].split("```")[0] for start in ("```python\n", "```\ngankern.patch"))
    exec(compile(code, "compat.md", "exec"), {})
    assert capsys.readouterr().out == "gankern.patch" + table


def test_convs_false_moves_biases_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("conv", "transposed"):
        model, (x,), _ = made(name)
        ours = copy.deepcopy(model)
        report = gankern.patch(ours, convs=False)
        assert report.swapped
        for called in ("conv2d", "conv_transpose2d"):
            monkeypatch.setattr(ops, called, None)
        assert_same(results(ours, (x,)), results(model, (x,)), 2e-5)
