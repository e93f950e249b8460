"""The names of ``torch_utils.ops.*`` and ``torch_utils.custom_ops``, made for one module object each.

Every function is made anew for its module: its identity tells which original it stands for, and it reads that module's own
``enabled``. ``impl='ref'`` runs the reference, any other ``impl`` is ignored.
"""

# The signatures are the codebases', which have no types.
# mypy: disallow-untyped-defs=False, check-untyped-defs=True

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from gankern import _validate, ops
from gankern._activations import activation_funcs
from gankern.compat._shims import Served
from gankern.compat.nvlabs._support import EasyDict
from gankern.ops.bias_act.reference import bias_act_reference
from gankern.ops.conv2d.scope import weight_gradients_disabled
from gankern.ops.filtered_lrelu.reference import filtered_lrelu_reference
from gankern.ops.upfirdn2d.reference import upfirdn2d_reference
from gankern.ops.upfirdn2d.resample import downsample2d_arguments, filter2d_arguments, upsample2d_arguments

Names = dict[str, Any]


def _real(value: Any) -> Any:
    """NumPy's numbers and 0-dimensional tensors as a float; None stays."""
    return value if value is None or isinstance(value, (bool, int, float)) else float(value)


def _built(name: str) -> Names:
    """What says that a plugin is compiled and loaded."""
    return {"_init": lambda: True, "_inited": True, "_plugin": Plugin(name)}


class Plugin:
    """Stands for a compiled plugin: gankern's kernels are reached through the functions of ``torch_utils.ops``."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self.__dict__.get('__name__')}.{name}: no plugin is built under gankern's shim; call the function of "
            "torch_utils.ops instead"
        )

    def __reduce__(self) -> Any:
        return Plugin, (self.__name__,)


# ---- upfirdn2d ---------------------------------------------------------------------------------------------------------
def upfirdn2d_names(module: ModuleType) -> Names:
    """torch_utils.ops.upfirdn2d."""

    def setup_filter(f, device=torch.device("cpu"), normalize=True, flip_filter=False, gain=1, separable=None):  # noqa: B008
        return ops.setup_filter(f, device, normalize, flip_filter, _real(gain), separable)

    def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda"):
        run = upfirdn2d_reference if impl == "ref" else ops.upfirdn2d
        return run(x, f, up, down, padding, flip_filter, _real(gain))

    def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="cuda"):
        return upfirdn2d(x, f, flip_filter=flip_filter, impl=impl, **filter2d_arguments(f, padding, _real(gain)))

    def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
        return upfirdn2d(x, f, flip_filter=flip_filter, impl=impl, **upsample2d_arguments(f, up, padding, _real(gain)))

    def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
        return upfirdn2d(x, f, flip_filter=flip_filter, impl=impl, **downsample2d_arguments(f, down, padding, _real(gain)))

    def _upfirdn2d_ref(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1):
        return upfirdn2d_reference(x, f, up, down, padding, flip_filter, _real(gain))

    def _upfirdn2d_cuda(up=1, down=1, padding=0, flip_filter=False, gain=1):
        return SimpleNamespace(apply=lambda x, f: upfirdn2d(x, f, up, down, padding, flip_filter, gain))

    def _parse_scaling(scaling):
        return _validate.factors("upfirdn2d", "scaling", scaling)

    def _parse_padding(padding):
        return _validate.paddings("upfirdn2d", padding)

    def _get_filter_size(f):
        _validate.check_filter("upfirdn2d", f)
        return _validate.filter_size(f)

    functions = (setup_filter, upfirdn2d, filter2d, upsample2d, downsample2d, _upfirdn2d_ref, _upfirdn2d_cuda, _parse_scaling,
                 _parse_padding, _get_filter_size)  # fmt: skip
    return _named(module, *functions) | _built("upfirdn2d_plugin")


# ---- bias_act, filtered_lrelu --------------------------------------------------------------------------------------------
def _activation_specs() -> dict[str, EasyDict]:
    """``activation_funcs``: func(x, alpha=...), def_alpha, def_gain, cuda_idx, ref, has_2nd_grad."""

    def function(one: Any) -> Callable[..., Tensor]:
        return lambda x, alpha=one.def_alpha, **_: one.function(x, alpha)

    return {
        name: EasyDict(
            func=function(one),
            def_alpha=one.def_alpha,
            def_gain=one.def_gain,
            cuda_idx=one.index + 1,
            ref=one.needs,
            has_2nd_grad=one.curved,
        )
        for name, one in activation_funcs.items()
    }


def bias_act_names(module: ModuleType) -> Names:
    """torch_utils.ops.bias_act."""

    def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda"):
        run = bias_act_reference if impl == "ref" else ops.bias_act
        return run(x, b, dim, act, _real(alpha), _real(gain), _real(clamp))

    def _bias_act_ref(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
        return bias_act_reference(x, b, dim, act, _real(alpha), _real(gain), _real(clamp))

    def _bias_act_cuda(dim=1, act="linear", alpha=None, gain=None, clamp=None):
        return SimpleNamespace(apply=lambda x, b: bias_act(x, b, dim, act, alpha, gain, clamp))

    known = vars(module).get("activation_funcs")
    specs = known if isinstance(known, dict) and set(activation_funcs) <= set(known) else _activation_specs()
    names = _named(module, bias_act, _bias_act_ref, _bias_act_cuda) | _built("bias_act_plugin")
    return names | {"activation_funcs": specs, "_null_tensor": torch.empty([0])}


def filtered_lrelu_names(module: ModuleType) -> Names:
    """torch_utils.ops.filtered_lrelu."""

    def call(run, x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter):
        return run(x, fu, fd, b, up, down, padding, _real(gain), _real(slope), _real(clamp), flip_filter)

    def filtered_lrelu(x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None,
                       flip_filter=False, impl="cuda"):  # fmt: skip
        run = filtered_lrelu_reference if impl == "ref" else ops.filtered_lrelu
        return call(run, x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)

    def _filtered_lrelu_ref(x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None,
                            flip_filter=False):  # fmt: skip
        return call(filtered_lrelu_reference, x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)

    def _filtered_lrelu_cuda(up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None, flip_filter=False):
        def apply(x, fu, fd, b, *signs):
            return call(ops.filtered_lrelu, x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)

        return SimpleNamespace(apply=apply)

    names = _named(module, filtered_lrelu, _filtered_lrelu_ref, _filtered_lrelu_cuda) | _built("filtered_lrelu_plugin")
    return names | _shared_with_upfirdn2d(module)


def _shared_with_upfirdn2d(module: ModuleType) -> Names:
    """_parse_padding and _get_filter_size, which modules of the tree define or import."""
    names = upfirdn2d_names(module)
    return {name: names[name] for name in ("_parse_padding", "_get_filter_size")}


# ---- convolutions --------------------------------------------------------------------------------------------------------
class GradfixModule(ModuleType):
    """``torch_utils.ops.conv2d_gradfix``: ``weight_gradients_disabled`` says what holds now, and can be written."""

    @property
    def weight_gradients_disabled(self) -> bool:
        """Whether a no_weight_gradients scope holds here and now."""
        return weight_gradients_disabled()

    @weight_gradients_disabled.setter
    def weight_gradients_disabled(self, value: bool) -> None:
        self._gankern_close()
        if value:
            scope = vars(self)["_gankern_scope"] = ops.no_weight_gradients()
            scope.__enter__()

    def _gankern_close(self) -> None:
        scope = vars(self).pop("_gankern_scope", None)
        if scope is not None:
            scope.__exit__(None, None, None)


def conv2d_gradfix_names(module: ModuleType) -> Names:
    """torch_utils.ops.conv2d_gradfix; ``enabled = False`` makes both functions torch's own."""

    def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        run = ops.conv2d if _should_use_custom_op(input) else torch.nn.functional.conv2d
        return run(input, weight, bias, stride, padding, dilation, groups)

    def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
        run = ops.conv_transpose2d if _should_use_custom_op(input) else torch.nn.functional.conv_transpose2d
        return run(input, weight, bias, stride, padding, output_padding, groups, dilation)

    def no_weight_gradients(disable=True):
        return ops.no_weight_gradients(bool(disable))

    def _should_use_custom_op(input=None):
        return bool(module.enabled)

    def _tuple_of_ints(xs, ndim):
        return tuple(xs) if isinstance(xs, (tuple, list)) else (xs,) * ndim

    def _conv2d_gradfix(transpose, weight_shape, stride, padding, output_padding, dilation, groups):
        def apply(input, weight, bias=None):
            if transpose:
                return ops.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
            return ops.conv2d(input, weight, bias, stride, padding, dilation, groups)

        return SimpleNamespace(apply=apply)

    functions = (conv2d, conv_transpose2d, no_weight_gradients, _should_use_custom_op, _tuple_of_ints, _conv2d_gradfix)
    return _named(module, *functions) | {"enabled": True, "__class__": GradfixModule}


def conv2d_resample_names(module: ModuleType) -> Names:
    """torch_utils.ops.conv2d_resample."""

    def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
        return ops.conv2d_resample(x, w, f, up, down, padding, groups, flip_weight, flip_filter)

    def _get_weight_shape(w):
        return [int(size) for size in w.shape]

    def _conv2d_wrapper(x, w, stride=1, padding=0, groups=1, transpose=False, flip_weight=True):
        run = ops.conv_transpose2d if transpose else ops.conv2d
        return run(x, w if flip_weight else w.flip(2, 3), stride=stride, padding=padding, groups=groups)

    names = _named(module, conv2d_resample, _get_weight_shape, _conv2d_wrapper)
    return names | _shared_with_upfirdn2d(module)


# ---- the rest --------------------------------------------------------------------------------------------------------------
def grid_sample_gradfix_names(module: ModuleType) -> Names:
    """torch_utils.ops.grid_sample_gradfix; ``enabled = False`` makes it torch's own, which differentiates once."""

    def grid_sample(input, grid):
        if _should_use_custom_op():
            return ops.grid_sample(input, grid)
        return torch.nn.functional.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def _should_use_custom_op():
        return bool(module.enabled)

    names = _named(module, grid_sample, _should_use_custom_op)
    return names | {
        "enabled": True,
        "_GridSample2dForward": SimpleNamespace(apply=lambda input, grid: ops.grid_sample(input, grid)),
    }


def fma_names(module: ModuleType) -> Names:
    """torch_utils.ops.fma."""

    def fma(a, b, c):
        if all(isinstance(t, Tensor) for t in (a, b, c)) and a.dtype == b.dtype == c.dtype:
            return torch.addcmul(c, a, b)  # broadcasts, and differentiates to any order
        return a * b + c

    def _unbroadcast(x, shape):
        return x.sum_to_size(shape)

    return _named(module, fma, _unbroadcast) | {"_FusedMultiplyAdd": SimpleNamespace(apply=lambda a, b, c: fma(a, b, c))}


PLUGINS = ("bias_act_plugin", "filtered_lrelu_plugin", "upfirdn2d_plugin")


def custom_ops_names(module: ModuleType) -> Names:
    """torch_utils.custom_ops: the three known plugins need no build; others go to the codebase's own ``get_plugin``."""
    own = vars(module).get("get_plugin")

    def get_plugin(module_name, *args, **kwargs):
        if module_name in PLUGINS:
            return Plugin(module_name)
        if own is None:
            raise RuntimeError(f"get_plugin: gankern has no plugin {module_name!r}, and there is no checkout to build it; "
                               f"known: {', '.join(PLUGINS)}")  # fmt: skip
        return own(module_name, *args, **kwargs)

    return _named(module, get_plugin) | {
        "verbosity": vars(module).get("verbosity", "brief"),
        "_cached_plugins": vars(module).get("_cached_plugins", {}),
    }


def _named(module: ModuleType, *functions: Callable[..., Any]) -> Names:
    """By name, as functions of ``module``: tracebacks and pickles say where they are found."""
    for function in functions:
        function.__module__, function.__qualname__ = module.__name__, function.__name__
    return {function.__name__: function for function in functions}


OPS: Mapping[str, Callable[[ModuleType], Names]] = {
    "bias_act": bias_act_names,
    "conv2d_gradfix": conv2d_gradfix_names,
    "conv2d_resample": conv2d_resample_names,
    "filtered_lrelu": filtered_lrelu_names,
    "fma": fma_names,
    "grid_sample_gradfix": grid_sample_gradfix_names,
    "upfirdn2d": upfirdn2d_names,
}
"""Module of ``torch_utils.ops`` -> its names."""

REQUIRED: Mapping[str, Sequence[str]] = {
    "bias_act": ("bias_act", "activation_funcs"),
    "conv2d_gradfix": ("conv2d", "conv_transpose2d", "no_weight_gradients", "enabled"),
    "conv2d_resample": ("conv2d_resample",),
    "filtered_lrelu": ("filtered_lrelu",),
    "fma": ("fma",),
    "grid_sample_gradfix": ("grid_sample", "enabled"),
    "upfirdn2d": ("setup_filter", "upfirdn2d", "filter2d", "upsample2d", "downsample2d"),
}
"""The public names by which a codebase is known."""


def served_ops() -> list[Served]:
    """``torch_utils``, its ``ops`` and ``custom_ops``."""
    folders = [Served(name, lambda _: {}, "absent", package=True) for name in ("torch_utils", "torch_utils.ops")]
    modules = [Served(f"torch_utils.ops.{name}", names) for name, names in OPS.items()]
    return [*folders, *modules, Served("torch_utils.custom_ops", custom_ops_names)]
