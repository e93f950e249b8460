"""compile_generator: equal to the network for every family, and what it promises about memory, noise, settings and refusals."""

from __future__ import annotations

import copy
import gc
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import gankern
from gankern import models, ops
from gankern import nn as gk
from gankern.inference import CompiledGenerator, _convolutions, _record, _styles
from gankern.models import FAMILIES
from gankern.testing.compare import compare

pytestmark = pytest.mark.usefixtures("one_thread")

CONST: dict[str, dict[str, Any]] = {"stylegan": {"noise_mode": "const"}, "stylegan2": {"noise_mode": "const"}}


def network(family: str, ops: str = "fused", **changes: Any) -> nn.Module:
    """A tiny generator in training mode none of whose parameters is at its special first value."""
    torch.manual_seed(0)
    gan = models.from_config(FAMILIES[family].tiny.replace(**changes), ops)
    with torch.no_grad():
        for parameter in gan.generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in gan.generator.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return gan.generator


def inputs(generator: nn.Module, family: str, count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    gan = models.from_config(generator.config)
    return models.example_inputs(gan, count, seed=count, dtype=dtype)[0]


def run(module: nn.Module, given: tuple[Tensor, ...], **settings: Any) -> list[Tensor]:
    torch.manual_seed(7)
    with torch.no_grad():
        return tree_leaves(copy.deepcopy(module).eval()(*given, **settings))


def hold(found: list[Tensor], generator: nn.Module, given: tuple[Tensor, ...], dtype: torch.dtype, **settings: Any) -> None:
    """As near to float64 as the network itself, up to twice its error and a few roundings."""
    rounded = copy.deepcopy(generator).to(dtype)
    given = tuple(t.to(dtype) if t.is_floating_point() else t for t in given)
    own = run(rounded, given, **settings)
    exact = run(rounded.double(), tuple(t.double() if t.is_floating_point() else t for t in given), **settings)
    assert len(found) == len(own)
    for a, b, truth in zip(found, own, exact, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.is_contiguous()
        # float32: each of some 20 layers rounds in another order.
        factor = 2 * float((b.double() - truth).abs().max() / truth.abs().max()) / 1e-6 + 2 if dtype == torch.float32 else 1.0
        comparison = compare(a.to(dtype), truth, b, factor)  # StyleGAN2 sums its RGB layers in float32
        assert comparison.ok, str(comparison)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_is_equal_to_its_module(family: str, batch: int, dtype: torch.dtype) -> None:
    generator = network(family)
    settings = CONST.get(family, {})
    compiled = gankern.compile_generator(generator, batch, dtype=dtype, **settings)
    given = inputs(generator, family, batch)
    for count in (batch + 1, batch):  # a second call finds what the first one left in the buffers
        torch.manual_seed(count)
        given = tuple(torch.randn_like(t) if t.is_floating_point() else t for t in given)
        hold(tree_leaves(compiled(*given)), generator, given, dtype, **settings)


@pytest.mark.parametrize("family", ["dcgan", "sngan", "stylegan2"])
def test_plain_pytorch_networks_are_compiled_too(family: str) -> None:
    generator = network(family, "reference")
    settings = CONST.get(family, {})
    given = inputs(generator, family, 2)
    hold(tree_leaves(gankern.compile_generator(generator, 2, **settings)(*given)), generator, given, torch.float32, **settings)


@pytest.mark.parametrize("family", ["dcgan", "stylegan2", "stylegan3", "cyclegan"])
def test_the_reference_backend_is_compiled_too(family: str) -> None:
    generator = network(family)
    settings = CONST.get(family, {})
    given = inputs(generator, family, 2)
    with gankern.use_backend("reference"):
        compiled = gankern.compile_generator(generator, 2, **settings)
    hold(tree_leaves(compiled(*given)), generator, given, torch.float32, **settings)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_operators_that_stay_whole(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where Triton's kernels are not seen by a recorder: gankern's operators are calls of the plan."""
    monkeypatch.setattr(_record, "interpreting", lambda: True)
    generator = network(family)
    settings = CONST.get(family, {})
    given = inputs(generator, family, 2)
    compiled = gankern.compile_generator(generator, 2, **settings)
    assert not any("gankern_native" in note for note in compiled.plan.notes)
    for _ in range(2):
        hold(tree_leaves(compiled(*given)), generator, given, torch.float32, **settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=["float16", "float64"])
@pytest.mark.parametrize("family", ["dcgan", "stylegan2"])
def test_other_types(family: str, dtype: torch.dtype) -> None:
    generator = network(family)
    settings = CONST.get(family, {})
    given = inputs(generator, family, 2)
    found = tree_leaves(gankern.compile_generator(generator, 2, dtype=dtype, **settings)(*given))
    if dtype == torch.float16:
        hold(found, generator, given, dtype, **settings)
    else:
        exact = run(copy.deepcopy(generator).double(), tuple(t.double() for t in given), **settings)
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("changes", [{}, {"conv_clamp": 0.5}, {"use_noise": False}, {"channels": 1}], ids=str)
def test_stylegan2_architectures(architecture: str, changes: dict[str, Any]) -> None:
    generator = network("stylegan2", generator=architecture, **changes)
    given = inputs(generator, "stylegan2", 2)
    compiled = gankern.compile_generator(generator, 2, noise_mode="const")
    hold([compiled(*given)], generator, given, torch.float32, noise_mode="const")


@pytest.mark.parametrize("family", ["stylegan", "stylegan2"])
def test_random_noise_is_that_of_the_network_for_the_same_seed(family: str) -> None:
    generator = network(family)
    compiled = gankern.compile_generator(generator, 2)
    given = inputs(generator, family, 2)
    torch.manual_seed(7)
    found = compiled(*given)
    (expected,) = run(generator, given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    again = compiled(*given)
    assert (found - again).abs().max() > 1e-3, "noise must be drawn anew"
    none = gankern.compile_generator(generator, 2, noise_mode="none")
    torch.testing.assert_close(none(*given), none(*given), rtol=0, atol=0)


def test_compiling_draws_no_random_numbers() -> None:
    generator = network("stylegan2")
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    gankern.compile_generator(generator, 1)
    assert torch.equal(torch.randn(4), expected)


def test_truncation_and_its_parts() -> None:
    generator = network("stylegan2")
    generator.mapping.w_avg.normal_()
    given = inputs(generator, "stylegan2", 2)
    settings = {"noise_mode": "const", "truncation": 0.6, "truncation_cutoff": 2}
    compiled = gankern.compile_generator(generator, 2, **settings)
    found = compiled(*given)
    hold([found], generator, given, torch.float32, **settings)
    w = compiled.mapping(*given)
    with torch.no_grad():
        torch.testing.assert_close(w, generator.eval().mapping(*given, None, 0.6, 2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compiled.synthesis(w), found, rtol=1e-4, atol=1e-5)
    other = torch.randn_like(w)
    with torch.no_grad():
        expected = generator.synthesis(other, noise_mode="const")
    torch.testing.assert_close(compiled.synthesis(other), expected, rtol=1e-4, atol=1e-5)


def test_labels() -> None:
    generator = network("stylegan2", num_classes=3)
    z = generator.sample_z(2)
    compiled = gankern.compile_generator(generator, 2, noise_mode="const")
    for labels in (torch.tensor([0, 2]), torch.tensor([1, 1])):
        hold([compiled(z, labels)], generator, (z, labels), torch.float32, noise_mode="const")
        torch.testing.assert_close(compiled(z, labels=labels), compiled(z, labels), rtol=0, atol=0)
    with pytest.raises(ValueError, match="labels must be from 0 to 2, got 3"):
        compiled(z, torch.tensor([0, 3]))
    with pytest.raises(TypeError, match="labels must be given"):
        compiled(z)


def test_the_network_stays_as_it_was_and_update_follows_it() -> None:
    generator = network("dcgan")
    generator.train()
    for parameter in generator.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    compiled = gankern.compile_generator(generator, 2)
    given = inputs(generator, "dcgan", 2)
    first = compiled(*given)
    assert generator.training and all(part.training for part in generator.modules())
    assert all(p.requires_grad and p.grad is not None and bool((p.grad == 1).all()) for p in generator.parameters())
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(compiled(*given), first, rtol=0, atol=0)  # weights are a copy
    compiled.update()
    hold([compiled(*given)], generator, given, torch.float32)


def test_results_are_fresh_unless_asked_otherwise() -> None:
    generator = network("stylegan2")
    a, b = generator.sample_z(2), generator.sample_z(2)
    compiled = gankern.compile_generator(generator, 2, noise_mode="const")
    first = compiled(a)
    kept = first.clone()
    second = compiled(b)
    assert torch.equal(first, kept) and not torch.equal(first, second)
    out = torch.empty_like(first)
    assert compiled(a, out=out) is out and torch.equal(out, kept)
    static = gankern.compile_generator(generator, 2, noise_mode="const", static_output=True)
    held = static(a)
    assert torch.equal(held, kept) and held.data_ptr() == static(b).data_ptr()
    assert not first.requires_grad


def test_memory_does_not_grow() -> None:
    generator = network("stylegan2")
    z = generator.sample_z(2)
    compiled = gankern.compile_generator(generator, 2)

    def living() -> tuple[int, int]:
        for _ in range(10):  # what other tests left behind, too
            if not gc.collect():
                break
        found = [t for t in gc.get_objects() if isinstance(t, Tensor)]
        return len(found), sum(t.untyped_storage().nbytes() for t in found if t.layout == torch.strided)

    compiled(z)
    before = living()
    for _ in range(200):
        compiled(z)
    after = living()
    assert after[0] <= before[0] and after[1] <= before[1]


def test_calls_of_several_threads_wait_for_each_other() -> None:
    generator = network("stylegan2")
    compiled = gankern.compile_generator(generator, 1, noise_mode="const")
    latents = [generator.sample_z(1) for _ in range(4)]
    expected = [compiled(z) for z in latents]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(20) if not torch.equal(compiled(latents[i]), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_autocast_around_a_call_changes_nothing() -> None:
    generator = network("stylegan2")
    z = generator.sample_z(1)
    compiled = gankern.compile_generator(generator, 1, noise_mode="const")
    expected = compiled(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compiled(z), expected)
        assert torch.equal(gankern.compile_generator(generator, 1, noise_mode="const")(z), expected)


def test_any_module_with_examples() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    norm.running_mean.normal_()  # type: ignore[union-attr]
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norm, nn.LeakyReLU(0.1), nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, groups=2),
        nn.ReLU(), nn.ConvTranspose2d(8, 5, 4, 2, 1), nn.Tanh(), nn.Dropout(0.5), nn.InstanceNorm2d(5),
        nn.Conv2d(5, 2, 1), nn.Sigmoid(),
    )  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    compiled = gankern.compile_generator(net, example_inputs=[x])
    (expected,) = run(net, (x,))
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-6)
    assert compiled.batch == 2
    gankern.patch(net)
    torch.testing.assert_close(gankern.compile_generator(net, example_inputs=[x])(x), expected, rtol=1e-5, atol=1e-6)


def test_modules_that_write_into_what_they_made() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([2.0, 3.0]))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            canvas = torch.zeros(2, 2)
            canvas[0] = x * self.scale  # zeros in the second row, also in the second run
            canvas += 1
            left, right = canvas.split(1, 1)
            return {"canvas": canvas, "sum": left + right, "constant": self.scale * 2, "view": canvas.t()}

    net = Writes()
    compiled = gankern.compile_generator(net, example_inputs=[torch.zeros(2)])
    for x in (torch.tensor([1.0, 2.0]), torch.tensor([-3.0, 0.5])):
        found, expected = compiled(x), net(x)
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name].detach(), rtol=0, atol=0)


def test_describe_says_what_runs() -> None:
    generator = network("stylegan2")
    compiled = gankern.compile_generator(generator, 2, noise_mode="const")
    text = compiled.describe()
    for part in ("StyleGAN2Generator(noise_mode='const')", "batch of 2", "z [2, 16]", "steps: ", "static buffers", "GFLOP"):
        assert part in text
    assert isinstance(compiled, CompiledGenerator) and "steps=" in repr(compiled)
    layers = [part for part in generator.modules() if isinstance(part, gk.StyleLayer)]
    sizes = [(layer, layer.resolution // layer.up) for layer in layers]
    least = sum(2 * 2 * layer.weight.numel() * size**2 for layer, size in sizes)
    # An upsampling layer takes 16 taps at one pixel more, where that is faster than 9.
    most = sum(2 * 2 * layer.weight.numel() * (16 / 9 * (size + 1) ** 2 if layer.up > 1 else size**2) for layer, size in sizes)
    plan = compiled.plan
    if gankern.NATIVE.cpu:
        assert least <= plan.conv_flop <= most  # RGB is in the tails
    assert plan.arena_bytes > 0 and plan.constant_bytes > 0 and plan.folded > 0


@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="the tail is a native kernel")
@pytest.mark.parametrize("batch", [1, 2])
def test_a_stylegan2_layer_is_a_convolution_and_one_pass(batch: int) -> None:
    compiled = gankern.compile_generator(network("stylegan2"), batch)
    images = [n for n in compiled.plan.notes if "-> [" in n and n.split("-> ")[1].count(",") >= 3 and "normal_" not in n]
    passes = [n for n in images if "tail" in n]
    convolutions = [n for n in images if "convolution" in n]
    assert len(passes) == len(convolutions) == 5
    assert sum("with RGB" in n for n in passes) == 3 and sum("next style" in n for n in passes) == 4
    assert not any("add" in n for n in images)


# ---- refusals --------------------------------------------------------------------------------------------------------------
def test_other_shapes_and_settings_are_refused() -> None:
    generator = network("stylegan2")
    compiled = gankern.compile_generator(generator, 2, noise_mode="const", truncation=0.7)
    z = generator.sample_z(2)
    with pytest.raises(ValueError, match=r"z must be \[2, 16\], got \[1, 16\].*batch"):
        compiled(z[:1])
    with pytest.raises(ValueError, match=r"z must be \[2, 16\]"):
        compiled(torch.zeros(2, 17))
    with pytest.raises(TypeError, match=r"z must be torch\.float32"):
        compiled(torch.zeros(2, 16, dtype=torch.int64))
    with pytest.raises(TypeError, match="z must be a tensor"):
        compiled([1, 2])
    with pytest.raises(ValueError, match=r"truncation was fixed as 0.7 when compiling, got 0.5"):
        compiled(z, truncation=0.5)
    with pytest.raises(ValueError, match="noise_mode was fixed as 'const'"):
        compiled(z, noise_mode="random")
    with pytest.raises(ValueError, match="mixed_z was fixed as None"):
        compiled(z, mixed_z=z, crossover=2)
    assert torch.equal(compiled(z, None, 0.7, noise_mode="const"), compiled(z))
    with pytest.raises(ValueError, match=r"out must be"):
        compiled(z, out=torch.empty(1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch": 0}, ValueError, "batch must be at least 1, got 0"),
        ({"batch": 1.5}, TypeError, "batch must be an int, got float"),
        ({"dtype": torch.int32}, ValueError, "dtype must be"),
        ({"device": "meta"}, ValueError, "device must be"),
        ({"cuda_graph": True}, ValueError, "cuda_graph needs a CUDA device"),
        ({"noise": 1}, TypeError, "has no setting 'noise'"),
        ({"example_inputs": []}, TypeError, "example_inputs must be"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gankern.compile_generator(network("dcgan"), **arguments)


def test_what_cannot_be_compiled_is_refused() -> None:
    generator = network("dcgan")
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got function"):
        gankern.compile_generator(run)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="example_inputs must be given for a Sequential"):
        gankern.compile_generator(nn.Sequential(nn.ReLU()))
    handle = next(generator.children()).register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="has forward hooks"):
        gankern.compile_generator(generator)
    handle.remove()
    with pytest.raises(TypeError, match="setting 'mixed_z' must not be a tensor"):
        gankern.compile_generator(network("stylegan2"), mixed_z=torch.zeros(1, 16), crossover=1)
    with pytest.raises(ValueError, match=r"writes into its own 'mapping\.w_avg'"):
        gankern.compile_generator(network("stylegan2"), update_w_avg=True)
    with pytest.raises(AttributeError, match="no style-based generator"):
        gankern.compile_generator(generator).synthesis  # noqa: B018


def test_control_flow_on_data_and_batch_statistics_are_refused() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="control flow that depends on data"):
        gankern.compile_generator(Branches(), example_inputs=[torch.ones(2)])

    class Trains(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.batch_norm(x, self.running_mean, self.running_var, training=True)

    with pytest.raises(ValueError, match="running_mean"):
        gankern.compile_generator(Trains(3), example_inputs=[torch.randn(2, 3, 4, 4)])


# ---- the tail --------------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="the tail is a native kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [3, 16, 37, 600])
@pytest.mark.parametrize("filtered", [False, True])
def test_tail_against_plain_pytorch(dtype: torch.dtype, channels: int, filtered: bool) -> None:
    """Every argument at once, odd sizes, factors whose rows are apart, crops and padding of the filter."""
    torch.manual_seed(0)
    n, h, w = 2, 5, 7
    z = torch.randn(n, channels, h, w).to(dtype).contiguous(memory_format=torch.channels_last)
    both = torch.randn(n, 2 * channels)
    scale, following = both[:, :channels], both[:, channels:]
    pad_y, pad_x = (1, -1) if filtered else (0, 0)
    height, width = (h + 1, w - 2) if filtered else (h, w)
    f = torch.randn(4), torch.randn(4)
    taps = torch.cat(f) if filtered else None
    noise, b = torch.randn(n, 1, height, width), torch.randn(channels)
    weight, rgb_b, base = torch.randn(n, 3, channels), torch.randn(3), torch.randn(n, 3, height, width)
    u = z.double()
    if filtered:
        u = nn.functional.pad(u, (1, 3, 3, 3))  # more than is asked for; the window is taken below
        kernel = torch.outer(f[0], f[1]).double()[None, None].expand(channels, 1, 4, 4)
        u = nn.functional.conv2d(u, kernel, groups=channels)
        top, left = 3 - pad_y, 1 - pad_x
        u = u[:, :, top : top + height, left : left + width]
    v = u * scale.double()[:, :, None, None] + noise.double() + b.double()[:, None, None]
    v = (nn.functional.leaky_relu(v, 0.2) * 1.5).clamp(-2, 2)
    expected = v * following.double()[:, :, None, None]
    y = torch.full((n, channels, height, width), float("nan"), dtype=dtype).contiguous(memory_format=torch.channels_last)
    rgb = None if filtered else torch.full((n, 3, height, width), float("nan"))
    colours = (None, None, None) if filtered else (weight, rgb_b, base)
    index = ops.activation_funcs["lrelu"].index
    run_tail = torch.ops.gankern_native.modulated_conv2d_tail_cpu
    run_tail(z, False, taps, pad_y, pad_x, scale, noise, b, following, *colours, y, rgb, index, 0.2, 1.5, 2.0, 4.0)
    assert compare(y, expected, expected.to(dtype), factor=8.0).ok
    if rgb is not None:
        sums = torch.einsum("nkc,nchw->nkhw", weight.double(), v) + rgb_b.double()[:, None, None]
        assert compare(rgb, sums.clamp(-4, 4) + base.double(), factor=8.0).ok
    if not filtered:
        run_tail(z, False, None, 0, 0, scale, noise, b, following, None, None, None, z, None, index, 0.2, 1.5, 2.0, -1.0)
        assert compare(z, expected, expected.to(dtype), factor=8.0).ok  # in place


@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="the tail is a native kernel")
@pytest.mark.parametrize("channels", [5, 16])
def test_tail_of_phases_is_that_of_a_transposed_convolution(channels: int) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(2, 4, 3, 5), torch.randn(channels, 4, 3, 3)
    taps = torch.randn(8)
    whole = nn.functional.conv_transpose2d(x, w.transpose(0, 1), stride=2)
    phased = nn.functional.conv2d(x, _convolutions.phases(w), padding=1)
    made = []
    for z, are_phases in ((whole, False), (phased, True)):
        y = torch.full((2, channels, 6, 10), float("nan")).contiguous(memory_format=torch.channels_last)
        z = z.contiguous(memory_format=torch.channels_last)
        settings = (ops.activation_funcs["relu"].index, 0.0, 1.0, -1.0, -1.0)
        run_tail = torch.ops.gankern_native.modulated_conv2d_tail_cpu
        run_tail(z, are_phases, taps, 1, 1, None, None, None, None, None, None, None, y, None, *settings)
        made.append(y)
    torch.testing.assert_close(made[0], made[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("taken", [False, True])
def test_both_ways_of_upsampling(dtype: torch.dtype, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one is taken is measured; both must be right."""
    monkeypatch.setattr(_styles, "faster_as_phases", lambda *_: taken)
    generator = network("stylegan2")
    given = inputs(generator, "stylegan2", 2)
    compiled = gankern.compile_generator(generator, 2, dtype=dtype, noise_mode="const")
    hold([compiled(*given)], generator, given, dtype, noise_mode="const")


@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="the tail is a native kernel")
def test_tail_refuses_what_does_not_fit() -> None:
    run_tail = torch.ops.gankern_native.modulated_conv2d_tail_cpu
    z = torch.zeros(1, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    rest: tuple[Any, ...] = (0, 0.2, 1.0, -1.0, -1.0)
    with pytest.raises(RuntimeError, match="no output"):
        run_tail(z, False, None, 0, 0, None, None, None, None, None, None, None, None, None, *rest)
    with pytest.raises(RuntimeError, match="size of z"):
        run_tail(z, False, None, 0, 0, None, None, None, None, None, None, None, torch.zeros(1, 4, 5, 5), None, *rest)
    with pytest.raises(RuntimeError, match="scale"):
        run_tail(z, False, None, 0, 0, torch.zeros(1, 5), None, None, None, None, None, None, z, None, *rest)
    with pytest.raises(RuntimeError, match="not in place with a filter"):
        run_tail(z, False, torch.zeros(8), 0, 0, None, None, None, None, None, None, None, z, None, *rest)


# ---- GPU -------------------------------------------------------------------------------------------------------------------
@pytest.mark.gpu
@pytest.mark.parametrize("family", list(FAMILIES))
def test_cuda_graph(family: str) -> None:
    generator = network(family).cuda()
    settings = CONST.get(family, {})
    compiled = gankern.compile_generator(generator, 2, **settings)
    assert compiled._whole._graph is not None
    for seed in (2, 3):
        torch.manual_seed(seed)
        given = tuple(torch.randn_like(t) if t.is_floating_point() else t for t in inputs(generator, family, 2))
        given = tuple(t.cuda() for t in given)
        for a, b in zip(tree_leaves(compiled(*given)), run(generator, given, **settings), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_cuda_graph_draws_noise_anew() -> None:
    generator = network("stylegan2").cuda()
    z = generator.sample_z(2).cuda()
    compiled = gankern.compile_generator(generator, 2)
    torch.manual_seed(1)
    first, second = compiled(z), compiled(z)
    torch.manual_seed(1)
    assert (first - second).abs().max() > 1e-4
    torch.testing.assert_close(compiled(z), first, rtol=0, atol=0)
