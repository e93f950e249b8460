"""Rows of whole networks: what they compute, the convolutions alone, and that dear contenders are not called often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gankern.bench import case, convolutions, extras, networks, reasons, rows, session, timing
from gankern.bench.convolutions import Convolutions
from gankern.bench.goals import GOALS
from gankern.bench.reasons import Reason
from gankern.bench.rows import Row
from gankern.bench.timing import Budget, Contender, Race
from gankern.models import count_flops, example_inputs

CPU = torch.device("cpu")
TINY = [(phase, name) for name, n in networks.NETWORKS.items() if "tiny" in name for phase in n.batches]


def inputs(name: str, phase: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    batch = networks.NETWORKS[name].batches[phase][0]
    return networks._make(name, batch)(dtype, CPU, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("phase, name", TINY)
def test_fused_and_reference_compute_the_same(phase: str, name: str) -> None:
    spec, kwargs = networks.SPECS[f"network_{phase}"], inputs(name, phase)
    networks._kept.clear()  # StyleGAN3's running magnitudes move with every call
    ours, theirs = spec.public(**kwargs), spec.reference(**kwargs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
        assert a.isfinite().all() and a.any()


@pytest.mark.parametrize("family", ["wgan-gp", "r3gan", "pix2pix"])
def test_a_critic_step_is_that_of_the_family(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = networks.Network(networks.FAMILIES[family].tiny, {"critic_step": (2,)})
    monkeypatch.setitem(networks.NETWORKS, "here", network)
    networks._kept.clear()  # other families have stood here
    spec, kwargs = networks.SPECS["network_critic_step"], inputs("here", "critic_step")
    (ours,), (theirs,) = spec.public(**kwargs), spec.reference(**kwargs)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=0)
    assert ours > 0


def test_path_length_and_r1_are_their_formulas() -> None:
    kwargs = inputs("stylegan2_tiny", "r1_step")
    penalty, _ = networks.SPECS["network_r1_step"].public(**kwargs)
    critic = networks._kept["reference"].discriminator
    x = kwargs["real_0"].clone().requires_grad_()
    (g,) = torch.autograd.grad(critic(x).sum(), x)
    torch.testing.assert_close(penalty, 5 * g.square().sum() / len(x), rtol=1e-8, atol=0)


# ---- the convolutions alone ------------------------------------------------------------------------------------------------
def products(recorder: Convolutions) -> int:
    """Multiply-adds of what was noted."""
    total = 0
    for (_, (_, shape, _, _), (_, w, _, _), _, *settings), count in recorder.calls.items():
        x, weight = torch.empty(shape, device="meta"), torch.empty(w, device="meta")
        arguments = [list(v) if isinstance(v, tuple) else v for v in settings]
        y = torch.ops.aten.convolution(x, weight, None, *arguments)
        total += count * (x if arguments[3] else y).numel() * torch.Size(w[1:]).numel()
    return total


@pytest.mark.parametrize("family", ["dcgan", "wgan-gp", "stylegan2", "stylegan3", "pix2pix"])
def test_convolutions_are_those_that_the_fused_network_computes(family: str) -> None:
    """Upsampling ones at the lower resolution; what is left of the network's count are matrix products."""
    gan = networks._on_meta(networks.FAMILIES[family].tiny)
    given = example_inputs(gan, 2)[0]
    recorder, linear = Convolutions(), []
    hooks = [
        module.register_forward_hook(lambda m, x, y: linear.append(2 * x[0].numel() // x[0].shape[-1] * m.weight.numel()))
        for module in gan.generator.modules()
        if type(module).__name__ == "Linear"
    ]
    with torch.no_grad(), recorder:
        gan.generator(*given)
    for hook in hooks:
        hook.remove()
    counted = count_flops(gan.generator, *given)
    assert 0.9 * counted <= 2 * products(recorder) + sum(linear) <= 1.1 * counted
    assert products(recorder) > 0


def test_a_phase_runs_as_many_convolutions_as_it_says() -> None:
    conv, filters = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.Conv2d(4, 4, 3, groups=4)
    up = torch.nn.ConvTranspose2d(4, 2, 4, 2, 1)
    recorder = Convolutions()
    with torch.no_grad(), recorder:
        up(filters(conv(torch.randn(2, 3, 16, 16))))
        conv(torch.randn(2, 3, 16, 16))
    for passes, forwards, backwards in (
        (convolutions.FORWARD, 3, 0),
        (convolutions.BACKWARD, 3, 3),
        (convolutions.DOUBLE_BACKWARD, 6, 6),
    ):
        for channels_last in (False, True):
            run = recorder.alone(passes, CPU, channels_last)
            again = Convolutions()
            with again:
                run()
            counts = {key[0]: 0 for key in again.calls}
            for key, count in again.calls.items():
                counts[key[0]] += count
                assert key[1][1] in {(2, 3, 16, 16), (2, 4, 6, 6), (2, 4, 8, 8), (2, 2, 12, 12)}
            assert counts.get(torch.ops.aten.convolution.default, 0) == forwards
            assert counts.get(torch.ops.aten.convolution_backward.default, 0) == backwards


def test_passes_of_the_phases() -> None:
    def of(name: str, phase: str) -> tuple[int, int, int]:
        return networks.passes(networks.NETWORKS[name], phase)

    assert of("stylegan2_128", "forward") == (1, 0, 0) and of("stylegan2_128", "step") == (1, 1, 1)
    assert of("stylegan2_128", "r1_step") == of("stylegan2_128", "path_length") == (2, 2, 2)
    assert of("r3gan_32", "critic_step") == (4, 4, 4)  # R1 and R2
    assert of("wgan_gp_64", "critic_step") == (4, 4, 4)  # real, generated, and between
    assert of("pix2pix_256", "critic_step") == (2, 2, 2)  # no penalty


# ---- rows --------------------------------------------------------------------------------------------------------------
def test_a_row_has_its_contenders_and_its_ceiling(tmp_path: Path) -> None:
    bench = session.Session("quick", CPU, tmp_path)
    result = bench.measure(Row("network_path_length", "stylegan2_tiny_b4", "float32", "nchw", "forward", compile=True))
    assert result["status"] == "ok" and {"ours", "eager", "plain_convs"} <= result["times"].keys()
    assert "double backward" in result["cells"]["compile"] or "not compared yet" in result["cells"]["compile"]
    times = {name: of["median"] for name, of in result["times"].items()}
    assert result["metrics"]["ceiling"] == pytest.approx(times["eager"] / times["plain_convs"])
    assert result["memory"]["ours"] > 0 and result["memory"]["eager"] > 0 and "copy" not in result["times"]


@pytest.mark.parametrize(
    ("op", "sample", "direction", "forwards"),
    [
        ("modulated_conv2d", "stylegan2_64x128_b4", "backward", 1),
        ("modulated_conv2d", "stylegan2_up_128x64_b4", "backward", 1),
        ("path_length_step", "stylegan2_64x128_b4", "forward", 4),
    ],
)
@pytest.mark.parametrize("layout", rows.LAYOUTS)
def test_modulated_layers_have_their_ceiling(op: str, sample: str, direction: str, forwards: int, layout: str) -> None:
    """The convolutions of a layer that is trained: of the shapes that its output asks for, each with both gradients."""
    row = Row(op, sample, "float32", layout, direction)
    _, found = rows.find(row)
    kwargs = found.inputs(torch.float32, layout, CPU)
    alone = extras.EXTRAS[op](row, kwargs)["plain_convs"]
    again = Convolutions()
    with again:
        alone()
    x, w = kwargs["x"], kwargs.get("weight", kwargs.get("w0"))
    size = (2 * x.shape[2] + 1,) * 2 if kwargs.get("up", 1) == 2 else x.shape[2:]
    taps = w.transpose(0, 1).shape if kwargs.get("up", 1) == 2 else w.shape
    calls = {key[0]: (key, count) for key, count in again.calls.items()}
    assert len(calls) == len(again.calls) == 2
    (_, image, weight, *_), count = calls[torch.ops.aten.convolution.default]
    assert count == forwards and image[1:3] == (tuple(x.shape), tuple(x.stride())) and weight[1] == tuple(taps)
    (_, gradient, image, weight, *_, mask), count = calls[torch.ops.aten.convolution_backward.default]
    assert count == forwards and gradient[1] == (x.shape[0], w.shape[0], *size) and mask == (True, True, False)


def test_compiled_and_half_contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    network = networks.Network(networks.FAMILIES["dcgan"].tiny, {"forward": (2,)}, compiled=("forward",), autocast=("forward",))
    monkeypatch.setitem(networks.NETWORKS, "here", network)
    monkeypatch.setattr(torch, "compile", lambda module, **_: lambda *given: module(*given) + 1)
    networks._kept.clear()
    kwargs = inputs("here", "forward", torch.float32)
    found = networks.contenders(Row("network_forward", "here_b2", "float32", "nchw", "forward", compile=True), kwargs)
    assert list(found) == ["compile", "plain_convs", "bf16_autocast"]
    (ours,) = networks.SPECS["network_forward"].public(**kwargs)
    torch.testing.assert_close(found["compile"]()[0], ours + 1, rtol=1e-4, atol=1e-4)
    half = found["bf16_autocast"]()[0].float()
    assert 1e-7 < case.distance([half], [ours]) < 0.1
    assert found["plain_convs"]() is None


def test_every_full_row_is_planned_without_running_anything() -> None:
    names = {f"{name}_b{b}" for name, n in networks.NETWORKS.items() for bs in n.batches.values() for b in bs}
    planned = {row.sample for row in rows.plan("full", CPU, list(networks.SPECS))}
    cuda = [(name, n) for name, n in networks.NETWORKS.items() if n.tags == networks._CUDA]
    large = {f"{name}_b{b}" for name, n in cuda for bs in n.batches.values() for b in bs}
    assert planned == names - large and large
    assert {row.sample for row in rows.selections("full", "cuda", list(networks.SPECS))} == names


def test_a_run_of_goals_has_the_rows_with_goals_alone() -> None:
    planned = rows.plan("goals", CPU, ["upfirdn2d", "network_forward", "conv2d"])
    assert {row.op for row in planned} == {"upfirdn2d", "network_forward"} and not any(row.compile for row in planned)
    assert all(any(goal.matches(row, "cpu") for goal in GOALS) for row in planned)


def test_dear_contenders_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = dict.fromkeys(("ours", "eager", "compile"), 0)

    def contender(name: str) -> Contender:
        def call() -> None:
            calls[name] += 1

        return Contender(name, call)

    monkeypatch.setattr(timing, "ONCE", 0.0)
    race = Race([contender(name) for name in calls], timing.CpuClock(), Budget(0.0, 2, 2, 2), CPU, frugal=True)
    race.warm_up(metered=list(calls))
    before = dict(calls)
    race.run()
    assert before["eager"] == calls["eager"] == 1 and len(race.contenders[1].times) == 1
    assert len(race.contenders[0].times) == 2 == len(race.contenders[2].times)
    assert race.contenders[1].memory is not None
    calls.update(dict.fromkeys(calls, 0))
    smoke = Race([contender(name) for name in calls], timing.CpuClock(), timing.BUDGETS["smoke"], CPU, frugal=True)
    smoke.warm_up(metered=list(calls))
    smoke.run()
    assert calls == {"ours": 2, "eager": 1, "compile": 1}
    assert all(len(c.times) == 1 and c.memory is None for c in smoke.contenders)


def test_reasons_of_missed_goals() -> None:
    row = Row("upfirdn2d", "up2_4x4_128", "float32", "nchw", "forward")
    some = [
        Reason("upfirdn2d", "blur_*|up2_*", "forward", "cpu", "speedup_eager", "it is bound by memory"),
        Reason("upfirdn2d", "up2_*", "forward", "cpu", "*", "and by that", layout="channels_last"),
        Reason("upfirdn2d", "up2_*", "forward", "cuda", "*", "elsewhere"),
    ]
    assert reasons.reason(row, "cpu", "speedup_eager", some) == "it is bound by memory"
    assert reasons.reason(row, "cpu", "copy_share", some) == ""
    known = [r for mode in rows.MODES for kind in ("cpu", "cuda") for r in rows.selections(mode, kind)]
    for each in reasons.REASONS:  # a reason that no row has would be read by nobody
        about = ((r, g) for r in known for g in GOALS if g.matches(r, each.kind))
        assert any(reasons.reason(r, each.kind, g.metric, [each]) for r, g in about), each
        assert not any(c.isdigit() for c in each.text), f"numbers come from result files: {each.text}"
