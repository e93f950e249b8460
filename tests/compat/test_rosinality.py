"""The ``op`` package of rosinality's stylegan2-pytorch: stand-ins, before and after their import."""

from __future__ import annotations

import copy
import importlib
import io
import sys
import threading
from typing import Any

import pytest
import torch
from small_trees import assert_same, derivatives, plain_leaky_relu, plain_upfirdn2d, tree_fixture  # noqa: F401

from gankern import _dispatch, _usage
from gankern.compat import rosinality

COMPILES = "raise RuntimeError('this would compile an extension')\n"
OP = {
    "op/__init__.py": "from .fused_act import FusedLeakyReLU, fused_leaky_relu\nfrom .upfirdn2d import upfirdn2d\n"
    "EXTRA = 'kept'\n",
    "op/fused_act.py": COMPILES,
    "op/upfirdn2d.py": COMPILES,
    "op/conv2d_gradfix.py": COMPILES,
}
# What a machine that can compile has: the same functions, here of PyTorch's own.
WORKING_OP = OP | {
    "op/fused_act.py": """
from torch import nn
import torch
from small_trees import plain_leaky_relu

def fused_leaky_relu(input, bias=None, negative_slope=0.2, scale=2 ** 0.5):
    return plain_leaky_relu(input, bias, negative_slope, scale)

class FusedLeakyReLU(nn.Module):
    def __init__(self, channel, bias=True, negative_slope=0.2, scale=2 ** 0.5):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.settings = negative_slope, scale

    def forward(self, input):
        return fused_leaky_relu(input, self.bias, *self.settings)
""",
    "op/upfirdn2d.py": """
from small_trees import plain_upfirdn2d

def upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0)):
    return plain_upfirdn2d(input, kernel, (up, up), (down, down), tuple(pad) * 2)
""",
    "op/conv2d_gradfix.py": "from torch.nn.functional import conv2d, conv_transpose2d\nenabled = True\n",
}
# A generator layer from the formula, sample by sample, with the names and the order of arguments of that codebase.
MODEL = """
import torch
from torch import nn
from torch.nn import functional as F
from op import FusedLeakyReLU, fused_leaky_relu, upfirdn2d

class Blur(nn.Module):
    def __init__(self, kernel, pad, gain=1):
        super().__init__()
        taps = torch.tensor(kernel, dtype=torch.float32)
        self.register_buffer("kernel", gain * taps.outer(taps) / taps.sum() ** 2)
        self.pad = pad

    def forward(self, input):
        return upfirdn2d(input, self.kernel, pad=self.pad)

class ModulatedConv2d(nn.Module):
    def __init__(self, in_channel, out_channel, kernel_size, style_dim, demodulate=True, upsample=False, downsample=False,
                 blur_kernel=[1, 3, 3, 1], fused=True):
        super().__init__()
        self.kernel_size, self.upsample, self.downsample, self.demodulate = kernel_size, upsample, downsample, demodulate
        spare = len(blur_kernel) - 2 - (kernel_size - 1) * (1 if upsample else -1)
        if upsample:
            self.blur = Blur(blur_kernel, ((spare + 1) // 2 + 1, spare // 2 + 1), gain=4)
        if downsample:
            self.blur = Blur(blur_kernel, ((spare + 1) // 2, spare // 2))
        self.scale, self.padding = (in_channel * kernel_size ** 2) ** -0.5, kernel_size // 2
        self.weight = nn.Parameter(torch.randn(1, out_channel, in_channel, kernel_size, kernel_size))
        self.modulation = nn.Linear(style_dim, in_channel)
        self.fused = fused

    def forward(self, input, style):
        outputs = []
        for image, factors in zip(input, self.modulation(style)):
            w = self.scale * self.weight[0] * factors[None, :, None, None]
            if self.demodulate:
                w = w * (w.square().sum((1, 2, 3), keepdim=True) + EPSILON).rsqrt()
            if self.upsample:
                y = self.blur(F.conv_transpose2d(image[None], w.transpose(0, 1), stride=2))
            elif self.downsample:
                y = F.conv2d(self.blur(image[None]), w, stride=2)
            else:
                y = F.conv2d(image[None], w, padding=self.padding)
            outputs.append(y)
        return torch.cat(outputs)
"""
EXACT = MODEL + "\nEPSILON = 1e-8\n"
MODES: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 1, "demodulate": False},
    {"kernel_size": 3, "upsample": True},
    {"kernel_size": 3, "downsample": True, "fused": False},
    {"kernel_size": 5, "upsample": True, "demodulate": False, "blur_kernel": [1, 2, 1]},
]


def test_nothing_is_compiled(tree: Any) -> None:
    tree(OP)
    with pytest.raises(RuntimeError, match="would compile"):
        importlib.import_module("op")
    with rosinality.installed():
        op = importlib.import_module("op")
        assert op.EXTRA == "kept" and callable(op.upfirdn2d)
        assert op.fused_leaky_relu is importlib.import_module("op.fused_act").fused_leaky_relu
        assert importlib.import_module("op.conv2d_gradfix").conv2d.__module__ == "op.conv2d_gradfix"
    assert not [name for name in sys.modules if name.partition(".")[0] == "op"]


def test_without_any_checkout(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with rosinality.installed():
        module = importlib.import_module("op.upfirdn2d")  # first the module, then the package's function of its name
        from op import conv2d_gradfix, upfirdn2d  # type: ignore[import-not-found]

        assert upfirdn2d is module.upfirdn2d and conv2d_gradfix.__name__ == "op.conv2d_gradfix"
    assert "op" not in sys.modules and "op.upfirdn2d" not in sys.modules


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 3)])
def test_fused_leaky_relu(tree: Any, shape: tuple[int, ...]) -> None:
    tree(OP)
    x, b = torch.randn(shape), torch.randn(3)
    with rosinality.installed():
        op = importlib.import_module("op")
        assert_same(derivatives(op.fused_leaky_relu, (x, b)), derivatives(plain_leaky_relu, (x, b)))
        assert_same(derivatives(op.fused_leaky_relu, (x, None, 0.1, 1.0)), derivatives(plain_leaky_relu, (x, None, 0.1, 1.0)))
        module = op.FusedLeakyReLU(3, negative_slope=0.3, scale=0.5).double()
        torch.nn.init.normal_(module.bias)
        ours = derivatives(module, (x,), [module.bias])
        assert_same(ours, derivatives(lambda x: plain_leaky_relu(x, module.bias, 0.3, 0.5), (x,), [module.bias]))
        assert op.FusedLeakyReLU(3, bias=False).bias is None


@pytest.mark.parametrize(
    "settings, plain",
    [
        ({"pad": (2, 1)}, {"pad": (2, 1, 2, 1)}),
        ({"pad": (2, 1, 0, 3)}, {"pad": (2, 1, 0, 3)}),
        ({"up": 2, "pad": (2, 1)}, {"up": (2, 2), "pad": (2, 1, 2, 1)}),
        ({"up": (2, 1), "down": (1, 3), "pad": (-1, 4)}, {"up": (2, 1), "down": (1, 3), "pad": (-1, 4, -1, 4)}),
    ],
)
def test_upfirdn2d_pads_both_axes_alike(tree: Any, settings: dict[str, Any], plain: dict[str, Any]) -> None:
    tree(OP)
    x, kernel = torch.randn(2, 3, 6, 5), torch.randn(4, 4)
    with rosinality.installed():
        op = importlib.import_module("op")
        ours = derivatives(lambda x: op.upfirdn2d(x, kernel, **settings), (x,))
        assert_same(ours, derivatives(lambda x: plain_upfirdn2d(x, kernel, **plain), (x,)))
        with pytest.raises(ValueError, match="pad must be"):
            op.upfirdn2d(x, kernel, pad=(1, 2, 3))


@pytest.mark.parametrize("mode", MODES)
def test_modulated_conv_has_the_same_values_and_derivatives(tree: Any, mode: dict[str, Any]) -> None:
    tree(OP | {"model.py": EXACT})
    x, style = torch.randn(2, 4, 6, 8), torch.randn(2, 5)
    with rosinality.installed():
        made = importlib.import_module("model").ModulatedConv2d(4, 3, style_dim=5, **mode).double()
        own = type(made).forward.__wrapped__
        ours = derivatives(made, (x, style), list(made.parameters()))
        assert_same(ours, derivatives(lambda *a: own(made, *a), (x, style), list(made.parameters())))
    assert type(made).forward is own


def test_modulated_conv_uses_one_weight_for_all_samples(tree: Any) -> None:
    tree(OP | {"model.py": EXACT})
    with rosinality.installed():
        made = importlib.import_module("model").ModulatedConv2d(4, 3, 3, 5)
        with _usage.recording() as usage, torch.no_grad():
            made(torch.randn(8, 4, 6, 6), torch.randn(8, 5))
        assert {entry.op: entry.calls for entry in usage.entries()}["modulated_conv2d_inference"] == 1


@pytest.mark.parametrize(
    "text",
    [
        MODEL + "\nEPSILON = 1e-3\n",
        EXACT.replace("padding=self.padding)", "padding=self.padding) + 1"),
        EXACT.replace("def forward(self, input, style)", "def forward(self, input, style, shift=0)"),
        EXACT.replace("fused=True", "fused=True, *, gain=1"),
        EXACT.replace("self.weight = nn", "self.kernels = nn").replace("self.weight[0]", "self.kernels[0]"),
    ],
    ids=["epsilon", "maths", "forward", "init", "attributes"],
)
def test_another_class_is_left_alone(tree: Any, text: str) -> None:
    tree(OP | {"model.py": text})
    with rosinality.installed():
        cls = importlib.import_module("model").ModulatedConv2d
        assert not hasattr(cls.forward, "__wrapped__")
        assert cls(2, 3, 1, 4)(torch.randn(1, 2, 4, 4), torch.randn(1, 4)).shape == (1, 3, 4, 4)


def test_modulated_conv_can_be_left_and_the_trial_leaves_no_trace(tree: Any) -> None:
    tree(OP | {"model.py": EXACT, "again.py": EXACT})
    with rosinality.installed(modulated_conv=False):
        assert not hasattr(importlib.import_module("model").ModulatedConv2d.forward, "__wrapped__")
    del sys.modules["model"]
    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    # Forced onto a backend that is not there: the trial of a class on the CPU must not depend on it.
    with rosinality.installed(), _dispatch.use_backend("cuda"), _usage.recording() as usage:
        assert hasattr(importlib.import_module("again").ModulatedConv2d.forward, "__wrapped__")
    assert not usage.entries()
    assert torch.equal(torch.randn(3), expected)


def test_what_is_imported_already_is_patched_and_restored(tree: Any) -> None:
    tree(WORKING_OP | {"model.py": EXACT})
    model, op = importlib.import_module("model"), importlib.import_module("op")
    act, own, cls = model.FusedLeakyReLU(3), model.fused_leaky_relu, model.FusedLeakyReLU
    before = {name: dict(vars(sys.modules[name])) for name in ("model", "op", "op.fused_act", "op.upfirdn2d")}
    forward = model.ModulatedConv2d.forward
    modules = set(sys.modules)
    with rosinality.installed():
        assert model.fused_leaky_relu is op.fused_leaky_relu is not own
        assert model.upfirdn2d is not before["model"]["upfirdn2d"] and model.ModulatedConv2d.forward is not forward
        assert model.FusedLeakyReLU is cls and isinstance(act, model.FusedLeakyReLU)  # objects keep their class
        assert act.forward.__globals__["fused_leaky_relu"] is op.fused_leaky_relu  # which calls ours
        torch.testing.assert_close(act(torch.ones(1, 3)), torch.full((1, 3), 2**0.5))
        with rosinality.installed():
            pass
        assert model.fused_leaky_relu is not own
    for name, names in before.items():
        now = vars(sys.modules[name])
        assert {k: v for k, v in now.items() if k != "__builtins__"} == {k: v for k, v in names.items() if k != "__builtins__"}
    assert model.ModulatedConv2d.forward is forward and set(sys.modules) == modules


def test_packages_under_other_names(tree: Any) -> None:
    moved = {f"models/stylegan2/{name}": text for name, text in OP.items()}
    tree(moved | {"models/__init__.py": "", "models/stylegan2/__init__.py": "",
                  "models/stylegan2/layers.py": EXACT.replace("from op", "from .op")})  # fmt: skip
    with rosinality.installed():
        layers = importlib.import_module("models.stylegan2.layers")
        assert layers.fused_leaky_relu.__module__ == "models.stylegan2.op.fused_act"
        assert hasattr(layers.ModulatedConv2d.forward, "__wrapped__")
    assert not [name for name in sys.modules if name.startswith("models.stylegan2.op")]
    assert not hasattr(sys.modules["models.stylegan2"], "op")
    with rosinality.installed(packages=["elsewhere.op"]), pytest.raises(RuntimeError, match="would compile"):
        importlib.import_module("models.stylegan2.op")


def test_conv2d_gradfix(tree: Any) -> None:
    tree(OP)
    with rosinality.installed():
        from op import conv2d_gradfix

        x, w = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
        plain = torch.nn.functional.conv2d(x, w, padding=1)
        torch.testing.assert_close(conv2d_gradfix.conv2d(x, w, padding=1), plain)
        with conv2d_gradfix.no_weight_gradients():
            assert conv2d_gradfix.weight_gradients_disabled
            y = conv2d_gradfix.conv_transpose2d(input=x, weight=w.transpose(0, 1), stride=2)
            assert torch.autograd.grad(y.sum(), w, allow_unused=True)[0] is None
        assert not conv2d_gradfix.weight_gradients_disabled and conv2d_gradfix.could_use_op(x)
        conv2d_gradfix.enabled = False
        assert type(conv2d_gradfix.conv2d(x, w).grad_fn).__name__ == "ConvolutionBackward0"
        assert not conv2d_gradfix.could_use_op(x)


def test_augmentation_can_be_trained_with(tree: Any) -> None:
    """Its grid_sample asks PyTorch for an operator in a way that fails now; here it fails by itself."""
    tree(OP | {"non_leaking.py": """
import torch

class GridSampleForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, grid):
        return torch.nn.functional.grid_sample(input, grid, "bilinear", "zeros", False)

    @staticmethod
    def backward(ctx, gradient):
        raise TypeError("'tuple' object is not callable")

grid_sample = GridSampleForward.apply

def augment(x):
    theta = torch.tensor([[[1.0, 0.2, 0.1], [-0.2, 1.0, 0.0]]], dtype=x.dtype)
    return grid_sample(x, torch.nn.functional.affine_grid(theta, x.shape, align_corners=False))
"""})  # fmt: skip
    with rosinality.installed():
        module = importlib.import_module("non_leaking")
        x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(module.augment, (x,))
    assert module.grid_sample == module.GridSampleForward.apply


def test_modules_are_copied_and_pickled(tree: Any) -> None:
    tree(OP | {"model.py": EXACT})
    with rosinality.installed():
        model = importlib.import_module("model")
        net = torch.nn.ModuleList([model.ModulatedConv2d(4, 3, 3, 5, upsample=True), model.FusedLeakyReLU(3)])
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        x, style = torch.randn(2, 4, 4, 4), torch.randn(2, 5)
        for twin in (copy.deepcopy(net), torch.load(file, weights_only=False)):
            assert torch.equal(twin[1](twin[0](x, style)), net[1](net[0](x, style)))


def test_many_threads_install_at_once(tree: Any) -> None:
    tree(OP | {"model.py": EXACT})
    finders = list(sys.meta_path)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                with rosinality.installed():
                    importlib.import_module("op").fused_leaky_relu(torch.ones(1, 2), torch.zeros(2))
        except BaseException as error:
            errors.append(error)

    with rosinality.installed():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors and "op" in sys.modules
    assert "op" not in sys.modules and sys.meta_path == finders
    with pytest.raises(RuntimeError, match="not installed"):
        rosinality.uninstall()


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"packages": "op"}, TypeError, "install: packages must be a sequence of names or None, got 'op'"),
        ({"packages": ["my op"]}, ValueError, "packages must be full names such as .* got 'my op'"),
        ({"modulated_conv": 1}, TypeError, "modulated_conv must be a bool, got 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        rosinality.install(**arguments)
    assert not rosinality.is_installed()
    with rosinality.installed(), pytest.raises(ValueError, match=r"gankern\.compat\.rosinality: is installed with"):
        assert rosinality.is_installed()
        rosinality.install(modulated_conv=False)
