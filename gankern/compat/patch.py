"""``gankern.patch(model)``: the layers of a model that exists, run by gankern's operators."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from gankern.compat import _patch_layers as layers
from gankern.compat import _patch_probed as probed
from gankern.compat._patch_layers import Patch


@dataclass(frozen=True)
class PatchRow:
    """One layer of a report.

    Attributes:
        name: its name in ``model.named_modules()``; that of its weight for a spectral norm.
        layer: the name of its class.
        state: 'swapped', 'left', or 'already' (by an earlier call).
        detail: the operators that run it now, or why it was left.
    """

    name: str
    layer: str
    state: str
    detail: str


@dataclass(frozen=True)
class PatchReport:
    """What :func:`patch` did with each layer, in the order of ``model.named_modules()``. ``print(report)`` shows a table."""

    rows: tuple[PatchRow, ...]

    def _of(self, state: str) -> tuple[PatchRow, ...]:
        return tuple(row for row in self.rows if row.state == state)

    @property
    def swapped(self) -> tuple[PatchRow, ...]:
        """Layers that gankern runs from now on."""
        return self._of("swapped")

    @property
    def left(self) -> tuple[PatchRow, ...]:
        """Layers that stay as they were, and why."""
        return self._of("left")

    @property
    def already(self) -> tuple[PatchRow, ...]:
        """Layers that an earlier call had swapped."""
        return self._of("already")

    def __str__(self) -> str:
        groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for row in self.rows:
            groups[row.state, row.layer, row.detail].append(row.name or "(model)")
        order = ("swapped", "already", "left")
        lines = [
            (f"{state} {len(names)} x", layer, ", ".join(names[:3]) + (", ..." if len(names) > 3 else ""), detail)
            for (state, layer, detail), names in sorted(groups.items(), key=lambda item: order.index(item[0][0]))
        ]
        widths = [max((len(line[i]) for line in lines), default=0) for i in range(3)]
        table = ["  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[3]]) for line in lines]
        counts = f"gankern.patch: {len(self.swapped)} layers swapped, {len(self.left)} left"
        if self.already and not self.swapped:
            counts = f"gankern.patch: nothing to do: {len(self.already)} layers are patched already, {len(self.left)} left"
        elif self.already:
            counts += f", {len(self.already)} patched already"
        return "\n".join([counts, *table])


@dataclass
class _Plan:
    """Changes of classes, decided before the first is made."""

    classes: list[tuple[Any, type[Any]]] = field(default_factory=list)
    rows: list[PatchRow] = field(default_factory=list)
    trials: dict[tuple[Any, Patch], str | None] = field(default_factory=dict)

    def swap(self, name: str, module: nn.Module, patch: Patch, detail: str) -> None:
        self.classes.append((module, layers.patched_class(patch)))
        self.rows.append(PatchRow(name, _name(module), "swapped", detail))

    def trial(self, module: nn.Module, patch: Patch, draw: Any) -> str | None:
        """As of _patch_probed, once for modules that are alike."""
        like = probed.likeness(module)
        if like is None:
            return probed.trial(module, patch, draw)
        if (like, patch) not in self.trials:
            self.trials[like, patch] = probed.trial(module, patch, draw)
        return self.trials[like, patch]

    def note(self, name: str, module: nn.Module, state: str, detail: str) -> None:
        self.rows.append(PatchRow(name, _name(module), state, detail))


def patch(
    model: nn.Module,
    *,
    convs: bool = True,
    norms: bool = True,
    activations: bool = True,
    modulated: bool = True,
    spectral_norms: bool = True,
) -> PatchReport:
    """Let gankern's operators run the layers of a model, in place, with the same parameters.

    Layers that are recognised get another forward method; the modules, their parameters, buffers, hooks and names stay what
    they are. Optimizers made before keep working, and checkpoints of before and after can be exchanged. Values, gradients and
    second derivatives agree up to rounding. :func:`unpatch` undoes it.

    ============================================================  ======================================================
    layer                                                         becomes
    ============================================================  ======================================================
    ``nn.Conv2d``, ``nn.ConvTranspose2d``                         :func:`gankern.ops.conv2d`, ``conv_transpose2d``
    ``nn.InstanceNorm2d`` (with running statistics: in training)  :func:`gankern.ops.instance_norm`
    ReLU, LeakyReLU, SiLU, Sigmoid or Tanh behind one of these    the same call (instance norm), or
    or behind an ``nn.Linear``, in an ``nn.Sequential``           :func:`gankern.ops.bias_act` together with the bias
    spectral norm, as a hook and as a parametrization             :func:`gankern.ops.spectral_norm`
    modulated convolutions of the StyleGAN2 and GigaGAN           :func:`gankern.ops.modulated_conv2d`
    implementations in PyTorch
    pixel norm, minibatch standard deviation                      :func:`gankern.ops.pixel_norm`, ``minibatch_stddev``
    ============================================================  ======================================================

    The last two rows are other people's classes: recognised by their attributes, tried in float64 on random numbers beside the
    original, second derivatives included, and left where anything differs. A layer with a forward method of its own is left.
    Where a hook looks at what goes between a layer and its activation, both run one after the other, as before.

    A patched model can be copied, pickled (loading needs gankern), moved, converted, compiled, wrapped in
    DistributedDataParallel, and switched between training and evaluation. Call it after weights were initialised where that
    code compares types exactly (``type(m) is nn.Conv2d``); ``isinstance`` and class names stay true.

    Args:
        model: any module; modules inside it are found through ``model.modules()``.
        convs: swap convolutions, whose second derivatives (R1, WGAN-GP) become cheap. Default True.
        norms: swap instance norms, pixel norms and minibatch standard deviations. Default True.
        activations: fuse activations into the layer before them. Default True.
        modulated: swap modulated convolutions. Default True.
        spectral_norms: swap spectral norms. Default True.

    Returns:
        A :class:`PatchReport`: what was swapped, and what was left and why. Layers that are patched already stay so, whatever
        the options; a model all of whose layers are is not changed, and the report says so.

    Raises:
        TypeError: ``model`` is not a module, or an option is not a bool. Nothing was changed then.
    """
    options = {
        "convs": convs, "norms": norms, "activations": activations, "modulated": modulated, "spectral_norms": spectral_norms,
    }  # fmt: skip
    _check_model("patch", model)
    for name, value in options.items():
        if not isinstance(value, bool):
            raise TypeError(f"patch: {name} must be True or False, got {value!r}")
    plan = _Plan()
    fusions = _fusions(model, options)
    for name, module in model.named_modules():
        _decide(plan, name, module, options, fusions)
    done: list[tuple[Any, type[Any]]] = []
    try:
        for target, cls in plan.classes:
            before = type(target)
            target.__class__ = cls
            done.append((target, before))
    except BaseException:
        for target, before in done:
            target.__class__ = before
        raise
    return PatchReport(tuple(plan.rows))


def unpatch(model: nn.Module) -> int:
    """Give every layer that :func:`patch` swapped its own forward method back; everything else stays as it is.

    Args:
        model: any module.

    Returns:
        How many modules and hooks were changed back.

    Raises:
        TypeError: ``model`` is not a module.
    """
    _check_model("unpatch", model)
    count = 0
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if type(hook) is layers.SpectralNormHook:
                hook.__class__ = SpectralNorm  # type: ignore[assignment]
                count += 1
        if layers.patch_of(type(module)) is not None:
            module.__class__ = layers.original_class(type(module))
            count += 1
    return count


def _check_model(function: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        hint = ": an instance of it" if isinstance(model, type) and issubclass(model, nn.Module) else ""
        raise TypeError(f"{function}: model must be a torch.nn.Module{hint}, got {model!r:.80}")


# ---- which layers ------------------------------------------------------------------------------------------------------
_CALLS = (
    "forward",
    "__call__",
    "_call_impl",
    "_wrapped_call_impl",
    "__getattr__",
    "__setattr__",
    "__reduce__",
    "__reduce_ex__",
)
_CONV = (*_CALLS, "_conv_forward")
_TRANSPOSE = (*_CALLS, "_output_padding")
_NORM = (*_CALLS, "_check_input_dim", "_apply_instance_norm", "_handle_no_batch_input", "_get_no_batch_dim")

# Base class, methods that must be its own, kind, operator, option.
_Entry = tuple[type[nn.Module], tuple[str, ...], str, str, str]
_BUILT_IN: tuple[_Entry, ...] = (
    (nn.Conv2d, _CONV, "conv2d", "conv2d", "convs"),
    (nn.ConvTranspose2d, _TRANSPOSE, "conv_transpose2d", "conv_transpose2d", "convs"),
    (nn.InstanceNorm2d, _NORM, "instance_norm2d", "instance_norm", "norms"),
)

_SPECTRAL_NORM = getattr(parametrizations, "_SpectralNorm", None)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, parametrize.ParametrizationList)


def _name(module: nn.Module) -> str:
    return type(module).__name__


def _keeps(cls: type[Any], base: type[Any], methods: tuple[str, ...]) -> list[str]:
    """Those of the methods that ``cls`` does not have from ``base``."""
    cls = cls.__bases__[0] if layers.parametrized(cls) else cls
    return [method for method in methods if getattr(cls, method, None) is not getattr(base, method, None)]


def _obstacle(module: nn.Module, base: type[Any], methods: tuple[str, ...]) -> str | None:
    """Why a module of PyTorch's class ``base``, or of one derived from it, cannot be swapped; None if it can."""
    own = _keeps(type(module), base, methods)
    if own:
        return f"it is a {base.__name__} with {own[0]} of its own"
    if "forward" in module.__dict__:
        return "its forward method was replaced on the object"
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() or t.is_complex()]
    strange = [t.dtype for t in tensors if t.dtype not in layers.DTYPES]
    if strange:
        return f"its dtype {strange[0]} is none of float32, float64, bfloat16, float16"
    if isinstance(module, nn.InstanceNorm2d) and not module.eps > 0:
        return f"its eps is {module.eps}: the operator needs a positive one"
    return None


def _built_in(module: nn.Module) -> _Entry | None:
    lazy = isinstance(module, nn.modules.lazy.LazyModuleMixin)
    return None if lazy else next((entry for entry in _BUILT_IN if isinstance(module, entry[0])), None)


def _kind(module: nn.Module, options: dict[str, bool]) -> str | None:
    """The kind that a layer, if an activation is fused into it, is or will be."""
    patch = layers.patch_of(type(module))
    if patch is not None:
        return patch.kind
    if isinstance(module, nn.Linear) and not isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return None if _obstacle(module, nn.Linear, _CALLS) else "linear"
    entry = _built_in(module)
    if entry is None or _obstacle(module, entry[0], entry[1]):
        return None
    if options[entry[4]]:
        return entry[2]
    return f"plain_{entry[2]}" if entry[4] == "convs" else None


def _has_bias(module: nn.Module) -> bool:
    parametrizations: Any = getattr(module, "parametrizations", {})
    return module._parameters.get("bias") is not None or "bias" in parametrizations


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Sequential, nn.Module, nn.Module]]:
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            inside = list(module._modules.values())
            yield from ((module, a, b) for a, b in itertools.pairwise(inside) if a is not None and b is not None)


@dataclass
class _Fusions:
    """Activations that a layer before them can take into its call, by id of the modules."""

    sequences: set[int] = field(default_factory=set)
    layers: dict[int, str] = field(default_factory=dict)
    """Kinds of the layers."""
    activations: dict[int, tuple[str, str]] = field(default_factory=dict)
    """State and detail of their rows: those that are fused, and those that something prevents."""


def _fusions(model: nn.Module, options: dict[str, bool]) -> _Fusions:
    found = _Fusions()
    if not options["activations"]:
        return found
    for sequence, first, second in _pairs(model):
        kind = _kind(first, options)
        if type(second) not in layers.ACTIVATIONS or kind not in layers.WITH_ACT:
            continue
        before = layers.patch_of(type(sequence))
        if kind != "instance_norm2d" and not _has_bias(first):
            found.activations.setdefault(id(second), ("left", f"the {_name(first)} before it has no bias to fuse it with"))
        elif before is None and _obstacle(sequence, nn.Sequential, (*_CALLS, "__iter__")):
            found.activations.setdefault(id(second), ("left", f"its {_name(sequence)} does not run as nn.Sequential does"))
        elif not layers.between(first, second):
            found.activations.setdefault(id(second), ("left", "a hook looks at what goes between it and the layer before it"))
        else:
            state = "swapped" if before is None or layers.patch_of(type(first)) is None else "already"
            found.sequences.add(id(sequence))
            found.layers[id(first)] = kind
            found.activations[id(second)] = (state, f"in the call of the {_name(first)} before it")
    return found


def _decide(plan: _Plan, name: str, module: nn.Module, options: dict[str, bool], fusions: _Fusions) -> None:
    """Plan what becomes of one module."""
    _spectral_hooks(plan, name, module, options)
    patch = layers.patch_of(type(module))
    entry = _built_in(module)
    if patch is not None:
        if patch.kind != "sequential":
            plan.note(name, module, "already", "patched already")
    elif isinstance(module, torch.jit.ScriptModule):
        if not list(module.children()):
            plan.note(name, module, "left", "TorchScript: patch before scripting")
    elif isinstance(module, nn.Sequential) and id(module) in fusions.sequences:
        plan.classes.append((module, layers.patched_class(Patch(type(module), "sequential"))))
    elif type(module) in layers.ACTIVATIONS:
        nothing = "no layer with a bias and no instance norm stands right before it in an nn.Sequential"
        otherwise = ("left", nothing if options["activations"] else "activations=False")
        plan.note(name, module, *fusions.activations.get(id(module), otherwise))
    elif entry is not None:
        _layer(plan, name, module, entry, options, fusions)
    elif isinstance(module, nn.Linear):
        obstacle = _obstacle(module, nn.Linear, _CALLS)
        if id(module) in fusions.layers:
            plan.swap(name, module, Patch(type(module), "linear"), "its bias in bias_act")
        else:
            plan.note(name, module, "left", obstacle or "no activation to fuse its bias with behind it in an nn.Sequential")
    elif type(module) is _SPECTRAL_NORM:
        _switched(plan, name, module, options["spectral_norms"], "spectral_norm", module.eps)
    else:
        _other(plan, name, module, options)


def _layer(plan: _Plan, name: str, module: nn.Module, entry: _Entry, options: dict[str, bool], fusions: _Fusions) -> None:
    """A convolution or an instance norm."""
    base, methods, kind, operator, option = entry
    obstacle = _obstacle(module, base, methods)
    if obstacle is not None:
        plan.note(name, module, "left", obstacle)
    elif options[option]:
        plan.swap(name, module, Patch(type(module), kind), operator + (" and bias_act" if _apart(module, fusions) else ""))
    elif id(module) in fusions.layers:
        plan.swap(name, module, Patch(type(module), fusions.layers[id(module)]), "its bias in bias_act")
    else:
        plan.note(name, module, "left", f"{option}=False")


def _apart(module: nn.Module, fusions: _Fusions) -> bool:
    """Whether its activation runs in bias_act."""
    return fusions.layers.get(id(module), "instance_norm2d") != "instance_norm2d"


def _switched(plan: _Plan, name: str, module: nn.Module, wanted: bool, kind: str, eps: Any) -> None:
    if not wanted:
        plan.note(name, module, "left", "spectral_norms=False")
    elif not eps > 0:
        plan.note(name, module, "left", f"its eps is {eps}: the operator needs a positive one")
    else:
        plan.swap(name, module, Patch(type(module), kind), kind)


def _spectral_hooks(plan: _Plan, name: str, module: nn.Module, options: dict[str, bool]) -> None:
    """The hooks of torch.nn.utils.spectral_norm."""
    for hook in module._forward_pre_hooks.values():
        if not isinstance(hook, SpectralNorm):
            continue
        row = (f"{name}.{hook.name}" if name else hook.name, "spectral_norm hook")
        if type(hook) is layers.SpectralNormHook:
            plan.rows.append(PatchRow(*row, "already", "patched already"))
        elif type(hook) is not SpectralNorm:
            plan.rows.append(PatchRow(*row, "left", f"it is a SpectralNorm of a class of its own, {type(hook).__name__}"))
        elif not options["spectral_norms"] or not hook.eps > 0:
            why = (
                f"its eps is {hook.eps}: the operator needs a positive one"
                if options["spectral_norms"]
                else "spectral_norms=False"
            )
            plan.rows.append(PatchRow(*row, "left", why))
        else:
            plan.classes.append((hook, layers.SpectralNormHook))
            plan.rows.append(PatchRow(*row, "swapped", "spectral_norm"))


def _other(plan: _Plan, name: str, module: nn.Module, options: dict[str, bool]) -> None:
    """Other people's classes, and layers that gankern has nothing for."""
    if any(is_lazy(t) for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        return plan.note(name, module, "left", "lazy: it has no parameters before its first call")
    try:
        found = probed.candidates(module)
        if found is not None:
            operator, tries = found
            option = "modulated" if operator == "modulated_conv2d" else "norms"
            if not options[option]:
                raise probed.Unfit(f"{option}=False")
            own = [method for method in _keeps(type(module), nn.Module, _CALLS) if method != "forward"]
            if own or "forward" in module.__dict__:
                raise probed.Unfit(
                    f"its class has {own[0]} of its own" if own else "its forward method was replaced on the object"
                )
            why: list[str | None] = []
            for patch, draw in tries:
                why.append(plan.trial(module, patch, draw))
                if why[-1] is None:
                    return plan.swap(name, module, patch, operator)
            raise probed.Unfit(f"like {operator}, but {why[0]}")
    except probed.Unfit as reason:
        return plan.note(name, module, "left", str(reason))
    inside = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if not isinstance(module, _CONTAINERS) and (inside or not list(module.children())):
        plan.note(name, module, "left", "no layer that gankern knows")
