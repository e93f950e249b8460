"""The operators of ``mmcv.ops`` that GANs use, on gankern's, whether or not mmcv or its compiled part is there.

While it is installed, ``upfirdn2d``, ``filter2d``, ``upsample2d``, ``downsample2d``, ``bias_act``, ``filtered_lrelu``,
``fused_bias_leakyrelu``, ``FusedBiasLeakyReLU``, ``conv2d`` and ``conv_transpose2d`` are gankern's

- where mmcv is complete: in place of its own, also where they are bound already, until :func:`uninstall`;
- where mmcv lacks its compiled part (``mmcv._ext``; mmcv-lite, or a wheel for another torch): so that ``import mmcv.ops``
  works; other operators that need that part raise when they are called;
- where there is no mmcv: as modules of these names alone.

``use_custom_op=False``, which asks for plain PyTorch, runs the reference.

Source of the interface: mmcv 2 (github.com/open-mmlab/mmcv), and the names ``kernel`` and ``pad`` of mmcv 1.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gankern import ops
from gankern.compat._shims import Changes, Options, Served, Shim, _forget
from gankern.compat.nvlabs._ops import _real, bias_act_names, conv2d_gradfix_names, upfirdn2d_names
from gankern.compat.nvlabs._support import EasyDict
from gankern.ops.bias_act.reference import bias_act_reference
from gankern.ops.filtered_lrelu.reference import filtered_lrelu_reference
from gankern.ops.upfirdn2d.reference import upfirdn2d_reference
from gankern.ops.upfirdn2d.resample import downsample2d_arguments, filter2d_arguments, upsample2d_arguments

VERSION = "2.2.0"
"""Of the interface, which a stand-in for mmcv gives as its ``__version__``."""


def install() -> None:
    """Have users of ``mmcv.ops`` run on gankern, whether it is imported already, later, or not there at all.

    Installations are counted; it may be called again, by any thread.
    """
    _SHIM.install()


def uninstall() -> None:
    """Take back one :func:`install`; the last one restores every module and function.

    Raises:
        RuntimeError: it is not installed.
    """
    _SHIM.uninstall()


def installed() -> AbstractContextManager[None]:
    """Scope in which it is installed: ``with mmcv.installed(): ...``."""
    return _SHIM.installed()


def is_installed() -> bool:
    """Whether it is installed."""
    return _SHIM.active


# ---- functions -----------------------------------------------------------------------------------------------------------
def _resampled(arguments: Callable[..., dict[str, Any]], function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """filter2d and its like: ``function`` with the padding and gain that ``arguments`` makes of the given ones."""

    def run(input: Tensor, filter: Tensor | None, flip_filter: bool, use_custom_op: bool, *given: Any) -> Tensor:
        made = arguments(filter, *given)
        return function(input, filter, flip_filter=flip_filter, use_custom_op=use_custom_op, **made)

    return run


def _upfirdn2d_names(module: ModuleType) -> dict[str, Any]:
    def upfirdn2d(  # type: ignore[no-untyped-def]
        input, filter=None, up=1, down=1, padding=0, flip_filter=False, gain=1, use_custom_op=True, *, kernel=None, pad=None
    ):
        """Upsample, pad, filter, downsample; ``kernel`` and ``pad`` (before, after on both axes) are mmcv 1's names."""
        if kernel is not None:
            if filter is not None:
                raise TypeError("upfirdn2d: got both filter and kernel, which are the same")
            filter = kernel
        if pad is not None:
            pad = [pad] * 2 if isinstance(pad, int) else list(pad)
            padding = pad * 2 if len(pad) == 2 else pad
        run = ops.upfirdn2d if use_custom_op else upfirdn2d_reference
        return run(input, filter, up, down, padding, flip_filter, _real(gain))

    filtered, up_, down_ = (
        _resampled(one, upfirdn2d) for one in (filter2d_arguments, upsample2d_arguments, downsample2d_arguments)
    )

    def filter2d(input, filter, padding=0, flip_filter=False, gain=1, use_custom_op=True):  # type: ignore[no-untyped-def]
        """Filter, padded to the size of the input."""
        return filtered(input, filter, flip_filter, use_custom_op, padding, _real(gain))

    def upsample2d(input, filter, up=2, padding=0, flip_filter=False, gain=1, use_custom_op=True):  # type: ignore[no-untyped-def]
        """Upsample, padded to ``up`` times the size of the input."""
        return up_(input, filter, flip_filter, use_custom_op, up, padding, _real(gain))

    def downsample2d(input, filter, down=2, padding=0, flip_filter=False, gain=1, use_custom_op=True):  # type: ignore[no-untyped-def]
        """Downsample, padded to the size of the input over ``down``."""
        return down_(input, filter, flip_filter, use_custom_op, down, padding, _real(gain))

    def _upfirdn2d_ref(input, filter, up=1, down=1, padding=0, flip_filter=False, gain=1):  # type: ignore[no-untyped-def]
        return upfirdn2d(input, filter, up, down, padding, flip_filter, gain, use_custom_op=False)

    helpers = upfirdn2d_names(module)
    return _own(module, upfirdn2d, filter2d, upsample2d, downsample2d, _upfirdn2d_ref) | {
        name: helpers[name] for name in ("_parse_padding", "_parse_scaling", "_get_filter_size")
    }


def _bias_act_names(module: ModuleType) -> dict[str, Any]:
    def bias_act(  # type: ignore[no-untyped-def]
        input, bias=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, use_custom_op=True
    ):
        """Add a bias along ``dim``, apply an activation, scale and clamp, in one pass."""
        run = ops.bias_act if use_custom_op else bias_act_reference
        return run(input, bias, dim, act, _real(alpha), _real(gain), _real(clamp))

    def _bias_act_ref(input, bias=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):  # type: ignore[no-untyped-def]
        return bias_act(input, bias, dim, act, alpha, gain, clamp, use_custom_op=False)

    names = _own(module, bias_act, _bias_act_ref) | {"activation_funcs": bias_act_names(module)["activation_funcs"]}
    return names if "EasyDict" in vars(module) else names | {"EasyDict": EasyDict}


def _filtered_lrelu_names(module: ModuleType) -> dict[str, Any]:
    def filtered_lrelu(  # type: ignore[no-untyped-def]
        input, filter_up=None, filter_down=None, bias=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None,
        flip_filter=False, use_custom_op=True,
    ):  # fmt: skip
        """Bias, upsampling, leaky ReLU, clamp and downsampling, in one pass."""
        run = ops.filtered_lrelu if use_custom_op else filtered_lrelu_reference
        settings = (_real(gain), _real(slope), _real(clamp), flip_filter)
        return run(input, filter_up, filter_down, bias, up, down, padding, *settings)

    def _filtered_lrelu_ref(  # type: ignore[no-untyped-def]
        input, filter_up=None, filter_down=None, bias=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None,
        flip_filter=False,
    ):  # fmt: skip
        settings = (up, down, padding, gain, slope, clamp, flip_filter)
        return filtered_lrelu(input, filter_up, filter_down, bias, *settings, use_custom_op=False)

    return _own(module, filtered_lrelu, _filtered_lrelu_ref)


def _fused_bias_leakyrelu_names(module: ModuleType) -> dict[str, Any]:
    def fused_bias_leakyrelu(input, bias, negative_slope=0.2, scale=2**0.5):  # type: ignore[no-untyped-def]
        """``scale * leaky_relu(input + bias)``, the bias along dimension 1, in one pass."""
        return ops.bias_act(input, bias, 1, "lrelu", _real(negative_slope), _real(scale))

    def bias_leakyrelu_ref(x, bias, negative_slope=0.2, scale=2**0.5):  # type: ignore[no-untyped-def]
        """The same in plain PyTorch."""
        return bias_act_reference(x, bias, 1, "lrelu", _real(negative_slope), _real(scale))

    names = _own(module, fused_bias_leakyrelu, bias_leakyrelu_ref)
    if "FusedBiasLeakyReLU" in vars(module):
        return names  # there may be objects of the real class; they call the function beside it, which is ours

    class FusedBiasLeakyReLU(nn.Module):
        """Bias [num_channels] (learned, from 0), leaky ReLU and scale, in one pass."""

        def __init__(self, num_channels, negative_slope=0.2, scale=2**0.5):  # type: ignore[no-untyped-def]
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(num_channels))
            self.negative_slope, self.scale = negative_slope, scale

        def forward(self, input):  # type: ignore[no-untyped-def]
            """Of any shape [N, num_channels, ...]."""
            return ops.bias_act(input, self.bias, 1, "lrelu", _real(self.negative_slope), _real(self.scale))

    return names | _own(module, FusedBiasLeakyReLU)


def _own(module: ModuleType, *objects: Any) -> dict[str, Any]:
    """By name, as objects of ``module``: pickles and tracebacks find them there."""
    for one in objects:
        one.__module__, one.__qualname__ = module.__name__, one.__name__
    return {one.__name__: one for one in objects}


# ---- modules -------------------------------------------------------------------------------------------------------------
_MODULES: Mapping[str, tuple[Callable[[ModuleType], Mapping[str, Any]], tuple[str, ...]]] = {
    "bias_act": (_bias_act_names, ("bias_act",)),
    "conv2d_gradfix": (conv2d_gradfix_names, ("conv2d", "conv_transpose2d")),
    "filtered_lrelu": (_filtered_lrelu_names, ("filtered_lrelu",)),
    "fused_bias_leakyrelu": (_fused_bias_leakyrelu_names, ("FusedBiasLeakyReLU", "fused_bias_leakyrelu")),
    "upfirdn2d": (_upfirdn2d_names, ("filter2d", "upfirdn2d", "upsample2d", "downsample2d")),
}
"""Module of ``mmcv.ops`` -> what makes its names, and which of them ``mmcv.ops`` has as well."""


def _package_names(package: ModuleType) -> Mapping[str, Any]:
    """``mmcv.ops``, which binds names of its modules."""
    if sys.modules.get(package.__name__) is not package:
        return {}
    names: dict[str, Any] = {}
    for module, (_, public) in _MODULES.items():
        # Now, because a module that is imported later would take the name of the function of the same name.
        made = importlib.import_module(f"{package.__name__}.{module}")
        names |= {name: vars(made)[name] for name in public}
    return {name: value for name, value in names.items() if vars(package).get(name) is not value}


def _extension_names(module: ModuleType) -> Mapping[str, Any]:
    """``mmcv._ext`` where there is none: every operator is there, and says when it is called that it is not."""

    def missing(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def function(*_: Any, **__: Any) -> Any:
            raise RuntimeError(
                f"mmcv._ext.{name}: the compiled part of mmcv is not installed, and gankern has no such operator; "
                "install a full mmcv for it"
            )

        return function

    return {"__getattr__": missing}


def _served(options: Options) -> list[Served]:
    modules = [Served(f"mmcv.ops.{name}", names) for name, (names, _) in _MODULES.items()]
    return [
        Served("mmcv", lambda _: {"__version__": VERSION}, mode="absent", package=True),
        Served("mmcv._ext", _extension_names, mode="absent"),
        Served("mmcv.ops", _package_names, package=True),
        *modules,
    ]


def _visit(module: ModuleType, changes: Changes, options: Options) -> None:
    if module.__name__ == "mmcv.ops" and _is_ours(sys.modules.get("mmcv._ext")):
        changes.call(_forget_ops)  # it could not be imported without us


def _is_ours(module: ModuleType | None) -> bool:
    return getattr(getattr(module, "__spec__", None), "origin", None) == "gankern"


def _forget_ops() -> None:
    for name in [name for name in sys.modules if name.split(".")[:2] == ["mmcv", "ops"]]:
        _forget(sys.modules[name])


_SHIM = Shim("gankern.compat.mmcv", _served, _visit)

__all__ = ["install", "installed", "is_installed", "uninstall"]
