"""Modulated convolutions for inference: scale, convolve, and one pass over the result that does everything up to the next one.

While recording, a modulated convolution is written down as: its style as a factor on the images, a convolution with the weight
that all samples share, and the tail (``modulated_conv2d_tail``: resampling filter, demodulation, noise, bias, activation,
clamp). The RGB layer is a tail without a convolution. Afterwards :func:`link` makes the tail apply the next layer's style and
accumulate the RGB output, so that what a convolution made is passed over once; :func:`merge_products` makes all styles of one w
in one product.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from gankern._activations import activation_funcs, representable
from gankern._library import NATIVE
from gankern._resampling import total_padding
from gankern.inference import _factors
from gankern.inference._convolutions import faster_as_phases, phases
from gankern.inference._factors import Wanted
from gankern.inference._record import Node, Program, Recorder, aten, storage_of, tensors, turned
from gankern.ops.conv2d_resample.plan import steps

_HALF = (torch.bfloat16, torch.float16)
_TAPS, _COLOURS = 4, 3  # as the kernel has them
# Arguments of the kernel.
Z, TAPS, SCALE, NOISE, BIAS, NEXT, RGB_WEIGHT, BASE, Y, RGB, ACT, GAIN, CLAMP = 0, 2, 5, 6, 7, 8, 9, 11, 12, 13, 14, 16, 17
_FILTERED, _STYLED = "gankern_native.filtered_lrelu_cpu.default", "filtered_lrelu_styled_cpu"


def tail() -> Any:
    """The native operator; None where the native library is missing, or older than it and what it needs."""
    if NATIVE.reason("cpu", "modulated_conv2d_tail") is not None or _factors.operator() is None:
        return None
    return torch.ops.gankern_native.modulated_conv2d_tail_cpu.default


def separable(f: Tensor, gain: float) -> Tensor | None:
    """Four taps along y and four along x, in the order of correlation, times ``gain``; None if ``f`` is not of that kind."""
    f = f.double()
    if f.dim() == 1:
        fy = fx = f
    else:
        total = f.sum()
        if total == 0:
            return None
        fy, fx = f.sum(1), f.sum(0) / total
        if not torch.allclose(torch.outer(fy, fx), f, rtol=1e-5, atol=1e-7 * float(f.abs().max())):
            return None
    if fy.numel() != _TAPS or fx.numel() != _TAPS:
        return None
    return torch.cat([fy.flip(0), fx.flip(0) * gain]).float()


def lower(
    recorder: Recorder, x: Tensor, weight: Tensor, styles: Tensor, input_gain: Tensor | None, demodulate: bool,
    noise: Tensor | None, b: Tensor | None, f: Tensor | None, up: int, down: int, padding: Any, flip_weight: bool,
    act: str, alpha: float, gain: float, clamp: float,
) -> Any:  # fmt: skip
    """``gankern::modulated_conv2d_inference`` as three steps; NotImplemented where there is no such form."""
    run = tail()
    fixed = [t for t in (weight, b, f) if t is not None]
    if run is None or x.dtype not in (torch.float32, *_HALF) or any(storage_of(t) in recorder.dynamic for t in fixed):
        return NotImplemented
    if input_gain is not None and (
        storage_of(input_gain) in recorder.dynamic or not bool((input_gain == input_gain[:1]).all())
    ):
        return NotImplemented  # no constant of the layer
    o, _, kh, kw = weight.shape
    x0, x1, y0, y1 = padding
    if down != 1 or up not in (1, 2) or (up == 1 and not x0 == x1 == y0 == y1 >= 0):
        return NotImplemented
    taps, before, crop, phased = None, (0, 0), [0, 0], False
    if up == 2:
        plan = steps((kh, kw), total_padding("compile_generator", f, up, down, padding), f is not None, up, down, 1)
        if [s.op for s in plan] != ["conv_transpose2d", "upfirdn2d"] or f is None:
            return NotImplemented
        taps = separable(f, float(plan[1].settings["gain"]))
        if taps is None:
            return NotImplemented
        crop = list(plan[0].settings["padding"])
        left, right, top, bottom = plan[1].settings["padding"]
        before = (top, left)
    clamp = clamp if clamp < 0 else representable(clamp, x.dtype)
    index = activation_funcs[act].index
    plain = act == "linear" and gain == 1 and noise is None and not demodulate
    rgb_only = kh == kw == 1 and o == _COLOURS and up == 1 and x0 == 0 and plain
    w, wanted = _wanted(weight, input_gain, demodulate, rgb_only, x.dtype == torch.float16)
    a, *rest = _factors.launch(recorder, styles, wanted)
    a, d = a if rgb_only else a[:, 0], rest[0] if rest else None
    with recorder:
        bias = None if b is None else b.float().contiguous()
        if rgb_only:
            rgb = torch.empty((x.shape[0], o, *x.shape[2:]), dtype=torch.float32)
            run(turned(x), False, None, 0, 0, None, None, None, None, a, bias, None, None, rgb, 0, 0.0, 1.0, -1.0, clamp)
            return rgb.to(x.dtype)
        images = torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last)
        torch.ops.gankern.modulate_into.default(x, a, None, None, "linear", 0.0, 1.0, -1.0, images)
        kernel = w.to(x.dtype)
        if up == 2:
            kernel = kernel.flip(2, 3) if flip_weight else kernel
            size = [2 * n + k - 2 - 2 * c for n, k, c in zip(x.shape[2:], (kh, kw), crop, strict=True)]
            height, width = size[0] + top + bottom - _TAPS + 1, size[1] + left + right - _TAPS + 1
            phased = kh == kw == 3 and crop == [0, 0] and faster_as_phases(images, kernel)
            if phased:
                z = aten.convolution.default(images, phases(kernel), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            else:
                z = aten.convolution.default(images, kernel.transpose(0, 1), None, [2, 2], crop, [1, 1], True, [0, 0], 1)
        else:
            kernel = kernel if flip_weight else kernel.flip(2, 3)
            z = aten.convolution.default(images, kernel, None, [1, 1], [y0, x0], [1, 1], False, [0, 0], 1)
            height, width = z.shape[2:]
        z = turned(z)
        y = torch.empty((x.shape[0], o, height, width), dtype=x.dtype, memory_format=torch.channels_last)
        shared = None if noise is None else noise.float().expand(noise.shape[0], 1, height, width).contiguous()
        run(z, phased, taps, *before, d, shared, bias, None, None, None, None, y, None, index, alpha, gain, clamp, -1.0)
    return y


def _wanted(
    weight: Tensor, input_gain: Tensor | None, demodulate: bool, rgb_only: bool, half: bool
) -> tuple[Tensor, list[Wanted]]:
    """The weight to convolve with; what scales its input channels (or is the RGB layer's weight) and, if so, demodulates.

    As the operator's, see factors.py. Images in bfloat16 have the range of float32, and need no normalised factors.
    """
    gain = weight.new_ones(1, weight.shape[1]) if input_gain is None else input_gain[:1].expand(1, weight.shape[1])
    if rgb_only:
        return weight, [Wanted(weight.flatten(1) * gain)]
    if not demodulate:
        return weight, [Wanted(gain)]
    q, norms = weight.square().sum((2, 3)), None
    if half:
        norms = (q.sum(1) + torch.finfo(torch.float32).tiny).rsqrt()
        weight, q = weight * norms[:, None, None, None], q * norms[:, None].square()
    return weight, [Wanted(gain, normalised=half), Wanted(q, demodulated=True, normalised=half, norms=norms)]


# ---- passes ----------------------------------------------------------------------------------------------------------------
def _touched(node: Node) -> set[int]:
    return {storage_of(t) for t in (*node.reads(), *node.outs)}


def _same(a: Any, b: Tensor) -> bool:
    """Whether two tensors are the same elements."""
    return (
        isinstance(a, Tensor)
        and storage_of(a) == storage_of(b)
        and (a.shape, a.stride(), a.storage_offset(), a.dtype) == (b.shape, b.stride(), b.storage_offset(), b.dtype)
    )


def _scales(node: Node, y: Tensor) -> bool:
    """Whether a call is ``y`` times a factor per channel and nothing else."""
    if node.name != "gankern_native.modulate_cpu.default":
        return False
    x, scale, noise, b, out, last, _, _, act, _, gain, clamp = node.args
    plain = noise is None and b is None and act == activation_funcs["linear"].index and gain == 1 and clamp < 0
    return bool(plain and last and scale is not None and scale.dim() == 2 and _same(x, y) and not _same(out, y))


def _colours(node: Node, y: Tensor) -> bool:
    """Whether a call makes RGB of ``y`` and nothing else."""
    if node.func is not tail() or not _same(node.args[Z], y):
        return False
    return node.args[Y] is None and node.args[RGB] is not None and node.args[BASE] is None


def _accumulation(program: Program, node: Node) -> tuple[list[Node], Tensor, Tensor] | None:
    """What adds the RGB of ``node`` to an image: (calls that go away, that image, the sum); None if there is no such."""
    rgb: Tensor = node.args[RGB]
    gone: list[Node] = []
    t = rgb
    while True:
        users = [n for n in program.nodes if n is not node and n not in gone and storage_of(t) in _touched(n)]
        if len(users) != 1 or any(storage_of(t) == storage_of(o) for o in tensors(program.outputs)):
            return None
        user = users[0]
        gone.append(user)
        if user.name in ("aten._to_copy.default", "aten.to.dtype") and len(user.outs) == 1:
            t = user.outs[0]
            continue
        break
    if user.name != "aten.add.Tensor" or user.kwargs or len(user.args) != 2 or t.dtype != torch.float32:
        return None
    others = [a for a in user.args if a is not t]
    out = user.outs[0]
    if len(others) != 1 or not isinstance(others[0], Tensor) or out.dtype != torch.float32:
        return None
    base = others[0]
    if base.shape != rgb.shape or base.dtype != torch.float32 or not base.is_contiguous() or not out.is_contiguous():
        return None
    return gone, base, out


def _hoist(program: Program, target: Node, consumer: Node, needed: list[Tensor]) -> bool:
    """Move what makes ``needed`` in front of ``target``; False, and nothing moved, where it depends on it."""
    nodes = program.nodes
    begin, end = nodes.index(target), nodes.index(consumer)
    need = {storage_of(t) for t in needed if program.is_dynamic(t)}
    moved: list[Node] = []
    for node in reversed(nodes[begin + 1 : end]):
        makes = {storage_of(t) for t in (*node.outs, *node.writes)}
        if makes & need:
            if node.random:
                return False
            moved.append(node)
            need |= {storage_of(t) for t in node.reads()}
    moved.reverse()
    made_here = {storage_of(t) for t in (*target.outs, *target.writes)}
    if need & made_here:
        return False
    stay = [node for node in nodes[begin + 1 : end] if node not in moved]
    writes: set[int] = set()  # of moved calls further down: what stays before them would see them too early
    for node in reversed(nodes[begin + 1 : end]):
        if node in moved:
            writes |= {storage_of(t) for t in node.writes}
        elif _touched(node) & writes:
            return False
    program.nodes = [*nodes[:begin], *moved, target, *stay, *nodes[end:]]
    return True


def link(program: Program) -> int:
    """Let tails apply the next layer's style and accumulate RGB; gives how many calls went away.

    Where StyleGAN3's nonlinearity is behind a convolution, it demodulates and applies the next layer's style instead.
    """
    run = tail()
    before = len(program.nodes)
    if run is None:
        return 0
    for node in [n for n in program.nodes if n.name == _FILTERED]:
        _take_filtered(program, node)
    for node in [n for n in program.nodes if n.func is run and n.args[Y] is not None]:
        y: Tensor = node.args[Y]
        if any(storage_of(t) == storage_of(y) for t in tensors(program.outputs)):
            continue
        at = program.nodes.index(node)
        users = [n for n in program.nodes[at + 1 :] if storage_of(y) in _touched(n)]
        scales = [n for n in users if _scales(n, y)]
        colours = [n for n in users if _colours(n, y)]
        if len(scales) + len(colours) != len(users) or len(scales) > 1 or len(colours) > 1 or not users:
            continue
        if colours and node.args[TAPS] is not None:
            continue
        args = list(node.args)
        # First of all, for there is no way back once styles are applied.
        if colours and not _take_colours(program, node, colours[0], args):
            continue
        if not scales:
            args[Y] = None
        elif _hoist(program, node, scales[0], [scales[0].args[1]]):
            _take_scale(program, node, scales[0], args)
        node.args = tuple(args)
        node.writes = [t for t in (args[Y], args[RGB]) if t is not None]
    return before - len(program.nodes)


def _take_colours(program: Program, node: Node, colours: Node, args: list[Any]) -> bool:
    """Make ``node`` compute RGB too."""
    needed = [colours.args[RGB_WEIGHT]]
    found = _accumulation(program, colours)
    if not _hoist(program, node, colours, needed):
        return False
    args[RGB_WEIGHT:BASE] = colours.args[RGB_WEIGHT:BASE]
    args[RGB] = colours.args[RGB]
    args[-1] = colours.args[-1]
    if found is not None and _hoist(program, node, found[0][-1], [found[1]]):
        gone, args[BASE], args[RGB] = found
        program.nodes = [n for n in program.nodes if n not in gone]
    program.nodes.remove(colours)
    node.note = "with RGB"
    return True


def _take_filtered(program: Program, node: Node) -> None:
    """Let ``filtered_lrelu`` demodulate the convolution before it, and apply the style of the one behind it."""
    x, fu, fd, b, mask_in, mask_out, y, last, *rest = node.args
    if NATIVE.reason("cpu", _STYLED.removesuffix("_cpu")) is not None:
        return
    if mask_in is not None or mask_out is not None or not last or x.dtype not in (torch.float32, *_HALF):
        return
    at = program.nodes.index(node)
    before = [n for n in program.nodes if n is not node and storage_of(x) in _touched(n)]
    behind = [n for n in program.nodes[at + 1 :] if storage_of(y) in _touched(n)]
    scale = following = None
    if len(before) == 1 and _demodulates(before[0], x):
        scale = before[0].args[SCALE]
        x = before[0].args[Z]
        program.nodes.remove(before[0])
    kept = {storage_of(t) for t in tensors(program.outputs)}
    if len(behind) == 1 and storage_of(y) not in kept and _scales(behind[0], y):
        style = behind[0].args[1]
        if _same_layout(y, behind[0].args[4]) and _hoist(program, node, behind[0], [style]):
            following, y = style, behind[0].args[4]
            program.nodes.remove(behind[0])
    if scale is None and following is None:
        return
    node.func = getattr(torch.ops.gankern_native, _STYLED).default
    node.args, node.writes = (x, fu, fd, b, scale, following, y, last, *rest), [y]
    notes = {"demodulates": scale, "with the next style": following}
    node.note = ", ".join(note for note, taken in notes.items() if taken is not None)


def _demodulates(node: Node, y: Tensor) -> bool:
    """Whether a call makes ``y``, which is what a convolution made times a factor per channel, and nothing else."""
    if node.func is not tail():
        return False
    a = node.args
    absent = [TAPS, NOISE, BIAS, NEXT, RGB]
    plain = all(a[i] is None for i in absent) and a[ACT] == activation_funcs["linear"].index
    if not plain or a[GAIN] != 1 or a[CLAMP] >= 0 or a[SCALE] is None or not a[SCALE].is_contiguous():
        return False
    return _same(a[Y], y) and not _same(a[Z], y) and _same_layout(a[Z], y)


def _take_scale(program: Program, node: Node, scale: Node, args: list[Any]) -> None:
    """Make ``node`` apply the next style too; in place where it can."""
    images: Tensor = scale.args[4]
    args[NEXT], args[Y] = scale.args[1], images
    node.note = (node.note + ", " if node.note else "") + "with the next style"
    program.nodes.remove(scale)
    z: Tensor = args[Z]
    users = [n for n in program.nodes if n is not node and storage_of(images) in _touched(n)]
    others = [n for n in program.nodes if n is not node and any(_same(t, z) for t in n.reads())]
    direct = all(all(t is images for t in n.reads() if storage_of(t) == storage_of(images)) for n in users)
    if args[TAPS] is None and direct and not others and _same_layout(z, images):
        for user in users:
            user.replace(images, z)
        args[Y] = z


def _same_layout(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


# What takes strided factors, or makes new tensors of them: all others may read memory without a look at strides.
_TAKES_STRIDES = (
    "aten.mul.",
    "aten.div.",
    "aten.square.",
    "aten.pow.",
    "aten.matmul.",
    "aten.mm.",
    "aten.addmm.",
    "aten.add.",
    "aten._to_copy.",
    "aten.clone.",
)


def merge_products(program: Program) -> int:
    """One product for all fully connected layers without activation on the same vectors; gives how many calls went away."""
    groups: dict[Any, list[tuple[Node, Node]]] = defaultdict(list)
    pairs: list[tuple[Node, Node]] = []
    users: dict[int, list[Node]] = defaultdict(list)
    for node in program.nodes:
        for key in _touched(node):
            users[key].append(node)
    for node in program.nodes:
        if node.name != "aten.mm.default" or program.is_dynamic(node.args[1]):
            continue
        x, z = node.args[0], node.outs[0]
        rest = [n for n in users[storage_of(z)] if n is not node]
        if not rest or rest[0].name != "gankern_native.bias_act_cpu.default":
            continue
        _, b, noise, y, _, _, _, act, _, gain, clamp = rest[0].args
        linear = act == activation_funcs["linear"].index and gain == 1 and clamp < 0 and noise is None and b is not None
        if not linear or not _same(y, z) or program.is_dynamic(b):
            continue
        safe = x.shape[0] == 1 or all(_takes_strides(n, z) for n in rest[1:])
        whole = all(_same(t, z) for n in rest for t in n.reads() if storage_of(t) == storage_of(z))
        pairs.append((node, rest[0]))
        if safe and whole:
            groups[storage_of(x), x.shape, x.stride(), x.storage_offset(), x.dtype].append((node, rest[0]))
    gone: set[int] = set()
    for members in groups.values():
        if len(members) < 2:
            continue
        first = members[0][0]  # what they read is there by then
        weight = torch.cat([mm.args[1] for mm, _ in members], 1)
        bias = torch.cat([add.args[1] for _, add in members])
        out = torch.addmm(bias, first.args[0], weight)
        program.keep += [weight, bias, out]
        program.dynamic.add(storage_of(out))
        offset = 0
        for mm, add in members:
            z = mm.outs[0]
            here = slice(offset, offset + z.shape[1])
            offset += z.shape[1]
            _substitute(users[storage_of(z)], z, out[:, here], program)
            gone |= {id(mm), id(add)}
        note = f"styles of {len(members)} layers"
        made = [Node(aten.addmm.default, (bias, first.args[0], weight), {}, [out], note=note)]
        at = program.nodes.index(first)
        program.nodes[at : at + 1] = made
    for mm, add in pairs:  # those by themselves have their bias within the product
        if id(mm) not in gone:
            mm.func, mm.args = aten.addmm.default, (add.args[1], *mm.args)
            gone.add(id(add))
    before = len(program.nodes)
    program.nodes = [n for n in program.nodes if id(n) not in gone]
    return before - len(program.nodes)


def _substitute(users: list[Node], old: Tensor, new: Tensor, program: Program) -> None:
    """Let ``users`` read ``new`` in place of ``old``."""
    program.keep.append(new)
    for user in users:
        for t in [t for t in user.reads() if _same(t, old)]:
            user.replace(t, new)


def _takes_strides(node: Node, z: Tensor) -> bool:
    if node.func is tail():
        places = {i for i, a in enumerate(node.args) if _same(a, z)}
        return places <= {SCALE, NEXT}
    if node.func is _factors.operator():
        return _same(node.args[_factors.STYLES], z)  # its table is told of strides
    return node.name.startswith(_TAKES_STRIDES) and not any(_same(t, z) for t in node.writes)


__all__ = ["link", "lower", "merge_products", "separable", "tail"]
