"""What compiled generators make of styles: one launch for all layers, and StyleGAN3's nonlinearity with factors."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gankern
from gankern import models, ops
from gankern.inference import _factors
from gankern.models import FAMILIES
from gankern.ops.modulated_conv2d.factors import factors
from gankern.testing.compare import compare

pytestmark = pytest.mark.usefixtures("one_thread")

needs_native = pytest.mark.skipif(not gankern.NATIVE.cpu, reason="these are native kernels")


def network(family: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    generator = models.from_config(FAMILIES[family].tiny.replace(**changes)).generator
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in generator.named_buffers():
            if name.endswith("magnitude_ema"):
                buffer.uniform_(0.5, 2)
    return generator.eval()


def notes(compiled: gankern.CompiledGenerator, name: str) -> list[str]:
    return [n for n in compiled.plan.notes if name in n]


# ---- the kernel ------------------------------------------------------------------------------------------------------------
def launch(samples: int, layers: list[tuple[int, int]], normalised: bool, demodulated: bool) -> list[tuple[Tensor, Tensor]]:
    """One call for layers of (inputs, outputs), whose styles are slices of one product: (what it made, in float64)."""
    torch.manual_seed(samples)
    width = sum(inputs for inputs, _ in layers) + 3
    styles = torch.randn(samples, width) * 30
    constants: list[Tensor] = []
    jobs, expected, at, made, begin = [], [], 0, 0, 2
    for inputs, outputs in layers:
        s = styles[:, begin : begin + inputs].double()
        weight = torch.randn(outputs, inputs, 1, 1)
        if demodulated:
            rows = (weight.square().sum((1, 2, 3)) + torch.finfo(torch.float32).tiny).rsqrt()
            q = weight.square().sum((2, 3)) * (rows[:, None].square() if normalised else 1)
            truth = factors(weight.double(), s, None, True, False).d
            norms = at + q.numel() if normalised else -1
            made_of = [q, rows] if normalised else [q]
            size = samples * outputs
        else:
            z = (s.square().mean() + 1e-20).rsqrt() if normalised and s.numel() else 1.0
            truth = (s * z)[:, None] * weight.flatten(1).double()
            norms, made_of, size = -1, [weight.flatten(1)], samples * outputs * inputs
        assert truth is not None
        jobs.append(_factors.Job(demodulated, normalised, inputs, outputs, begin, at, norms, made, width))
        expected.append(truth)
        constants += made_of
        at += sum(t.numel() for t in made_of)
        made, begin = made + size, begin + inputs
    out = torch.full((made + 1,), float("nan"))
    weights = torch.cat([t.flatten() for t in constants])
    torch.ops.gankern_native.modulated_conv2d_factors_cpu(styles, weights, torch.tensor(jobs), samples, out)
    assert out[-1].isnan(), "written behind the end"
    if demodulated and normalised:
        # d belongs to normalised styles and rows.
        for i, (job, (inputs, _)) in enumerate(zip(jobs, layers, strict=True)):
            s = styles[:, job.styles : job.styles + inputs].double()
            z = (s.square().mean() + 1e-20).rsqrt() if s.numel() else 1.0
            expected[i] = expected[i] / z / weights[job.norms : job.norms + job.outputs].double()
    return [(out[j.out : j.out + truth.numel()].view(truth.shape), truth) for j, truth in zip(jobs, expected, strict=True)]


@needs_native
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("demodulated", [False, True])
def test_all_layers_in_one_launch(samples: int, normalised: bool, demodulated: bool) -> None:
    """Layers of all sizes around the vectors' and the tasks', against the operator's factors in float64."""
    layers = [(16, 16), (1, 1), (5, 3), (33, 7), (64, 4), (512, 9), (17, 130)]
    for made, truth in launch(samples, layers, normalised, demodulated):
        comparison = compare(made, truth, factor=16.0)
        assert comparison.ok, str(comparison)


@needs_native
def test_zeros_are_held_by_eps() -> None:
    """Styles of 0, weights of 0: 1 / sqrt(eps), as the operator's, and no NaN where styles are normalised."""
    for normalised, job in ((False, (1, 0, 4, 5, 0, 0, -1, 0, 4)), (True, (1, 1, 4, 5, 0, 0, 20, 0, 4))):
        weight = torch.zeros(5, 4, 1, 1)
        out = torch.full((10,), float("nan"))
        rows = torch.full((5,), torch.finfo(torch.float32).tiny ** -0.5)
        weights = torch.cat([weight.flatten(), rows])
        torch.ops.gankern_native.modulated_conv2d_factors_cpu(torch.zeros(2, 4), weights, torch.tensor([job]), 2, out)
        expected = factors(weight, torch.zeros(2, 4), None, True, normalised).d
        torch.testing.assert_close(out.view(2, 5), expected, rtol=1e-6, atol=0)


@needs_native
def test_results_do_not_depend_on_threads() -> None:
    def run() -> list[Tensor]:
        return [made.clone() for flags in ((False, True), (True, True), (True, False)) for made, _ in launch(2, layers, *flags)]

    layers = [(256, 301), (512, 512), (3, 1)]
    one = run()
    torch.set_num_threads(3)
    try:
        three = run()
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


LEVELS = """
import torch, gankern
torch.manual_seed(0)
made = []
for inputs, outputs in ((5, 3), (16, 4), (37, 9)):
    s, w = torch.randn(2, inputs), torch.randn(outputs, inputs)
    for job, size in (((1, 0), 2 * outputs), ((0, 1), 2 * outputs * inputs)):
        out = torch.full((size,), float("nan"))
        table = torch.tensor([[*job, inputs, outputs, 0, 0, -1, 0, inputs]])
        torch.ops.gankern_native.modulated_conv2d_factors_cpu(s, w, table, 2, out)
        truth = (s.square().double() @ w.double().t() + 1e-8).rsqrt()
        if job[1]:
            truth = (s.double() * s.double().square().mean().rsqrt())[:, None] * w.double()
        else:
            truth = (s.square().double() @ w.double().t().abs() + 1e-8).rsqrt()
            torch.ops.gankern_native.modulated_conv2d_factors_cpu(s, w.abs(), table, 2, out)
        torch.testing.assert_close(out.double(), truth.flatten(), rtol=1e-5, atol=1e-7)
"""


@needs_native
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_instruction_sets(level: str) -> None:
    """The lower ones too, in a process of their own."""
    environment = {**os.environ, "GANKERN_CPU_LEVEL": level}
    subprocess.run([sys.executable, "-c", LEVELS], check=True, env=environment, timeout=120)


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(2, 4, dtype=torch.float64)}, "styles must be dense float32"),
        ({1: torch.zeros(6, 4).t()}, "weights must be dense float32"),
        ({2: torch.zeros(1, 9)}, "table must be dense int64"),
        ({2: torch.zeros(1, 8, dtype=torch.int64)}, "table must be dense int64"),
        ({3: -1}, "samples must not be negative"),
        ({3: 3}, "styles of job 0 are not within"),
        ({2: torch.tensor([[1, 0, 4, 7, 0, 0, -1, 0, 4]])}, "weights of job 0 are not within"),
        ({2: torch.tensor([[1, 0, 4, 6, 0, 0, 20, 0, 4]])}, "weights of job 0 are not within"),
        ({2: torch.tensor([[0, 0, 4, 6, 0, 0, -1, 0, 4]])}, "job 0 makes is not within"),
        ({2: torch.tensor([[1, 0, 4, 6, 0, 0, -1, 1, 4]])}, "job 0 makes is not within"),
        ({2: torch.tensor([[1, 0, 4, 6, -1, 0, -1, 0, 4]])}, "styles of job 0"),
        ({2: torch.tensor([[1, 0, 2**62, 2**62, 0, 0, -1, 0, 4]])}, "styles of job 0"),
        ({2: torch.tensor([[1, 0, 0, 2**62, 0, 0, -1, 0, 4]])}, "job 0"),
    ],
    ids=str,
)
def test_the_kernel_refuses_what_does_not_fit(change: dict[int, Any], message: str) -> None:
    args: list[Any] = [torch.zeros(2, 4), torch.ones(6, 4), torch.tensor([[1, 0, 4, 6, 0, 0, -1, 0, 4]]), 2, torch.zeros(12)]
    run = torch.ops.gankern_native.modulated_conv2d_factors_cpu
    run(*args)
    for place, value in change.items():
        args[place] = value
    with pytest.raises(RuntimeError, match=message):
        run(*args)


# ---- plans -----------------------------------------------------------------------------------------------------------------
@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", ["stylegan2", "stylegan3"])
def test_one_launch_for_all_layers(family: str, batch: int, dtype: torch.dtype) -> None:
    compiled = gankern.compile_generator(network(family), batch, dtype=dtype)
    for part in (compiled, compiled.synthesis):
        found = notes(part, "modulated_conv2d_factors")  # type: ignore[arg-type]
        assert len(found) == 1, found
        assert ("5 layers, 8 products" if family == "stylegan2" else "4 layers, 5 products") in found[0]
        assert not notes(part, "rsqrt") and not notes(part, "square")  # type: ignore[arg-type]


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_stylegan3_layer_is_a_convolution_and_one_pass(batch: int, dtype: torch.dtype) -> None:
    compiled = gankern.compile_generator(network("stylegan3"), batch, dtype=dtype)
    passes = notes(compiled, "filtered_lrelu")
    assert len(passes) == 4 and all("styled" in n and "demodulates" in n for n in passes)
    assert sum("next style" in n for n in passes) == 3  # the last one's goes into the RGB layer's weight
    assert len(notes(compiled, "tail")) == 1 and len(notes(compiled, "modulate_cpu")) == 1


@needs_native
@pytest.mark.parametrize("changes", [{"conv_kernel": 1, "radial": True}, {"conv_clamp": 0.7}, {"channels": 1}], ids=str)
def test_stylegan3_of_other_kinds(changes: dict[str, Any]) -> None:
    generator = network("stylegan3", **changes)
    z = generator.sample_z(2)
    with torch.no_grad():
        expected = generator(z)
        truth = generator.double()(z.double())
    found = gankern.compile_generator(generator, 2, dtype=torch.float32)(z)
    own = float((expected - truth).abs().max() / truth.abs().max())
    assert compare(found, truth, expected, factor=2 * own / 1e-6 + 2).ok


class Pyramid(nn.Module):
    """Layers whose styles come from other sources: an input, a w of each, and what a convolution has made."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(8, 8, 3, 3)) for _ in range(4)])
        self.affine = nn.ModuleList([gankern.nn.Linear(6, 8, bias_init=1.0) for _ in range(3)])

    def forward(self, x: Tensor, s: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        one, two = self.affine[0](w), self.affine[1](w * 2)
        x = ops.modulated_conv2d(x, self.weights[0], s, padding=1, act="lrelu")
        x = ops.modulated_conv2d(x, self.weights[1], one, padding=1, act="lrelu")
        late = self.affine[2](x.mean((2, 3))[:, :6])
        x = ops.modulated_conv2d(x, self.weights[2], late, padding=1, act="lrelu")
        x = ops.modulated_conv2d(x, self.weights[3], two * 0.5, padding=1, demodulate=False)
        return x, two


@pytest.mark.parametrize("batch", [1, 3])
def test_styles_from_anywhere(batch: int) -> None:
    torch.manual_seed(0)
    net = Pyramid().eval()
    for _ in range(2):
        given = (torch.randn(batch, 8, 5, 6), torch.randn(batch, 8), torch.randn(batch, 6))
        compiled = gankern.compile_generator(net, example_inputs=[torch.zeros_like(t) for t in given])
        with torch.no_grad():
            expected = net(*given)
        for a, b in zip(compiled(*given), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    if gankern.NATIVE.cpu:
        # Of one source each: the input, a product, one that is also an output, one behind a convolution.
        assert 2 <= sum("modulated_conv2d_factors" in n for n in compiled.plan.notes) <= 4


def test_layers_of_several_batches() -> None:
    """One launch has one number of samples; others are made by themselves."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([nn.Parameter(torch.randn(4, 4, 3, 3)) for _ in range(3)])
            self.affine = gankern.nn.Linear(6, 4, bias_init=1.0)

        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            s = self.affine(w)
            x = ops.modulated_conv2d(x, self.weights[0], s[:1], padding=1)
            x = ops.modulated_conv2d(x.expand(3, -1, -1, -1), self.weights[1], s, padding=1)
            return ops.modulated_conv2d(x, self.weights[2], s[:1].expand(3, -1), padding=1)

    torch.manual_seed(0)
    net = Net()
    given = (torch.randn(1, 4, 5, 5), torch.randn(3, 6))
    compiled = gankern.compile_generator(net, example_inputs=[torch.zeros_like(t) for t in given])
    with torch.no_grad():
        torch.testing.assert_close(compiled(*given), net(*given), rtol=1e-4, atol=1e-4)


# ---- StyleGAN3's nonlinearity with factors ---------------------------------------------------------------------------------
def styled(x: Tensor, scale: Tensor | None, following: Tensor | None, channels_last: bool) -> Tensor:
    """Up 2, down 2 with filters of 12 taps, bias, gain and clamp."""
    n, c, h, w = x.shape
    form = torch.channels_last if channels_last else torch.contiguous_format
    y = torch.full((n, c, h, w), float("nan"), dtype=x.dtype).contiguous(memory_format=form)
    taps = torch.linspace(-0.05, 0.2, 12)
    b = torch.linspace(-1, 1, c)
    torch.ops.gankern_native.filtered_lrelu_styled_cpu(
        x.contiguous(memory_format=form), taps, taps.flip(0), b, scale, following, y, channels_last, 2, 2, 2, 2, 11, 11, 0, 0,
        2 * h + 10, 2 * w + 10, False, 4.0, 1.4, 0.2, 1.5,
    )  # fmt: skip
    return y


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 16, 21])
def test_factors_of_filtered_lrelu(channels: int, channels_last: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, channels, 9, 7).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale, following = torch.randn(2, channels, dtype=wide), torch.randn(2, channels, dtype=wide)
    if dtype == torch.float64:
        with pytest.raises(RuntimeError, match="accumulation type"):
            styled(x, scale, following, channels_last)  # taps and bias of float32 do not go with these images
        return
    taps = torch.linspace(-0.05, 0.2, 12).double()
    bias = torch.linspace(-1, 1, channels).double()
    scaled = x.double() * scale.double()[:, :, None, None]
    # start 11 and 2 h + 10 rows in between: padding 11 before and 10 behind of 2 h, then 11 fewer.
    truth = ops.filtered_lrelu(
        scaled, taps, taps.flip(0), bias, up=2, down=2, padding=[11, 10, 11, 10], gain=1.4, slope=0.2, clamp=1.5
    )
    found = styled(x, scale, following, channels_last)
    truth = truth * following.double()[:, :, None, None]
    assert found.shape == truth.shape
    assert compare(found, truth, truth.to(dtype), factor=8.0).ok
    plain = styled(x, None, None, channels_last)
    ones = torch.ones(2, channels)
    assert torch.equal(styled(x, ones, ones, channels_last), plain)


@needs_native
def test_factors_of_filtered_lrelu_that_do_not_fit_are_refused() -> None:
    x = torch.zeros(2, 4, 5, 5)
    for wrong in (torch.zeros(2, 5), torch.zeros(1, 4), torch.zeros(8), torch.zeros(2, 4).double(), torch.zeros(4, 2).t()):
        with pytest.raises(RuntimeError, match="scale must be"):
            styled(x, wrong, None, False)
        with pytest.raises(RuntimeError, match="next must be"):
            styled(x, None, wrong, False)


# ---- the tail's RGB --------------------------------------------------------------------------------------------------------
@needs_native
@pytest.mark.parametrize("width", [1, 4, 15, 16, 17, 37])
def test_rgb_of_rows_of_any_width(width: int) -> None:
    """Sums of as many pixels as a vector has lanes are finished together; nothing is written behind a row's end."""
    torch.manual_seed(width)
    n, channels, height = 2, 19, 3
    z = torch.randn(n, channels, height, width).contiguous(memory_format=torch.channels_last)
    weight, b, base = torch.randn(n, 3, channels), torch.randn(3), torch.randn(n, 3, height, width)
    index = ops.activation_funcs["linear"].index
    run = torch.ops.gankern_native.modulated_conv2d_tail_cpu
    sums = torch.einsum("nkc,nchw->nkhw", weight.double(), z.double())
    for given_b, given_base, clamp in ((b, base, 2.0), (None, None, -1.0)):
        rgb = torch.full((n * 3 * height * width + 1,), float("nan"))
        image = rgb[:-1].view(n, 3, height, width)
        run(
            z, False, None, 0, 0, None, None, None, None, weight, given_b, given_base, None, image, index, 0.0, 1.0, -1.0, clamp
        )
        truth = sums if given_b is None else sums + given_b.double()[:, None, None]
        truth = truth.clamp(-clamp, clamp) if clamp >= 0 else truth
        truth = truth if given_base is None else truth + given_base.double()
        assert compare(image, truth, factor=8.0).ok and rgb[-1].isnan()
    image.fill_(float("nan"))
    z[0, 0, 0, 0] = float("nan")
    run(z, False, None, 0, 0, None, None, None, None, weight, b, base, None, image, index, 0.0, 1.0, -1.0, 2.0)
    assert image[0, :, 0, 0].isnan().all() and image.isnan().sum() == 3
