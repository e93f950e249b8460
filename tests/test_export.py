"""Networks as files: what standard_operators composes, torch.export with gankern's operators, ONNX against onnxruntime."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gankern import export, models, ops
from gankern import nn as gk
from gankern._dispatch import OPS, OpSpec

FAMILIES = ("dcgan", "pix2pix", "cyclegan", "stylegan", "stylegan2", "stylegan3")
SETTINGS: dict[str, dict[str, Any]] = {"stylegan": {"noise_mode": "const"}, "stylegan2": {"noise_mode": "const"}}


def network(family: str) -> tuple[nn.Module, list[Tensor]]:
    """A tiny generator none of whose parameters is at its special first value, and five samples of its input."""
    torch.manual_seed(0)
    config = models.FAMILIES[family].tiny
    if family in ("stylegan", "stylegan2"):
        config = config.replace(resolution=8)  # two resolutions have all kinds of layers
    gan = models.from_config(config)
    with torch.no_grad():
        for parameter in gan.generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return gan.generator, list(models.example_inputs(gan, 5)[0])


def outputs(model: Any, inputs: list[Tensor], **settings: Any) -> list[Tensor]:
    with torch.no_grad():
        return tree_leaves(model(*inputs, **settings))


def close(mine: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


class Calls(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))

    def ours(self) -> list[str]:
        return [name for name in self.names if name.startswith("gankern")]


# ---- standard_operators ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", OPS.values(), ids=lambda spec: spec.name)
def test_every_op_equals_its_reference_and_calls_no_operator_of_gankern(spec: OpSpec) -> None:
    for sample in spec.samples:
        if "contract" not in sample.tags:
            continue
        mine, law = sample.inputs(torch.float64), sample.inputs(torch.float64)
        with export.standard_operators(), Calls() as calls:
            y = tree_leaves(spec.public(**mine))[0]
        expected = tree_leaves(spec.reference(**law))[0]
        assert not calls.ours(), sample.name
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9, msg=lambda m, s=sample: f"{s.name}: {m}")
        if not y.requires_grad or not y.numel():
            continue
        g = torch.randn_like(expected)
        wanted = [[kwargs[n] for n in sample.differentiable if kwargs[n] is not None] for kwargs in (mine, law)]
        found, right = (torch.autograd.grad(v, w, g, allow_unused=True) for v, w in zip((y, expected), wanted, strict=True))
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8, msg=lambda m, s=sample: f"{s.name}: {m}")


def test_without_it_the_operators_are_ours_and_it_ends_whatever_happens() -> None:
    x, f = torch.randn(2, 3, 8, 8), ops.setup_filter([1, 3, 3, 1])
    with pytest.raises(KeyError), export.standard_operators(), export.standard_operators():
        raise KeyError
    with Calls() as calls:
        ops.upsample2d(x, f)
    assert calls.ours() == ["gankern.upfirdn2d.default"]
    with export.standard_operators():
        with export.standard_operators():
            pass
        with Calls() as inner:
            ops.upsample2d(x, f)
    assert not inner.ours()


def test_in_place_functions_stay_in_place() -> None:
    x, b, scale = torch.randn(2, 3, 4, 4), torch.randn(3), torch.randn(2, 3)
    for function, arguments in ((ops.bias_act_, {"b": b, "act": "lrelu"}), (ops.modulate_, {"scale": scale, "act": "lrelu"})):
        mine, law = x.clone(), x.clone()
        with export.standard_operators(), Calls() as calls:
            assert function(mine, **arguments) is mine
        torch.testing.assert_close(mine, function(law, **arguments))
        assert not calls.ours()


def test_upsampling_is_a_transposed_convolution_and_modulation_has_one_kernel_for_all_samples() -> None:
    layer = gk.StyleLayer(4, 6, 5, 16, up=2)
    x, w = torch.randn(3, 4, 8, 8), torch.randn(3, 5)
    seen: list[tuple[bool, int, int]] = []

    class Convolutions(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.convolution.default:
                seen.append((args[6], args[8], args[0].shape[0]))  # transposed, groups, samples
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), export.standard_operators(), Convolutions():
        layer(x, w, noise_mode="none")
    assert seen == [(True, 1, 3), (False, 6, 3)]  # the kernel, and then the filter of 4 x 4 taps
    seen.clear()
    with export.standard_operators(), Convolutions():
        ops.filtered_lrelu(x, *(ops.setup_filter(torch.rand(8)) for _ in range(2)), up=2, down=2, padding=7)
    assert seen == [(True, 4, 3), (True, 4, 3), (False, 4, 3), (False, 4, 3)]


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("gain", [None, "tensor"])
def test_mixed_kernels_as_mixed_outputs(demodulate: bool, gain: str | None) -> None:
    torch.manual_seed(0)
    x, weight, styles = torch.randn(4, 5, 7, 7).double(), torch.randn(3, 6, 5, 3, 3).double(), torch.randn(4, 5).double()
    arguments: dict[str, Any] = {
        "padding": 1, "up": 2, "resample_filter": ops.setup_filter([1, 2, 1]), "demodulate": demodulate,
        "kernel_mix": torch.randn(4, 3).softmax(1).double(), "noise": torch.randn(4, 1, 14, 14).double(), "act": "lrelu",
        "bias": torch.randn(6).double(), "input_gain": None if gain is None else torch.rand(4, 5).double(), "clamp": 2.0,
    }  # fmt: skip
    expected = ops.modulated_conv2d(x, weight, styles, **arguments)
    with export.standard_operators(), Calls() as calls:
        mine = ops.modulated_conv2d(x, weight, styles, **arguments)
    torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)
    assert not calls.ours() and sum("convolution" in name for name in calls.names) < 8  # not one for each sample


@pytest.mark.parametrize("family", ["stylegan2", "stylegan3"])
def test_jit_trace_takes_any_batch(family: str) -> None:
    model, inputs = network(family)

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, z: Tensor) -> Any:
            return self.model(z, **SETTINGS.get(family, {}))

    with export.standard_operators(), torch.no_grad(), pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(Fixed(), inputs[0][:2], check_trace=False)
    assert "gankern::" not in str(traced.inlined_graph)
    for count in (1, 3):
        close(outputs(traced, [inputs[0][:count]]), outputs(Fixed(), [inputs[0][:count]]))


# ---- torch.export ------------------------------------------------------------------------------------------------------------
def called(program: torch.export.ExportedProgram) -> list[str]:
    return sorted(str(n.target) for n in program.graph.nodes if n.op == "call_function" and "gankern" in str(n.target))


EXPECTED = {
    "dcgan": {"conv_transpose2d", "bias_act", "modulate"},
    "pix2pix": {"conv2d", "conv_transpose2d", "bias_act"},
    "cyclegan": {"conv2d", "adain", "bias_act"},
    "stylegan": {"adain", "upfirdn2d", "conv2d", "bias_act", "pixel_norm"},
    "stylegan2": {"modulated_conv2d_inference", "upfirdn2d", "bias_act", "pixel_norm"},
    "stylegan3": {"modulated_conv2d_inference", "filtered_lrelu", "bias_act", "pixel_norm"},
}


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("pix2pix", "stylegan")]  # nothing that others have not


@pytest.mark.parametrize("family", ["dcgan", "cyclegan", "stylegan2", "stylegan3", *SLOW])
def test_program_has_our_operators_and_equals_the_module(family: str, tmp_path: Path) -> None:
    model, inputs = network(family)
    settings = SETTINGS.get(family, {})
    program = export.export_program(model, *(t[:1] for t in inputs), **settings)
    assert {f"gankern.{name}.default" for name in EXPECTED[family]} <= set(called(program))
    assert model.training and all(p.requires_grad for p in model.parameters())
    model.eval()
    for count in (1, 2, 5):
        batch = [t[:count] for t in inputs]
        close(outputs(program.module(), batch), outputs(model, batch, **settings))
    assert not any(y.requires_grad for y in tree_leaves(program.module()(*inputs)))  # nobody needs torch.no_grad()
    if family not in ("dcgan", "stylegan2", "stylegan3"):
        return
    lowered = program.run_decompositions()
    assert called(lowered) == called(program)
    close(outputs(lowered.module(), inputs), outputs(model, inputs, **settings))
    torch.export.save(program, tmp_path / "g.pt2")
    loaded = torch.export.load(tmp_path / "g.pt2")
    assert called(loaded) == called(program)
    assert not any(y.requires_grad for y in tree_leaves(loaded.module()(*inputs)))
    close(outputs(loaded.module(), inputs), outputs(model, inputs, **settings))


@pytest.mark.parametrize("family", ["dcgan", "stylegan2", pytest.param("stylegan3", marks=pytest.mark.slow)])
def test_strict_program_takes_any_batch_too(family: str) -> None:
    model, inputs = network(family)
    settings = SETTINGS.get(family, {})
    program = export.export_program(model, *(t[:2] for t in inputs), strict=True, **settings)
    model.eval()
    for count in (1, 5):
        batch = [t[:count] for t in inputs]
        close(outputs(program.module(), batch), outputs(model, batch, **settings))
    assert {f"gankern.{name}.default" for name in EXPECTED[family]} <= set(called(program))


def test_program_loads_in_another_process_that_imports_gankern(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(gk.Conv2d(3, 8, 3, act="lrelu", down=2), gk.Upsample2d())
    x = torch.randn(3, 3, 16, 16)
    torch.export.save(export.export_program(layer, x[:2]), tmp_path / "l.pt2")
    torch.save({"x": x, "y": layer.eval()(x).detach()}, tmp_path / "xy.pt")
    code = (
        "import sys, torch, gankern\n"
        "data, program = torch.load(sys.argv[2]), torch.export.load(sys.argv[1])\n"
        "torch.testing.assert_close(program.module()(data['x']), data['y'])\n"
    )
    files = [str(tmp_path / "l.pt2"), str(tmp_path / "xy.pt")]
    run = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


def test_program_of_standard_operators_needs_nothing_of_gankern() -> None:
    model, inputs = network("stylegan2")
    models.set_ops(model, "reference")  # whose modulated convolution has as many groups as samples
    with export.standard_operators():
        program = export.export_program(model, *inputs, noise_mode="const")
    assert not called(program) and model.reference
    model.eval()
    for count in (1, 5):
        batch = [t[:count] for t in inputs]
        close(outputs(program.module(), batch), outputs(model, batch, noise_mode="const"))


@pytest.mark.parametrize("standard", [False, True])
def test_programs_of_torch_export_itself_train(standard: bool) -> None:
    torch.manual_seed(0)
    layer = gk.StyleLayer(4, 6, 5, 16, up=2)
    x, w = torch.randn(3, 4, 8, 8), torch.randn(3, 5)
    batch = torch.export.Dim("batch")
    with export.standard_operators() if standard else nullcontext():
        program = torch.export.export(layer, (x, w, "const"), dynamic_shapes=({0: batch}, {0: batch}, None))
    assert bool(called(program)) is not standard
    module = program.module()
    x, w = torch.randn(2, 4, 8, 8), torch.randn(2, 5)
    module(x, w, "const").square().sum().backward()
    layer(x, w, "const").square().sum().backward()
    own = dict(layer.named_parameters())
    assert len(own) == 5
    close([p.grad for _, p in module.named_parameters()], [own[name].grad for name, _ in module.named_parameters()])


class Doubled(nn.Module):
    """Any number of inputs; and a layer whose mode is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, *parts: Tensor, factor: float = 2.0) -> dict[str, Tensor]:
        return {"sum": self.dropout(sum(parts[1:], parts[0]) * factor), "first": parts[0] * 1}


def test_programs_of_one_size_and_of_any_number_of_inputs() -> None:
    model = Doubled()
    model.dropout.eval()
    parts = [torch.randn(2, 3) for _ in range(3)]
    program = export.export_program(model, *parts, factor=3.0)
    assert model.training and not model.dropout.training
    more = [torch.randn(4, 3) for _ in range(3)]
    torch.testing.assert_close(program.module()(*more)["sum"], 3 * sum(more[1:], more[0]))
    fixed = export.export_program(model, *(t[:1] for t in parts), dynamic_batch=False)
    assert fixed.module()(*(t[:1] for t in parts))["first"].shape == (1, 3)
    with pytest.raises((AssertionError, RuntimeError)):
        fixed.module()(*more)


def test_programs_that_fix_their_batch_are_refused() -> None:
    critic = models.from_config(models.FAMILIES["stylegan2"].tiny).discriminator
    images = torch.randn(4, *critic.image_shape)
    for strict in (False, True):
        with pytest.raises(ValueError, match=r"StyleGAN2Discriminator fixes it .*dynamic_batch=False exports it for 4"):
            export.export_program(critic, images, strict=strict)
    program = export.export_program(critic, images, dynamic_batch=False)
    close(outputs(program.module(), [images]), outputs(critic.eval(), [images]))


# ---- ONNX --------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def runtime() -> Any:
    pytest.importorskip("onnx", reason='needs pip install "gankern[export]"')
    pytest.importorskip("onnxscript", reason='needs pip install "gankern[export]"')
    return pytest.importorskip("onnxruntime", reason='needs pip install "gankern[export]"')


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in models.FAMILIES if name not in FAMILIES]


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_onnx_file_equals_the_module_for_any_batch(family: str, tmp_path: Path, runtime: Any) -> None:
    import onnx

    model, inputs = network(family)
    settings = SETTINGS.get(family, {})
    path = tmp_path / "new" / "g.onnx"
    written = export.to_onnx(model, path, *(t[:1] for t in inputs), **settings)
    assert [p.name for p in path.parent.iterdir()] == ["g.onnx"] and written.path == path
    assert written.difference is not None and written.difference < 1e-5 and not written.random
    assert all(shape[0] == "batch" for shape in (*written.inputs.values(), *written.outputs.values()))
    assert list(written.inputs) == {"pix2pix": ["images"], "cyclegan": ["a", "b"]}.get(family, ["z", "labels"][: len(inputs)])
    proto = onnx.load(path)
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"} and not proto.functions
    assert {o.domain for o in proto.opset_import} <= {"", "ai.onnx"}
    assert model.training
    model.eval()
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        batch = [t[:count] for t in inputs]
        found = session.run(None, {n: t.numpy() for n, t in zip(written.inputs, batch, strict=True)})
        close([torch.from_numpy(y) for y in found], outputs(model, batch, **settings))


def test_pytorchs_own_onnx_export_sees_standard_operators(tmp_path: Path, runtime: Any) -> None:
    model, _ = network("stylegan2")
    shapes = {"w": {0: torch.export.Dim("batch")}}
    w = torch.randn(5, model.num_ws, model.w_dim)
    synthesis = model.eval().synthesis
    with torch.no_grad():
        program = torch.onnx.export(
            synthesis, (w[:2],), dynamo=True, kwargs={"noise_mode": "const"}, dynamic_shapes={**shapes, "noise_mode": None},
            verbose=False,
        )  # fmt: skip
    program.save(tmp_path / "s.onnx")
    session = runtime.InferenceSession(tmp_path / "s.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        found = session.run(None, {session.get_inputs()[0].name: w[:count].numpy()})
        close([torch.from_numpy(y) for y in found], outputs(synthesis, [w[:count]], noise_mode="const"))
    with Calls() as calls, torch.no_grad():
        synthesis(w, noise_mode="const")
    assert calls.ours()


def test_onnx_noise_is_drawn_or_constant(tmp_path: Path, runtime: Any) -> None:
    layer = gk.StyleLayer(4, 6, 5, 8)
    with torch.no_grad():
        assert layer.noise_strength is not None
        layer.noise_strength.fill_(1.0)
    x, w = torch.randn(2, 4, 8, 8), torch.randn(2, 5)
    path = tmp_path / "l.onnx"
    with pytest.warns(UserWarning, match=r"l.onnx draws random numbers anew in every run .*noise_mode='const'"):
        drawn = export.to_onnx(layer, path, x, w)
    assert drawn.random and drawn.difference is None and "RandomNormalLike" in drawn.operators
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        feed = {"x": torch.randn(count, 4, 8, 8).numpy(), "w": torch.randn(count, 5).numpy()}
        a, b = (torch.from_numpy(session.run(None, feed)[0]) for _ in range(2))
        assert a.shape == (count, 6, 8, 8) and float((a - b).abs().max()) > 0.1
    fixed = export.to_onnx(layer, path, x, w, noise_mode="const")
    assert not fixed.random and not any("Random" in name for name in fixed.operators)
    assert fixed.difference is not None and fixed.difference < 1e-5


def test_onnx_of_layers_and_of_own_models(tmp_path: Path, runtime: Any) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = gk.AdaptiveConv2d(4, 6, 3, num_conv_kernels=2)
            self.down = gk.Downsample2d()

        def forward(self, x: Tensor, mod: Tensor, mix: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
            y = ops.instance_norm(self.layer(x, mod, mix), act="relu")
            return ops.grid_sample(y, grid), self.down(y)

    torch.manual_seed(0)
    inputs = [torch.randn(2, 4, 8, 8), torch.randn(2, 4), torch.randn(2, 2), torch.rand(2, 5, 5, 2) * 2 - 1]
    written = export.to_onnx(Own(), tmp_path / "o.onnx", *inputs, output_names=["sampled", "small"])
    assert written.difference is not None and written.difference < 1e-5
    assert written.inputs["grid"] == ["batch", 5, 5, 2] and written.outputs["small"] == ["batch", 6, 4, 4]


def test_onnx_in_half_precision(tmp_path: Path, runtime: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(gk.Conv2d(3, 8, 3, act="lrelu", down=2), gk.Upsample2d()).half()
    written = export.to_onnx(layer, tmp_path / "h.onnx", torch.randn(2, 3, 8, 8).half())
    assert written.difference is not None and 0 < written.difference < 0.01


def test_onnx_of_a_fixed_batch_and_an_older_opset(tmp_path: Path, runtime: Any) -> None:
    critic = models.from_config(models.FAMILIES["stylegan2"].tiny).discriminator
    images = torch.randn(2, *critic.image_shape)
    with pytest.raises(ValueError, match="dynamic_batch=False exports it for 2"):
        export.to_onnx(critic, tmp_path / "d.onnx", images)
    written = export.to_onnx(critic, tmp_path / "d.onnx", images, dynamic_batch=False, opset=18)
    assert written.inputs == {"images": [2, *critic.image_shape]} and written.opset == 18
    assert written.difference is not None and written.difference < 1e-5


def test_a_file_that_differs_is_not_written(tmp_path: Path, runtime: Any) -> None:
    path = tmp_path / "l.onnx"
    path.write_text("older")
    layer = gk.Conv2d(3, 4, 3, act="swish")
    with pytest.raises(RuntimeError, match=r"output differs by .* for 2 samples \(tolerance 1e-12\)"):
        export.to_onnx(layer, path, torch.randn(2, 3, 8, 8), tolerance=1e-12)
    assert path.read_text() == "older" and os.listdir(tmp_path) == ["l.onnx"]
    unchecked = export.to_onnx(layer, path, torch.randn(2, 3, 8, 8), tolerance=1e-12, check=False)
    assert unchecked.difference is None and path.stat().st_size > 100


# ---- bad input ---------------------------------------------------------------------------------------------------------------
X = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("inputs", "error", "match"),
    [
        ([], ValueError, "inputs must be at least one example tensor"),
        ([3], TypeError, r"inputs must be tensors .*got int at 0"),
        ([X, torch.randn(3, 1)], ValueError, "as many samples each, got 2 at 0 and 3 at 1"),
        ([torch.zeros(())], ValueError, r"samples along dimension 0, got \[\] at 0"),
        ([X[:0]], ValueError, r"samples along dimension 0, got \[0, 3, 8, 8\] at 0"),
    ],
)
def test_bad_inputs(inputs: list[Any], error: type[Exception], match: str, tmp_path: Path) -> None:
    layer = gk.Conv2d(3, 4, 3)
    with pytest.raises(error, match=f"export_program: .*{match}"):
        export.export_program(layer, *inputs)
    with pytest.raises(error, match=f"to_onnx: .*{match}"):
        export.to_onnx(layer, tmp_path / "l.onnx", *inputs)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"model": lambda x: x}, TypeError, "model must be a torch.nn.Module, got function"),
        ({"path": 3}, TypeError, "path must be a str or a path, got int"),
        ({"path": "."}, ValueError, "path must be a file, got the folder"),
        ({"path": "file/l.onnx"}, ValueError, "path must be a file that can be written, got .*file is no folder"),
        ({"inputs": [X.bfloat16()]}, TypeError, r"inputs must not be bfloat16"),
        ({"inputs": [X, X]}, ValueError, "inputs must be at most 1, which Conv2d takes, got 2"),
        ({"model": nn.Linear(2**15, 2**15, device="meta")}, ValueError, "model must have less than 2 GiB .* got 4.0 GiB"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be positive, got 0.0"),
        ({"tolerance": float("nan")}, ValueError, "tolerance must be positive, got nan"),
        ({"input_names": "x"}, ValueError, "input_names must be 1 different names, got 'x'"),
        ({"input_names": ["a", "b"]}, ValueError, r"input_names must be 1 different names, got \['a', 'b'\]"),
    ],
)
def test_bad_arguments(
    changes: dict[str, Any], error: type[Exception], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    arguments = {"model": gk.Conv2d(3, 4, 3), "path": "l.onnx", "inputs": [X], **changes}
    model, path, inputs = (arguments.pop(name) for name in ("model", "path", "inputs"))
    with pytest.raises(error, match=f"to_onnx: {match}"):
        export.to_onnx(model, path, *inputs, **arguments)
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'to_onnx needs onnx, .*pip install "gankern\[export\]"'):
        export.to_onnx(gk.Conv2d(3, 4, 3), tmp_path / "l.onnx", X)
    assert not os.listdir(tmp_path)
