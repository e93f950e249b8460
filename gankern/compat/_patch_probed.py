"""Layers of other people's classes that :func:`gankern.patch` knows by what they hold, and believes only after a trial.

A candidate is recognised by its attributes. Then a copy of it, in float64, runs on random numbers with its own forward method
and with gankern's: values, gradients in inputs and parameters, and the gradients of a gradient penalty must agree, in training
and in evaluation mode. What does not agree is left as it is.

The forward methods take positional arguments of the usual kind; with any others the module's own forward method runs.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankern import _usage, ops
from gankern.compat._patch_layers import FORWARDS, Patch, Patched, patched_class, usual

TOLERANCE = 1e-6
"""Largest relative difference (of norms, float64) of a trial: epsilons may stand in other places, formulas may not differ."""

EPS = 1e-8
"""What demodulation adds to the sum of squares in gankern."""


# ---- modulated convolutions --------------------------------------------------------------------------------------------
class _StyledConv2d(Patched):
    """``ModulatedConv2d(...)(input, style)`` of the PyTorch StyleGAN2 family: the style passes the layer's own affine layer."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        own: Any = self
        if kwargs or len(args) != 2 or not (usual(args[0]) and isinstance(args[1], Tensor)) or args[1].dim() != 2:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        weight, taps = own.weight[0], own.kernel_size
        padding: Any = taps // 2
        up = 2 if getattr(own, "upsample", False) else 1
        down = 2 if getattr(own, "downsample", False) else 1
        f = None
        if up > 1 or down > 1:
            f, (before, after) = own.blur.kernel, own.blur.pad
            f = f / up**2  # it has the gain of upsampling in it, which the operator has, too
            # The original pads the blur alone and upsamples with a full transposed convolution; the operator pads once.
            side = f.shape[-1]
            if up > 1:
                padding = [taps - 1 + before - (side + 1) // 2, taps - 2 + after - (side - 2) // 2]
            else:
                padding = [before - (side - 1) // 2, after - (side - 2) // 2]
            padding = [*padding, *padding]
        style = own.modulation(args[1]) * getattr(own, "scale", 1)
        return ops.modulated_conv2d(
            args[0], weight, style, up=up, down=down, padding=padding, resample_filter=f, demodulate=own.demodulate,
            flip_weight=up == 1,
        )  # fmt: skip


class _Conv2DMod(Patched):
    """``Conv2DMod(...)(x, y)``: y is the style minus 1."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        own: Any = self
        if kwargs or len(args) != 2 or not (usual(args[0]) and isinstance(args[1], Tensor)) or args[1].dim() != 2:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        padding = (own.kernel - 1) // 2
        return ops.modulated_conv2d(args[0], own.weight, args[1] + 1, padding=padding, demodulate=own.demod)


class _AdaptiveConv2DMod(Patched):
    """``AdaptiveConv2DMod(...)(fmap, mod, kernel_mod)`` of GigaGAN: each sample mixes its kernel."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        own: Any = self
        named = {**dict(zip(("fmap", "mod", "kernel_mod"), args, strict=False)), **kwargs}
        x, mod, mix = named.get("fmap"), named.get("mod"), named.get("kernel_mod")
        mix = None if isinstance(mix, Tensor) and mix.numel() == 0 else mix
        kernels = own.weights.shape[0]
        plain = len(named) == len(args) + len(kwargs) <= 3 and isinstance(x, Tensor) and usual(x)
        # A modulation of fewer samples than images, repeated for images of several scales, is the original's business.
        if not plain or not _rows(mod, x) or ((kernels > 1 or mix is not None) and not _rows(mix, x)):
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        assert isinstance(x, Tensor) and isinstance(mod, Tensor)
        settings: dict[str, Any] = {"padding": (own.kernel - 1) // 2, "demodulate": own.demod}
        if mix is None:
            return ops.modulated_conv2d(x, own.weights[0], mod + 1, **settings)
        return ops.modulated_conv2d(x, own.weights, mod + 1, kernel_mix=mix.softmax(-1), **settings)


def _rows(styles: Any, x: Any) -> bool:
    return isinstance(styles, Tensor) and styles.dim() == 2 and styles.shape[0] == x.shape[0]


# ---- layers without parameters -----------------------------------------------------------------------------------------
class _PixelNorm(Patched):
    """Settings: eps, and the numbers of dimensions that were tried."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        eps, dims = self._gankern_patch.settings
        if (
            kwargs
            or len(args) != 1
            or not (isinstance(args[0], Tensor) and args[0].dim() in dims and usual(args[0], args[0].dim()))
        ):
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        return ops.pixel_norm(args[0], 1, eps)


class _MinibatchStdDev(Patched):
    """Settings: group size, or None for the whole batch, and channels."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        group, channels = self._gankern_patch.settings
        if kwargs or len(args) != 1 or not usual(args[0]) or args[0].shape[0] == 0:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        batch = args[0].shape[0]
        group = batch if group is None else min(group, batch)
        if batch % group:  # codebases differ here
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        return ops.minibatch_stddev(args[0], group, channels)


FORWARDS.update(
    styled_conv2d=_StyledConv2d,
    conv2d_mod=_Conv2DMod,
    adaptive_conv2d_mod=_AdaptiveConv2DMod,
    pixel_norm=_PixelNorm,
    minibatch_stddev=_MinibatchStdDev,
)


# ---- recognition -------------------------------------------------------------------------------------------------------
Inputs = list[tuple[Tensor, ...]]
Draw = Callable[..., Tensor]
Candidate = tuple[Patch, Callable[[Draw], Inputs]]


class Unfit(Exception):
    """It looks like a layer that gankern knows, but is not: why."""


def candidates(module: nn.Module) -> tuple[str, list[Candidate]] | None:
    """The operator that this module may be, and what to try; None where it is like nothing that is known.

    Raises:
        Unfit: it is a known layer with settings that no operator has.
    """
    for recognise in (_styled, _conv_mod, _adaptive, _pixel, _stddev):
        found = recognise(module)
        if found is not None:
            return found
    return None


def _weight(module: Any, name: str, dim: int) -> Tensor | None:
    weight = module._parameters.get(name)
    return weight if weight is not None and weight.dim() == dim and weight.shape[-1] == weight.shape[-2] else None


def _check_eps(module: Any) -> None:
    for name in ("eps", "epsilon"):
        if getattr(module, name, EPS) != EPS:
            raise Unfit(f"its {name} is {getattr(module, name)!r}: the operator's is {EPS}")


def _check_arguments(module: nn.Module, least: int, most: int) -> None:
    """Require a forward method that can be called with so many positional arguments."""
    parameters = inspect.signature(module.forward).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    more = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    if more or not required <= most or not len(positional) >= least:
        raise Unfit(f"its forward method takes {inspect.signature(module.forward)}")


def _styled(module: Any) -> tuple[str, list[Candidate]] | None:
    weight, modulation = _weight(module, "weight", 5), getattr(module, "modulation", None)
    if weight is None or weight.shape[0] != 1 or not isinstance(modulation, nn.Module) or not hasattr(module, "demodulate"):
        return None
    _check_eps(module)
    _check_arguments(module, 2, 2)
    style = getattr(modulation, "weight", None)
    if not isinstance(style, Tensor) or style.dim() != 2:
        raise Unfit("its modulation is not a fully connected layer")
    if getattr(module, "sample_mode", None) is not None:
        raise Unfit(f"its sample_mode {module.sample_mode!r} is not the operator's resampling")
    up, down = (bool(getattr(module, name, False)) for name in ("upsample", "downsample"))
    if getattr(module, "kernel_size", None) != weight.shape[-1]:
        raise Unfit(f"its kernel_size is {getattr(module, 'kernel_size', None)!r}, its weight {list(weight.shape)}")
    if up and down:
        raise Unfit("it has both upsample and downsample")
    if up or down:
        blur: Any = getattr(module, "blur", None)
        kernel, pad = getattr(blur, "kernel", None), getattr(blur, "pad", None)
        square = isinstance(kernel, Tensor) and kernel.dim() == 2 and kernel.shape[0] == kernel.shape[1]
        if not square or not isinstance(pad, Sequence) or len(pad) != 2:
            raise Unfit("its resampling filter is not blur.kernel with blur.pad")

    def draw(random: Draw) -> Inputs:
        return [(random(2, weight.shape[2], 8, 6), random(2, style.shape[1]))]

    return "modulated_conv2d", [(Patch(type(module), "styled_conv2d"), draw)]


def _check_stride(module: Any) -> None:
    for name in ("stride", "dilation"):
        if getattr(module, name, 1) != 1:
            raise Unfit(f"its {name} is {getattr(module, name)!r}: the operator has 1")


def _conv_mod(module: Any) -> tuple[str, list[Candidate]] | None:
    weight = _weight(module, "weight", 4)
    if weight is None or not hasattr(module, "demod") or getattr(module, "kernel", None) != weight.shape[-1]:
        return None
    if len(list(module.parameters())) != 1:
        raise Unfit("it has more parameters than its weight")
    _check_eps(module)
    _check_stride(module)
    _check_arguments(module, 2, 2)

    def draw(random: Draw) -> Inputs:
        return [(random(2, weight.shape[1], 8, 6), random(2, weight.shape[1]))]

    return "modulated_conv2d", [(Patch(type(module), "conv2d_mod"), draw)]


def _adaptive(module: Any) -> tuple[str, list[Candidate]] | None:
    weight = _weight(module, "weights", 5)
    if weight is None or not hasattr(module, "demod") or getattr(module, "kernel", None) != weight.shape[-1]:
        return None
    if len(list(module.parameters())) != 1:
        raise Unfit("it has more parameters than its weights")
    _check_eps(module)
    _check_stride(module)
    _check_arguments(module, 3, 3)
    names = list(inspect.signature(module.forward).parameters)
    if names[:3] != ["fmap", "mod", "kernel_mod"]:
        raise Unfit(f"its forward method takes {', '.join(names)}")

    def draw(random: Draw) -> Inputs:
        x, mod = random(2, weight.shape[2], 8, 6), random(2, weight.shape[2])
        return [(x, mod, random(2, weight.shape[0]))] if weight.shape[0] > 1 else [(x, mod)]

    return "modulated_conv2d", [(Patch(type(module), "adaptive_conv2d_mod"), draw)]


def _bare(module: nn.Module, pattern: str) -> bool:
    """Whether it has a name like this, and neither parameters nor buffers nor modules."""
    inside = (*module.parameters(), *module.buffers(), *module.children())
    return re.search(pattern, type(module).__name__, re.IGNORECASE) is not None and not inside


def _settings(module: Any, names: Sequence[str], kind: type | tuple[type, ...], otherwise: Any) -> Any:
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, kind) and not isinstance(value, bool):
            return value
    return otherwise


def _pixel(module: nn.Module) -> tuple[str, list[Candidate]] | None:
    if not _bare(module, r"pixel_?(wise)?_?norm"):
        return None
    _check_arguments(module, 1, 1)
    own = _settings(module, ("eps", "epsilon"), float, None)

    def candidate(eps: float, dims: tuple[int, ...]) -> Candidate:
        sizes = {2: (3, 8), 4: (3, 8, 5, 4)}

        def draw(random: Draw) -> Inputs:
            # Small numbers show where an epsilon of this size stands.
            return [(random(*sizes[dim]) * scale,) for dim in dims for scale in (1.0, eps**0.5)]

        return Patch(type(module), "pixel_norm", (eps, dims)), draw

    epsilons = [own] if own else [1e-8, 1e-6, 1e-5]
    return "pixel_norm", [candidate(eps, dims) for dims in ((2, 4), (4,), (2,)) for eps in epsilons]


def _stddev(module: nn.Module) -> tuple[str, list[Candidate]] | None:
    if not _bare(module, r"mini_?batch_?(std|stddev|standard)"):
        return None
    _check_arguments(module, 1, 1)
    channels = _settings(module, ("num_channels", "num_new_features", "stddev_feat", "num_features"), int, 1)
    group = _settings(module, ("group_size", "group", "stddev_group"), int, None)

    def draw(random: Draw) -> Inputs:
        whole = [n for n in (1, 2, 3, 4, 6, 8) if group is None or n % min(n, group) == 0]
        return [(random(n, 4 * channels, 4, 3),) for n in whole]

    return "minibatch_stddev", [(Patch(type(module), "minibatch_stddev", (group, channels)), draw)]


def likeness(module: nn.Module) -> Any:
    """A key that modules share if what one does tells what the other does: class, settings, sizes and buffers, of all inside.

    None where an attribute is of a kind that two modules cannot be compared by.
    """
    parts: list[Any] = []
    for name, inside in module.named_modules():
        settings = {k: v for k, v in vars(inside).items() if k not in _INTERNALS}
        if not all(_plain(v) for v in settings.values()) or any(
            b is not None and b.numel() > 64 for b in inside._buffers.values()
        ):
            return None
        hooks = tuple(map(id, (*inside._forward_pre_hooks.values(), *inside._forward_hooks.values())))
        sizes = [(k, None if p is None else (*p.shape, p.dtype, p.device)) for k, p in inside._parameters.items()]
        buffers = [(k, None if b is None else (b.tolist(), b.dtype)) for k, b in inside._buffers.items()]
        parts.append((name, type(inside), settings, hooks, sizes, buffers))
    return repr(parts)


_INTERNALS = frozenset(vars(nn.Module()))


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


# ---- the trial ---------------------------------------------------------------------------------------------------------
def trial(module: nn.Module, patch: Patch, draw: Callable[[Draw], Inputs]) -> str | None:
    """None if gankern's forward method gives what the module's own does; else what is different.

    On a copy, on the device of the parameters; the states of random number generators stay as they are.
    """
    tensors = [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    if device.type == "meta":
        return "on the meta device it cannot be tried"
    accelerators = [device.index or 0] if device.type == "cuda" else []
    with (
        _usage.uncounted(),
        torch.random.fork_rng(accelerators),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        try:
            tried = copy.deepcopy(module).to(torch.float64).requires_grad_()
            results = []
            for cls in (type(tried), patched_class(patch)):
                tried.__class__ = cls
                results.append(list(_results(tried, device, draw)))
        except Exception as error:
            lines = str(error).strip().splitlines()
            return f"its trial failed: {type(error).__name__}: {lines[0] if lines else ''}"
    for (what, theirs), (_, ours) in zip(*results, strict=True):
        if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
            return f"its {what} are {list(theirs.shape)} of {theirs.dtype}, the operator's {list(ours.shape)} of {ours.dtype}"
        theirs, ours = theirs.detach(), ours.detach()
        apart = float((theirs - ours).norm() / theirs.norm().clamp_min(1e-300))
        if not apart <= TOLERANCE and not (theirs.norm() == 0 and ours.norm() == 0):
            return f"its {what} differ from the operator's by {apart:.1e} of their norm"
    return None


def _results(module: nn.Module, device: torch.device, draw: Callable[[Draw], Inputs]) -> Iterator[tuple[str, Tensor]]:
    """Values, gradients and second derivatives of every input in both modes; the same numbers at every call."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(device)

    for mode in (True, False):
        module.train(mode)
        for inputs in draw(random):
            leaves = [t.clone().requires_grad_() for t in inputs]
            y = module(*leaves)
            yield "values", y
            inside = [*leaves, *module.parameters()]
            grads = torch.autograd.grad(y, inside, random(*y.shape), create_graph=True, allow_unused=True)
            yield from (("gradients", g) for g in grads if g is not None)
            penalty = sum(g.square().sum() for g in grads[: len(leaves)] if g is not None)
            assert isinstance(penalty, Tensor)
            seconds = torch.autograd.grad(penalty, inside, allow_unused=True)
            yield from (
                ("second derivatives", torch.zeros_like(t) if g is None else g) for g, t in zip(seconds, inside, strict=True)
            )
