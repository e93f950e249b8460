"""Convolutions of a recorded program, with what follows them folded into weight, bias and oneDNN's activation.

Folded are constant factors and addends per channel (biases, batch normalisation in evaluation mode) and one activation behind
them. Weights go into oneDNN's own order once, when compiling, where that is measured to be faster for the shape at hand.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankern._activations import activation_funcs
from gankern.inference._record import CONVOLUTIONS, Node, Program, aten, storage_of, tensors

_NAMES = {spec.index: name for name, spec in activation_funcs.items()}
# Activations that oneDNN applies to what it computes, by our names: its name, and whether a positive gain can go into
# the weight.
_FUSED = {"linear": ("none", True), "relu": ("relu", True), "lrelu": ("leaky_relu", True)}
_FUSED |= {"tanh": ("tanh", False), "sigmoid": ("sigmoid", False)}
_PLAIN_ACTS = {
    "aten.relu.default": "relu",
    "aten.relu_.default": "relu",
    "aten.leaky_relu.default": "lrelu",
    "aten.leaky_relu_.default": "lrelu",
    "aten.tanh.default": "tanh",
    "aten.tanh_.default": "tanh",
    "aten.sigmoid.default": "sigmoid",
    "aten.sigmoid_.default": "sigmoid",
}
_IN_PLACE = {
    "relu": aten.relu_.default,
    "lrelu": aten.leaky_relu_.default,
    "tanh": aten.tanh_.default,
    "sigmoid": aten.sigmoid_.default,
}
_BATCH_NORMS = {"aten._native_batch_norm_legit_no_training.default", "aten.native_batch_norm.default"}


@dataclass
class Step:
    """A call behind a convolution as ``act(z * scale + shift) * gain``, per channel; and what it makes."""

    out: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None
    act: str = "linear"
    alpha: float = 0.0
    gain: float = 1.0


def has_onednn(t: Tensor) -> bool:
    """Whether PyTorch's oneDNN convolutions take such images."""
    if t.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    ops = torch.ops.mkldnn
    if not hasattr(ops, "_convolution_pointwise") or not hasattr(ops, "_reorder_convolution_weight"):
        return False
    if t.dtype == torch.float32:
        return True
    if t.dtype == torch.bfloat16:
        return bool(ops._is_mkldnn_bf16_supported())
    return t.dtype == torch.float16 and bool(ops._is_mkldnn_fp16_supported())


def _step(node: Node, z: Tensor, program: Program) -> Step | None:
    """``node`` as a step behind a convolution that made ``z``; None if it is none, or is not constant per channel."""
    here = storage_of(z)
    a = node.args
    constant = all(
        not program.is_dynamic(t) for t in node.reads() if storage_of(t) not in {here, *map(storage_of, node.writes)}
    )
    if not constant or not a or not isinstance(a[0], Tensor) or storage_of(a[0]) != here or a[0].shape != z.shape:
        return None
    name = node.name
    if name == "gankern_native.bias_act_cpu.default":
        _, b, noise, y, _, channels, _, act, alpha, gain, clamp = a
        if noise is not None or clamp >= 0 or (b is not None and channels != z.shape[1]):
            return None
        return Step(y, None, b, _NAMES[act], alpha, gain)
    if name == "gankern_native.modulate_cpu.default":
        _, scale, noise, b, y, _, _, _, act, alpha, gain, clamp = a
        if noise is not None or clamp >= 0:
            return None
        if scale is not None:
            scale = scale.reshape(z.shape[0], z.shape[1])
            if not bool((scale == scale[:1]).all()):
                return None
            scale = scale[0]
        return Step(y, scale, b, _NAMES[act], alpha, gain)
    if name in _BATCH_NORMS:
        _, weight, bias, mean, var, *rest = a
        training, eps = (False, rest[1]) if "no_training" in name else (rest[0], rest[2])
        if training or mean is None or var is None:
            return None
        scale = (var.double() + eps).rsqrt()
        scale = scale if weight is None else scale * weight.double()
        shift = -mean.double() * scale + (0 if bias is None else bias.double())
        return Step(node.outs[0], scale, shift)
    if name in _PLAIN_ACTS and not node.kwargs:
        alpha = float(a[1]) if len(a) > 1 else 0.01
        return Step(node.outs[0], act=_PLAIN_ACTS[name], alpha=alpha)
    return None


def fold(program: Program) -> int:
    """Fold what follows convolutions into them, and pack their weights; gives how many calls went away."""
    users: dict[int, list[Node]] = defaultdict(list)
    for node in program.nodes:
        for key in {storage_of(t) for t in (*node.reads(), *node.outs)}:
            users[key].append(node)
    gone: set[int] = set()
    replaced: dict[int, list[Node]] = {}
    kept_outside = {storage_of(t) for t in tensors(program.outputs)}
    for node in program.nodes:
        if id(node) in gone or node.func not in CONVOLUTIONS or not isinstance(node.args[1], Tensor):
            continue
        x, w, b, _, _, _, transposed, _, groups = node.args[:9]
        if program.is_dynamic(w) or (b is not None and program.is_dynamic(b)) or x.dim() != 4 or not has_onednn(x):
            continue
        weight, bias, act, alpha = w.double(), None if b is None else b.double(), "linear", 0.0
        axis = _output_axis(weight, transposed, groups)
        z = node.outs[0]
        while act == "linear" and axis is not None:
            rest = [n for n in users[storage_of(z)] if n is not node and id(n) not in gone]
            step = _step(rest[0], z, program) if rest and not rest[0].random else None
            if step is None or not _mergeable(step, z, rest, kept_outside):
                break
            if step.act not in _FUSED or (step.act == "lrelu" and step.alpha < 0):
                break
            if step.gain != 1 and (not _FUSED[step.act][1] or step.gain <= 0):
                break
            if step.scale is not None:
                weight = weight * _along(step.scale.double(), axis, weight.dim())
                bias = None if bias is None else bias * step.scale.double()
            if step.shift is not None:
                bias = step.shift.double() if bias is None else bias + step.shift.double()
            weight, bias = weight * step.gain, None if bias is None else bias * step.gain
            act, alpha = step.act, step.alpha
            gone.add(id(rest[0]))
            users[storage_of(step.out)] = [node, *(n for n in users[storage_of(step.out)] if n is not node)]
            z = step.out
        made = weight.to(w.dtype), None if bias is None else bias.to(w.dtype)
        replaced[id(node)] = _pack(node, *made, z, act, alpha, program)
    program.nodes = [m for n in program.nodes if id(n) not in gone for m in replaced.get(id(n), [n])]
    for node in program.nodes:
        _normalise(node, program)
    return len(gone)


def _normalise(node: Node, program: Program) -> None:
    """Batch normalisation in evaluation mode that no convolution took: one multiplication and addition per channel."""
    if node.name not in _BATCH_NORMS or node.args[0].dtype not in (torch.float32, torch.float64):
        return
    x = node.args[0]
    step = _step(node, x, program)
    if step is None or step.scale is None or step.shift is None:
        return
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    scale, shift = step.scale.to(x.dtype).view(shape), step.shift.to(x.dtype).view(shape)
    program.keep += [scale, shift, node.outs]
    node.func, node.args, node.kwargs, node.outs = aten.addcmul.default, (shift, x, scale), {}, node.outs[:1]
    node.note = "batch normalisation"


def _mergeable(step: Step, z: Tensor, rest: Sequence[Node], kept_outside: set[int]) -> bool:
    """Whether nobody else sees ``z``: the step works in place, or nothing after it reads ``z``."""
    if step.out.shape != z.shape or step.out.stride() != z.stride() or step.out.dtype != z.dtype:
        return False
    if storage_of(step.out) == storage_of(z):
        return step.out.storage_offset() == z.storage_offset()
    return len(rest) == 1 and storage_of(z) not in kept_outside


def _output_axis(weight: Tensor, transposed: bool, groups: int) -> int | None:
    """The weight's axis of output channels; None where they are spread over groups."""
    if not transposed:
        return 0
    return 1 if groups == 1 else None


def _along(values: Tensor, axis: int, dim: int) -> Tensor:
    shape = [1] * dim
    shape[axis] = -1
    return values.view(shape)


# ---- packing ---------------------------------------------------------------------------------------------------------------
@dataclass
class _Choice:
    """One way to convolve: calls for the images ``x`` into ``z``, in words, and how to try it on images of the recorded run."""

    note: str
    nodes: Callable[[], list[Node]]
    attempt: Callable[[], Any]


_chosen: dict[str, str] = {}
"""Which way was the fastest, by shape: measured once in a process."""


def _pack(node: Node, w: Tensor, b: Tensor | None, z: Tensor, act: str, alpha: float, program: Program) -> list[Node]:
    """The fastest calls for a convolution with this weight, bias and activation into ``z``."""
    x, _, _, stride, padding, dilation, transposed, output_padding, groups = node.args[:9]
    settings = (stride, padding, dilation, transposed, output_padding, groups)
    last = x.is_contiguous(memory_format=torch.channels_last)
    flop = 2 * w.numel() * x.shape[0] * (x if transposed else z).shape[2:].numel()
    program.keep += [w, b]
    choices = [_own(x, w, b, z, settings, act, alpha, last)]
    packed = _packed(x, w, b, z, settings, act, alpha)
    if packed is not None:
        choices.insert(0, packed)
    if last and not transposed and groups == 1 and w.shape[2:].numel() == 1 and x.shape[2:] == z.shape[2:]:
        product = _product(x, w, b, z, act, alpha)
        if product is not None:
            choices.append(product)
    shown = (list(x.shape), last, list(w.shape), w.dtype, settings, b is None, act, torch.get_num_threads())
    note = fastest(repr(shown), {choice.note: choice.attempt for choice in choices})
    made = next((choice for choice in choices if choice.note == note), choices[0])
    nodes = made.nodes()
    main = next(n for n in nodes if not n.view)
    main.flop, main.note = flop, made.note
    for each in nodes:
        program.keep += [each.args, each.outs]
    return nodes


def _packed(x: Tensor, w: Tensor, b: Tensor | None, z: Tensor, settings: Any, act: str, alpha: float) -> _Choice | None:
    """OneDNN with a weight in its own order and the activation inside; None for shapes that it does not take."""
    stride, padding, dilation, transposed, output_padding, groups = settings
    ops, size = torch.ops.mkldnn, list(x.shape)
    attr = _FUSED[act][0]
    scalars = [alpha] if act == "lrelu" else []
    rest: tuple[Any, ...]
    try:
        if transposed:
            weight = ops._reorder_convolution_transpose_weight(w, padding, output_padding, stride, dilation, groups, size)
            func = ops._convolution_transpose_pointwise.default
            rest = (weight, b, padding, output_padding, stride, dilation, groups, attr, scalars, "")
        else:
            weight = ops._reorder_convolution_weight(w, padding, stride, dilation, groups, size)
            func = ops._convolution_pointwise.default
            rest = (weight, b, padding, stride, dilation, groups, attr, scalars, "")
        made = func(x, *rest)
    except RuntimeError:
        return None
    if made.shape != z.shape or not _same_strides(made, z):
        return None
    note = "packed" + ("" if act == "linear" else f", {attr} in it")
    return _Choice(note, lambda: [Node(func, (x, *rest), {}, [z])], lambda: func(x, *rest))


def _acts(z: Tensor, act: str, alpha: float) -> list[Node]:
    """The activation in place, by itself."""
    if act == "linear":
        return []
    return [Node(_IN_PLACE[act], (z, alpha) if act == "lrelu" else (z,), {}, [], [z])]


def _own(x: Tensor, w: Tensor, b: Tensor | None, z: Tensor, settings: Any, act: str, alpha: float, last: bool) -> _Choice:
    """PyTorch's convolution, and its activation."""
    turned = w.contiguous(memory_format=torch.channels_last) if last else w.contiguous()
    call = Node(aten.convolution.default, (x, turned, b, *settings), {}, [z])
    acts = _acts(z, act, alpha)
    scratch = torch.empty_like(z)

    def attempt() -> None:
        aten.convolution.default(x, turned, b, *settings)
        for n in _acts(scratch, act, alpha):
            n.func(*n.args)

    return _Choice("PyTorch's own", lambda: [call, *acts], attempt)


def _product(x: Tensor, w: Tensor, b: Tensor | None, z: Tensor, act: str, alpha: float) -> _Choice | None:
    """A kernel of one tap as a matrix product, pixels times channels; None where pixels do not lie one after the other."""
    pixels, inputs, outputs = x.shape[0] * x.shape[2:].numel(), x.shape[1], z.shape[1]
    matrix = w.flatten(1).t().contiguous()
    rows = x.permute(0, 2, 3, 1)
    flat = rows.reshape(pixels, inputs)
    into = z.permute(0, 2, 3, 1).reshape(pixels, outputs)
    if storage_of(flat) != storage_of(x) or storage_of(into) != storage_of(z):
        return None
    scratch = torch.empty(pixels, outputs, dtype=z.dtype)

    def run(source: Tensor, target: Tensor) -> list[Node]:
        if b is None:
            return [Node(torch.mm, (source, matrix), {"out": target}, [], [target])]
        return [Node(torch.addmm, (b, source, matrix), {"out": target}, [], [target])]

    def nodes() -> list[Node]:
        views = [
            Node(aten.permute.default, (x, [0, 2, 3, 1]), {}, [rows], view=True),
            Node(aten.view.default, (rows, [pixels, inputs]), {}, [flat], view=True),
        ]
        return [*views, *run(flat, into), *_acts(z, act, alpha)]

    def attempt() -> None:
        for n in (*run(flat, scratch), *_acts(scratch, act, alpha)):
            n.func(*n.args, **n.kwargs)

    return _Choice("as a product", nodes, attempt)


def fastest(key: str, attempts: Mapping[str, Callable[[], Any]]) -> str:
    """The name with the least of a few runs. The first one stays unless another one is faster by more than noise."""
    if key not in _chosen:
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        best = dict.fromkeys(attempts, float("inf"))
        for attempt in attempts.values():
            attempt()
        begin = time.perf_counter()
        for _ in range(20):
            for name, attempt in attempts.items():
                start = clock()
                attempt()
                best[name] = min(best[name], clock() - start)
            if time.perf_counter() - begin > 0.1:
                break
        best[next(iter(best))] *= 0.95
        _chosen[key] = min(best, key=best.__getitem__)
    return _chosen[key]


def phases(w: Tensor) -> Tensor:
    """The kernel [4 O, I, 2, 2] that makes, with padding 1, what a transposed convolution of stride 2 with ``w`` [O, I, 3, 3]
    makes.

    Rows of its result are 2 h + a, with the weight's tap 2 for the pixel before and 0 for that at h where a is 0, and tap 1 for
    that at h where a is 1; columns alike. Phase (a, b) is the channels from (2 a + b) O on; the last odd row and column are 0.
    """
    o, i = w.shape[:2]
    made = w.new_zeros(2, 2, o, i, 2, 2)
    for a, ys in enumerate((((0, 2), (1, 0)), ((1, 1),))):
        for b, xs in enumerate((((0, 2), (1, 0)), ((1, 1),))):
            for r, y in ys:
                for c, x in xs:
                    made[a, b, :, :, r, c] = w[:, :, y, x]
    return made.view(4 * o, i, 2, 2)


def faster_as_phases(images: Tensor, w: Tensor) -> bool:
    """Whether :func:`phases` beats the transposed convolution: 16 taps for 9, of a kind that oneDNN is better at."""
    if not has_onednn(images):
        return False
    ops, size, packed = torch.ops.mkldnn, list(images.shape), phases(w)
    one, two, none = [1, 1], [2, 2], [0, 0]
    try:
        plain = ops._reorder_convolution_transpose_weight(w.transpose(0, 1), none, none, two, one, 1, size)
        packed = ops._reorder_convolution_weight(packed, one, one, one, 1, size)
        attempts = {
            "transposed": lambda: ops._convolution_transpose_pointwise(
                images, plain, None, none, none, two, one, 1, "none", [], ""
            ),
            "phases": lambda: ops._convolution_pointwise(images, packed, None, one, one, one, 1, "none", [], ""),
        }
        key = repr(("up", size, list(w.shape), w.dtype, torch.get_num_threads()))
        return fastest(key, attempts) == "phases"
    except RuntimeError:
        return False


def _same_strides(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of a shape lie alike in memory; axes of one element do not matter."""
    return all(s == t for s, t, n in zip(a.stride(), b.stride(), a.shape, strict=True) if n != 1)


__all__ = ["faster_as_phases", "fold", "has_onednn", "phases"]
