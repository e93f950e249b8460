"""``mmcv.ops``: with no mmcv, with an mmcv that lacks its compiled part, and in place of a complete one's own operators."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
from typing import Any

import pytest
import torch
from small_trees import assert_same, derivatives, plain_leaky_relu, plain_upfirdn2d, tree_fixture  # noqa: F401

from gankern import _usage, ops
from gankern.compat import mmcv

# An mmcv in small, from its interface: operators that need the extension ask for it when they are imported.
PARTS = {
    "mmcv/__init__.py": "__version__ = '2.9.9'\n",
    "mmcv/utils/__init__.py": """
import importlib

def load_ext(name, functions):
    ext = importlib.import_module("mmcv." + name)
    assert all(hasattr(ext, one) for one in functions)
    return ext
""",
    "mmcv/ops/__init__.py": """
from .roi_align import roi_align
from .bias_act import bias_act
from .conv2d_gradfix import conv2d, conv_transpose2d
from .filtered_lrelu import filtered_lrelu
from .fused_bias_leakyrelu import FusedBiasLeakyReLU, fused_bias_leakyrelu
from .upfirdn2d import filter2d, upfirdn2d, upsample2d
""",
    "mmcv/ops/roi_align.py": """
from ..utils import load_ext
ext = load_ext("_ext", ["roi_align_forward"])

def roi_align(x):
    return ext.roi_align_forward(x)
""",
    "mmcv/ops/bias_act.py": """
from ..utils import load_ext
ext = load_ext("_ext", ["bias_act"])

def bias_act(input, bias=None):
    return ext.bias_act(input, bias)
""",
    "mmcv/ops/conv2d_gradfix.py": "from torch.nn.functional import conv2d, conv_transpose2d\nenabled = True\n",
    "mmcv/ops/filtered_lrelu.py": "def filtered_lrelu(input):\n    return input\n",
    "mmcv/ops/fused_bias_leakyrelu.py": """
from torch import nn
import torch

def fused_bias_leakyrelu(input, bias, negative_slope=0.2, scale=1):
    return input

class FusedBiasLeakyReLU(nn.Module):
    def __init__(self, num_channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, input):
        return fused_bias_leakyrelu(input, self.bias)
""",
    "mmcv/ops/upfirdn2d.py": "".join(
        f"def {name}(input, filter):\n    return input\n\n" for name in ("upfirdn2d", "filter2d", "upsample2d")
    ),
}
EXTENSION = {"mmcv/_ext.py": "roi_align_forward = bias_act = lambda *arguments: arguments[0] + 1\n"}
USER = {"user.py": "from mmcv.ops import bias_act\nfrom mmcv.ops.upfirdn2d import upfirdn2d\nimport mmcv.ops\n"}


@pytest.fixture
def alone(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """mmcv.ops where there is no mmcv."""
    if "mmcv" in sys.modules or importlib.util.find_spec("mmcv"):
        pytest.skip("mmcv is installed")
    monkeypatch.chdir(tmp_path)
    with mmcv.installed():
        yield importlib.import_module("mmcv.ops")


def test_modules_come_and_go(alone: Any) -> None:
    module = importlib.import_module("mmcv.ops.upfirdn2d")
    assert alone.upfirdn2d is module.upfirdn2d and alone.upsample2d is module.upsample2d  # the function, not the module
    assert importlib.import_module("mmcv").__version__ == mmcv.VERSION
    assert importlib.import_module("mmcv.ops.bias_act").EasyDict(a=1).a == 1
    mmcv.uninstall()
    try:
        assert not [name for name in sys.modules if name.partition(".")[0] == "mmcv"]
        with pytest.raises(ModuleNotFoundError, match="mmcv"):
            importlib.import_module("mmcv.ops")
    finally:
        mmcv.install()


def test_upfirdn2d_by_all_its_names(alone: Any) -> None:
    x, f = torch.randn(2, 3, 6, 5), torch.randn(4, 4)
    plain = derivatives(lambda x: 2.0 * plain_upfirdn2d(x, f.flip(0, 1), (2, 1), (1, 2), (2, 1, 0, 3)), (x,))
    settings: dict[str, Any] = {"up": [2, 1], "down": [1, 2], "padding": [2, 1, 0, 3], "flip_filter": True, "gain": 2}
    for custom in (True, False):
        assert_same(
            derivatives(lambda x, c=custom: alone.upfirdn2d(input=x, filter=f, use_custom_op=c, **settings), (x,)), plain
        )
    both = derivatives(lambda x: plain_upfirdn2d(x, f, pad=(2, 2, 1, 1)), (x,))
    assert_same(derivatives(lambda x: alone.upfirdn2d(x, f, padding=(2, 1)), (x,)), both)  # x, then y
    before = derivatives(lambda x: plain_upfirdn2d(x, f, pad=(2, 1, 2, 1)), (x,))
    assert_same(derivatives(lambda x: alone.upfirdn2d(x, kernel=f, pad=(2, 1)), (x,)), before)  # mmcv 1: before, then after
    with pytest.raises(TypeError, match="both filter and kernel"):
        alone.upfirdn2d(x, f, kernel=f)
    assert alone.upfirdn2d(x, None, 2).shape == (2, 3, 12, 10)


def test_filters_keep_double_and_halve_the_size(alone: Any) -> None:
    x, f = torch.randn(2, 3, 6, 8), ops.setup_filter([1, 3, 3, 1])
    assert torch.equal(alone.filter2d(x, f, gain=2), ops.filter2d(x, f, gain=2))
    assert torch.equal(alone.upsample2d(input=x, filter=f, up=2), ops.upsample2d(x, f))
    assert torch.equal(alone.downsample2d(x, filter=f, down=2, padding=1), ops.downsample2d(x, f, padding=1))
    with _usage.recording() as usage:
        alone.downsample2d(x, f, use_custom_op=False)
    assert not usage.entries()  # plain PyTorch was asked for


def test_activations(alone: Any) -> None:
    x, b = torch.randn(2, 3, 4, 5), torch.randn(3)
    plain = derivatives(plain_leaky_relu, (x, b))
    assert_same(derivatives(alone.fused_bias_leakyrelu, (x, b)), plain)
    for custom in (True, False):
        assert_same(derivatives(lambda x, b, c=custom: alone.bias_act(x, bias=b, act="lrelu", use_custom_op=c), (x, b)), plain)
    # Without filters it is a bias, a leaky ReLU and a gain.
    assert_same(derivatives(lambda x, b: alone.filtered_lrelu(input=x, bias=b), (x, b)), plain)
    assert_same(derivatives(lambda x, b: alone.filtered_lrelu(input=x, bias=b, use_custom_op=False), (x, b)), plain)
    module = alone.FusedBiasLeakyReLU(3, negative_slope=0.1, scale=1).double()
    torch.nn.init.normal_(module.bias)
    expected = derivatives(lambda x: plain_leaky_relu(x, module.bias, 0.1, 1), (x,), [module.bias])
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_same(derivatives(twin, (x,), [twin.bias]), expected)
    specs = importlib.import_module("mmcv.ops.bias_act").activation_funcs
    assert specs["lrelu"].def_alpha == 0.2 and specs["swish"].has_2nd_grad


def test_filtered_lrelu_takes_filters_by_their_names(alone: Any) -> None:
    x, f = torch.randn(1, 2, 8, 8, dtype=torch.float64), torch.randn(4).double()
    settings: dict[str, Any] = {"up": 2, "down": 2, "padding": [3, 3, 3, 3], "clamp": 1, "slope": 0.1}
    assert torch.equal(alone.filtered_lrelu(x, filter_up=f, filter_down=f, **settings), ops.filtered_lrelu(x, f, f, **settings))


def test_convolutions(alone: Any) -> None:
    x, w = torch.randn(1, 2, 5, 5), torch.randn(2, 2, 3, 3)
    pairs = ((alone.conv2d, torch.nn.functional.conv2d), (alone.conv_transpose2d, torch.nn.functional.conv_transpose2d))
    for pair in pairs:
        ours, theirs = (derivatives(lambda *a, f=f: f(*a, stride=2, padding=1), (x, w)) for f in pair)
        assert_same(ours, theirs)
    gradfix = importlib.import_module("mmcv.ops.conv2d_gradfix")
    with gradfix.no_weight_gradients():
        assert gradfix.weight_gradients_disabled
    assert not gradfix.weight_gradients_disabled


def test_an_mmcv_without_its_compiled_part_can_be_imported(tree: Any) -> None:
    tree(PARTS | USER)
    with pytest.raises(ModuleNotFoundError, match="_ext"):
        importlib.import_module("mmcv.ops")
    with mmcv.installed():
        user = importlib.import_module("user")
        assert user.mmcv.__version__ == "2.9.9"  # the real one
        assert user.upfirdn2d is user.mmcv.ops.upfirdn2d is sys.modules["mmcv.ops.upfirdn2d"].upfirdn2d
        torch.testing.assert_close(user.bias_act(torch.ones(1, 2), torch.ones(2)), torch.full((1, 2), 2.0))
        assert user.mmcv.ops.FusedBiasLeakyReLU(2)(-torch.ones(1, 2))[0].tolist() == pytest.approx([-0.2 * 2**0.5] * 2)
        with pytest.raises(RuntimeError, match=r"mmcv\._ext\.roi_align_forward: the compiled part of mmcv is not installed"):
            user.mmcv.ops.roi_align(torch.ones(1))
    assert "mmcv._ext" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="_ext"):
        importlib.import_module("mmcv.ops")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_complete_mmcv_is_patched_and_restored(tree: Any, when: str) -> None:
    tree(PARTS | EXTENSION | USER)
    user = importlib.import_module("user") if when == "before" else None
    x = -torch.ones(1, 2, 4, 4)
    with mmcv.installed():
        user = user or importlib.import_module("user")
        real = user.mmcv.ops
        assert user.bias_act(x, act="relu").abs().sum() == 0  # the real one has no activations
        assert user.upfirdn2d is real.upfirdn2d and real.upfirdn2d(x, None, up=2).shape == (1, 2, 8, 8)
        assert real.FusedBiasLeakyReLU(2)(x).min() > -1
        assert real.roi_align(torch.ones(1)).item() == 2  # its own
        with mmcv.installed():
            pass
        assert user.bias_act(x, act="relu").abs().sum() == 0
    assert user.bias_act is real.bias_act is sys.modules["mmcv.ops.bias_act"].bias_act and user.bias_act(x).abs().sum() == 0
    assert user.upfirdn2d(x, None) is x and real.FusedBiasLeakyReLU(2)(x) is x and real.upsample2d(x, None) is x
    assert not hasattr(sys.modules["mmcv.ops.bias_act"], "activation_funcs")
    assert type(sys.modules["mmcv.ops.conv2d_gradfix"]) is type(sys)
