"""The ``op`` package of rosinality's stylegan2-pytorch and of the many codebases that contain it, on gankern's operators.

While it is installed

- ``op.fused_act``, ``op.upfirdn2d`` and ``op.conv2d_gradfix`` are gankern's: the extension that they compile when they are
  imported is neither compiled nor needed, on any device; ``op/__init__.py`` itself runs if there is one;
- the same holds for such packages under other names (``models.stylegan2.op``), where they are found on ``sys.path``;
- classes like that codebase's ``ModulatedConv2d`` use :func:`gankern.ops.modulated_conv2d`: same weights, values and
  derivatives, without weights for each sample;
- the ``grid_sample`` of its augmentation, which fails in backward on PyTorch of today, is :func:`gankern.ops.grid_sample`.

What was imported before is patched in place, and restored by :func:`uninstall`.

Source of the interface: Karras et al. 2020 in the form of github.com/rosinality/stylegan2-pytorch.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from gankern import _dispatch, _usage, ops
from gankern.compat import _detect
from gankern.compat._shims import Changes, Options, Served, Shim, _forget
from gankern.compat.nvlabs._ops import conv2d_gradfix_names
from gankern.ops.upfirdn2d.reference import upfirdn2d_reference


def install(*, packages: Sequence[str] | None = None, modulated_conv: bool = True) -> None:
    """Have codebases with rosinality's ``op`` package run on gankern, whether they are imported already or later.

    Args:
        packages: full names of packages that hold ``fused_act`` and ``upfirdn2d``. Default None: 'op', and all that are found
            in the folders of ``sys.path`` (those of installed packages excepted), some levels deep.
        modulated_conv: replace ``forward`` of classes that are like ``ModulatedConv2d``: found by the arguments of
            ``__init__`` and ``forward``, and tried on a small input first. Default True.

    Installations are counted; with the same arguments it may be called again, by any thread.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value, or other ones than those it is installed with.
    """
    _SHIM.install(**_options(packages, modulated_conv))


def uninstall() -> None:
    """Take back one :func:`install`; the last one restores every module, class and function.

    Raises:
        RuntimeError: it is not installed.
    """
    _SHIM.uninstall()


def installed(*, packages: Sequence[str] | None = None, modulated_conv: bool = True) -> AbstractContextManager[None]:
    """Scope in which it is installed: ``with rosinality.installed(): ...``. Arguments and errors of :func:`install`."""
    return _SHIM.installed(**_options(packages, modulated_conv))


def is_installed() -> bool:
    """Whether it is installed."""
    return _SHIM.active


def _options(packages: Sequence[str] | None, modulated_conv: bool) -> dict[str, Any]:
    if packages is not None:
        if isinstance(packages, str) or not all(isinstance(name, str) for name in packages):
            raise TypeError(f"install: packages must be a sequence of names or None, got {packages!r}")
        for name in packages:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"install: packages must be full names such as 'models.stylegan2.op', got {name!r}")
        packages = tuple(packages)
    if not isinstance(modulated_conv, bool):
        raise TypeError(f"install: modulated_conv must be a bool, got {modulated_conv!r}")
    return {"packages": packages, "modulated_conv": modulated_conv}


def _packages(options: Options) -> list[str]:
    if options["packages"] is not None:
        return list(options["packages"])
    found = ["op"]
    for entry in dict.fromkeys(Path(entry or ".").resolve() for entry in sys.path):
        if entry.is_dir() and not _is_installation(entry):
            found += _detect.op_packages(entry)
    return list(dict.fromkeys(found))


def _is_installation(folder: Path) -> bool:
    """Whether a folder of sys.path holds installed packages or the standard library."""
    installed = {"site-packages", "dist-packages", "lib-dynload"} & set(folder.parts)
    return bool(installed) or (folder / "site.py").is_file()


# ---- the package -------------------------------------------------------------------------------------------------------
def _fused_leaky_relu(input: Tensor, bias: Tensor | None = None, negative_slope: float = 0.2, scale: float = 2**0.5) -> Tensor:
    return ops.bias_act(input, None if bias is None else bias.reshape(-1), 1, "lrelu", negative_slope, scale)


def _paddings(pad: Any) -> list[int]:
    """[x0, x1, y0, y1] of ``pad``: (before, after) of both axes, or all four."""
    values = [pad] * 2 if isinstance(pad, int) else [int(value) for value in pad]
    if len(values) not in (2, 4):
        raise ValueError(f"upfirdn2d: pad must be (before, after) or (x0, x1, y0, y1), got {pad!r}")
    return values * 2 if len(values) == 2 else values


def _upfirdn2d(input: Tensor, kernel: Tensor, up: Any = 1, down: Any = 1, pad: Any = (0, 0)) -> Tensor:
    return ops.upfirdn2d(input, kernel, up, down, _paddings(pad))


_CALLED = {"fused_leaky_relu", "upfirdn2d"}


class _Package:
    """What one package of this kind defines; functions and classes are its own, so that pickles find them by their names."""

    def __init__(self, name: str) -> None:
        self.name = name

        def fused_leaky_relu(input, bias=None, negative_slope=0.2, scale=2**0.5):  # type: ignore[no-untyped-def]
            """``scale * leaky_relu(input + bias)``, the bias along dimension 1, in one pass."""
            return _fused_leaky_relu(input, bias, negative_slope, scale)

        class FusedLeakyReLU(nn.Module):
            """Bias [channel] (learned, from 0), leaky ReLU and scale, in one pass."""

            def __init__(self, channel, bias=True, negative_slope=0.2, scale=2**0.5):  # type: ignore[no-untyped-def]
                super().__init__()
                self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
                self.negative_slope, self.scale = negative_slope, scale

            def forward(self, input):  # type: ignore[no-untyped-def]
                """Of any shape [N, channel, ...]."""
                return _fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)

        def upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0)):  # type: ignore[no-untyped-def]
            """Upsample, pad (before, after) on both axes, convolve with ``kernel`` and downsample, in one pass."""
            return _upfirdn2d(input, kernel, up, down, pad)

        def upfirdn2d_native(input, kernel, up_x, up_y, down_x, down_y, pad_x0, pad_x1, pad_y0, pad_y1):  # type: ignore[no-untyped-def]
            """The same in plain PyTorch."""
            return upfirdn2d_reference(input, kernel, [up_x, up_y], [down_x, down_y], [pad_x0, pad_x1, pad_y0, pad_y1])

        self.parts: dict[str, dict[str, Any]] = {
            "fused_act": self._own("fused_act", FusedLeakyReLU, fused_leaky_relu)
            | {"FusedLeakyReLUFunction": SimpleNamespace(apply=_fused_leaky_relu)},
            "upfirdn2d": self._own("upfirdn2d", upfirdn2d, upfirdn2d_native) | {"UpFirDn2d": SimpleNamespace(apply=_upfirdn2d)},
        }

    def _own(self, module: str, *objects: Any) -> dict[str, Any]:
        for one in objects:
            one.__module__, one.__qualname__ = f"{self.name}.{module}", one.__name__
        return {one.__name__: one for one in objects}

    def part(self, part: str) -> Callable[[ModuleType], Mapping[str, Any]]:
        """What its module ``part`` defines."""

        def names(module: ModuleType) -> Mapping[str, Any]:
            own, real = self.parts[part], vars(module)
            # Of a real module, which has been imported already, the function: there are objects of its class, and they call it.
            return {name: own[name] for name in _CALLED if name in own} if _CALLED & set(real) else own

        return names

    def whole(self, module: ModuleType) -> Mapping[str, Any]:
        """What the package itself defines."""
        if sys.modules.get(self.name) is module:
            # Now, because a module that is imported later would take the name of the function of the same name.
            for part in self.parts:
                importlib.import_module(f"{self.name}.{part}")
        real = vars(module)
        names = {name: own[name] for own in self.parts.values() for name in _CALLED if name in own}
        if not isinstance(real.get("FusedLeakyReLU"), type):
            names["FusedLeakyReLU"] = self.parts["fused_act"]["FusedLeakyReLU"]
        return {name: value for name, value in names.items() if real.get(name) is not value}

    def served(self) -> Iterable[Served]:
        """The package and its modules."""
        yield Served(self.name, self.whole, package=True)
        for part in self.parts:
            yield Served(f"{self.name}.{part}", self.part(part), mode="replace")
        yield Served(f"{self.name}.conv2d_gradfix", _gradfix, mode="replace")


def _gradfix(module: ModuleType) -> Mapping[str, Any]:
    def could_use_op(input):  # type: ignore[no-untyped-def]
        """Whether gankern's convolution runs: ``enabled``, on every device."""
        return bool(vars(module).get("enabled", True))

    could_use_op.__module__, could_use_op.__qualname__ = module.__name__, "could_use_op"
    return dict(conv2d_gradfix_names(module)) | {"could_use_op": could_use_op}


# ---- ModulatedConv2d -----------------------------------------------------------------------------------------------------
_INIT = ["self", "in_channel", "out_channel", "kernel_size", "style_dim", "demodulate", "upsample", "downsample", "blur_kernel"]
_FORWARD = ["self", "input", "style"]


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def is_modulated_conv(cls: Any) -> bool:
    """Whether a class has the arguments of ``ModulatedConv2d``, in ``__init__`` (``fused`` may be missing) and ``forward``."""
    if not isinstance(cls, type) or not issubclass(cls, nn.Module) or not {"__init__", "forward"} <= set(vars(cls)):
        return False
    made = _parameters(vars(cls)["__init__"])
    return made in (_INIT, [*_INIT, "fused"]) and _parameters(vars(cls)["forward"]) == _FORWARD


def _blur(module: Any, up: int) -> tuple[Tensor, list[int]] | None:
    """Taps of a module's blur, with a gain of 1, and (before, after) as it pads; None if it is another kind of blur."""
    blur = getattr(module, "blur", None)
    taps, pad = getattr(blur, "kernel", None), getattr(blur, "pad", None)
    if not isinstance(taps, Tensor) or taps.dim() != 2 or taps.shape[0] != taps.shape[1] or len(_tuple(pad)) != 2:
        return None
    return taps / up**2 if up > 1 else taps, [int(value) for value in _tuple(pad)]


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else ()


def modulated_conv_forward(module: Any, input: Tensor, style: Tensor) -> Tensor | None:
    """What ``ModulatedConv2d.forward(input, style)`` computes, or None if the module's attributes are others.

    Upsampling is a transposed convolution, then the blur; downsampling the blur, then a strided convolution. Both are
    :func:`gankern.ops.conv2d_resample` with paddings that count differently.
    """
    weight, side = module.weight, module.kernel_size
    if weight.dim() != 5 or weight.shape[0] != 1 or weight.shape[3:] != (side, side) or (module.upsample and module.downsample):
        return None
    up, down = 2 if module.upsample else 1, 2 if module.downsample else 1
    taps: Tensor | None = None
    padding = [module.padding] * 2
    if up > 1 or down > 1:
        blur = _blur(module, up)
        if blur is None:
            return None
        taps, (before, after) = blur
        size = taps.shape[0]
        if up > 1:  # the transposed convolution is full: k - 1 more on each side, but without the last zeros
            padding = [side - 1 + before - (size + up - 1) // 2, side - up + after - (size - up) // 2]
        else:
            padding = [before - (size - down + 1) // 2, after - (size - down) // 2]
    return ops.modulated_conv2d(
        input, weight.squeeze(0) * module.scale, module.modulation(style), up=up, down=down, padding=padding * 2,
        resample_filter=taps, demodulate=bool(module.demodulate), flip_weight=up == 1,
    )  # fmt: skip


def _replacement(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(self: Any, input: Tensor, style: Tensor) -> Tensor:
        """In place of this class's own; gone when the shim is uninstalled."""
        made = modulated_conv_forward(self, input, style)
        return plain(self, input, style) if made is None else made

    forward.__wrapped__ = plain  # type: ignore[attr-defined]
    return forward


def computes_the_same(cls: Any) -> bool:
    """Whether small modules of a class give what :func:`modulated_conv_forward` gives, in all its modes, and nothing fails."""
    plain = vars(cls)["forward"]
    modes: list[dict[str, Any]] = [
        {}, {"kernel_size": 1, "demodulate": False}, {"upsample": True}, {"downsample": True},
        {"upsample": True, "kernel_size": 1, "blur_kernel": [1, 2, 1]},
    ]  # fmt: skip
    # On the CPU, and neither counted, forced onto a backend nor seen in the random numbers that follow.
    with (
        torch.random.fork_rng([]),
        torch.device("cpu"),
        torch.no_grad(),
        _usage.uncounted(),
        _dispatch.use_backend("reference"),
    ):
        try:
            for mode in modes:
                made = cls(**{"in_channel": 3, "out_channel": 2, "kernel_size": 3, "style_dim": 4, **mode}).double()
                input, style = torch.randn(2, 3, 6, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
                expected, ours = plain(made, input, style), modulated_conv_forward(made, input, style)
                if ours is None or ours.shape != expected.shape or not torch.allclose(ours, expected, rtol=1e-9, atol=1e-12):
                    return False
        except Exception:
            return False  # another thing under the same names: it stays as it is
    return True


# ---- installation --------------------------------------------------------------------------------------------------------
_known: list[str] = []
"""The packages that are served now."""


def _served(options: Options) -> list[Served]:
    _known[:] = _packages(options)
    return [one for name in _known for one in _Package(name).served()]


def _visit(module: ModuleType, changes: Changes, options: Options) -> None:
    name = module.__name__
    part = sys.modules.get(f"{name}.fused_act") if name in _known else None
    if getattr(getattr(part, "__spec__", None), "origin", None) == "gankern":
        changes.call(lambda: _forget(module))  # a package that was imported with our modules goes with them
    if options["modulated_conv"]:
        for cls in [value for value in vars(module).values() if is_modulated_conv(value) and value.__module__ == name]:
            if not hasattr(vars(cls)["forward"], "__wrapped__") and computes_the_same(cls):
                changes.set(cls, "forward", _replacement(vars(cls)["forward"]))
    if _is_grid_sample(vars(module).get("grid_sample")):
        changes.set(module, "grid_sample", ops.grid_sample)


def _is_grid_sample(function: Any) -> bool:
    """Whether it is the codebase's own twice differentiable grid_sample, ``GridSampleForward.apply``.

    Its backward gets an operator from PyTorch in a way that has changed since: training with augmentation fails.
    """
    owner = getattr(function, "__self__", None)
    return isinstance(owner, type) and issubclass(owner, torch.autograd.Function) and owner.__name__ == "GridSampleForward"


_SHIM = Shim("gankern.compat.rosinality", _served, _visit)

__all__ = ["install", "installed", "is_installed", "uninstall"]
