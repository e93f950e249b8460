"""filtered_lrelu against outside oracles (scipy, finite differences), what it saves, launches and allocates, and its masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from recording import Calls, saved_by
from torch import Tensor

import gankern
from gankern import ops
from gankern.bench.memory import peak
from gankern.ops.filtered_lrelu import arguments, layer_geometries
from gankern.ops.filtered_lrelu.reference import codes, filtered_lrelu_composed, filtered_lrelu_reference, pack, unpack
from gankern.testing import assert_close

NATIVE = pytest.mark.skipif(
    gankern.NATIVE.reason("cpu", "filtered_lrelu") is not None, reason="no native CPU kernel of filtered_lrelu"
)
BACKENDS = ["reference", pytest.param("cpu", marks=NATIVE)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def randn(*size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ---- outside oracle -----------------------------------------------------------------------------------------------------
def window(z: Any, axis: int, first: int, size: int) -> Any:
    """``size`` numbers from ``first`` on, zeros outside."""
    reach = abs(first) + size + z.shape[axis]
    pads = [(0, 0)] * z.ndim
    pads[axis] = (reach, reach)
    return np.take(np.pad(z, pads), range(reach + first, reach + first + size), axis=axis)


def outer(f: Tensor | None, flip: bool) -> Any:
    """The filter as it is convolved with, in two dimensions."""
    g = np.ones((1, 1)) if f is None else f.numpy() if f.dim() == 2 else np.outer(f.numpy(), f.numpy())
    return g[::-1, ::-1] if flip else g


def by_scipy(
    x: Tensor, fu: Any, fd: Any, b: Any, up: Any, down: Any, padding: Any, gain: float, slope: float, clamp: Any, flip: bool
) -> Tensor:
    """Every step as scipy has it: full convolutions of zero-stuffed images; upfirdn where the filter is separable."""
    up_x, up_y = up
    x0, x1, y0, y1 = padding
    z = x.numpy() + (0 if b is None else b.numpy()[:, None, None])
    height, width = z.shape[2] * up_y, z.shape[3] * up_x
    if fu is not None and fu.dim() == 1:
        row = fu.numpy()[::-1] if flip else fu.numpy()
        full = scipy.signal.upfirdn(row, scipy.signal.upfirdn(row, z, up_x, axis=3), up_y, axis=2)
    else:
        stuffed = np.zeros((*z.shape[:2], height, width))
        stuffed[:, :, ::up_y, ::up_x] = z
        full = np.stack([[scipy.signal.convolve2d(plane, outer(fu, flip)) for plane in sample] for sample in stuffed])
    taps_y, taps_x = outer(fu, flip).shape
    full = window(full, 3, taps_x - 1 - x0, width + x0 + x1 - taps_x + 1) * up_x * up_y
    t = window(full, 2, taps_y - 1 - y0, height + y0 + y1 - taps_y + 1)
    a = np.where(t > 0, t, t * slope) * gain
    a = a if clamp is None else np.clip(a, -clamp, clamp)
    y = np.stack([[scipy.signal.convolve2d(plane, outer(fd, flip), "valid") for plane in sample] for sample in a])
    return torch.from_numpy(np.ascontiguousarray(y[:, :, :: down[1], :: down[0]]))


CASES: dict[str, tuple[Any, Any, list[int], list[int], list[int], float, float, Any, bool]] = {
    "typical": ((12,), (12,), [2, 2], [2, 2], [9, 8, 9, 8], 2**0.5, 0.2, 1.0, False),
    "up 4": ((24,), (12,), [4, 4], [2, 2], [-1, 7, 6, 2], 2**0.5, 0.2, None, False),
    "radial": ((12,), (12, 12), [2, 2], [2, 2], [11, 10, 11, 10], 2**0.5, 0.2, 2.0, False),
    "full both": ((5, 3), (2, 4), [3, 2], [2, 3], [2, 4, 5, 1], 0.7, 0.0, 0.5, True),
    "flipped": ((7,), (6,), [2, 3], [3, 1], [4, 1, 0, 5], 1.3, 0.5, None, True),
    "no filters": (None, None, [1, 1], [1, 1], [0, 0, 0, 0], 1.0, 0.2, 0.8, False),
    "only up": ((6, 6), None, [2, 2], [3, 2], [3, 2, 3, 2], 1.0, 1.0, None, False),
    "only down": (None, (3,), [1, 2], [1, 2], [1, 1, -1, 3], 1.0, 2.0, 1.5, False),
    "crop": ((4,), (3,), [2, 2], [1, 1], [-3, -4, -5, 2], 1.0, 0.2, None, False),
    "many taps": ((65,), (70,), [2, 2], [2, 2], [60, 61, 62, 65], 1.0, 0.2, None, False),
    "pad": ((3,), (3,), [2, 2], [2, 2], [9, 11, 12, 7], 1.0, 0.2, None, False),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_against_scipy(case: str, bias: bool, layout: torch.memory_format, backend: str) -> None:
    fu_taps, fd_taps, *rest = CASES[case]
    x = randn(2, 5, 9, 8)
    fu = None if fu_taps is None else randn(*fu_taps, seed=1)
    fd = None if fd_taps is None else randn(*fd_taps, seed=2)
    b = randn(5, seed=3) if bias else None
    expected = by_scipy(x, fu, fd, b, *rest)
    with gankern.use_backend(backend):
        y = ops.filtered_lrelu(x.contiguous(memory_format=layout), fu, fd, b, *rest)
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y.contiguous(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: str) -> None:
    x = torch.tensor([[1.0, -2.0], [-3.0, 4.0]]).reshape(1, 2, 1, 2)
    with gankern.use_backend(backend):
        assert ops.filtered_lrelu(x, gain=1, slope=0.5).flatten().tolist() == [1.0, -1.0, -1.5, 4.0]
        b = torch.tensor([1.0, 3.0])
        assert ops.filtered_lrelu(x, b=b, gain=2, slope=0.5, clamp=3).flatten().tolist() == [3.0, -1.0, 0.0, 3.0]
        # Pixels stand among zeros, times up = 2; the kernel [1, 2] as a convolution spreads each over itself and the next.
        line = dict(up=[2, 1], gain=1, slope=0.5)
        f = torch.tensor([[1.0, 2.0]])
        assert ops.filtered_lrelu(x[:, :1], f, padding=[1, 0, 0, 0], **line).flatten().tolist() == [2.0, 4.0, -2.0, -4.0]
        flipped = ops.filtered_lrelu(x[:, :1], f, padding=[1, 0, 0, 0], flip_filter=True, **line)
        assert flipped.flatten().tolist() == [4.0, 2.0, -4.0, -2.0]
        assert ops.filtered_lrelu(x[:, :1], None, f, down=[2, 1], gain=1, slope=0.5).flatten().tolist() == [1.0]


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize("resolution", [64, 256, 1024])
def test_layers_of_stylegan3_get_their_sizes(resolution: int, radial: bool) -> None:
    for g in layer_geometries(resolution, conv_kernel=1 if radial else 3, radial=radial):
        size = g.in_size + g.conv_kernel - 1
        fu = torch.empty(g.up_taps) if g.up_taps > 1 else None
        fd = torch.empty((g.down_taps,) * (2 if g.radial else 1)) if g.down_taps > 1 else None
        p = arguments.prepare(torch.empty(1, 1, size, size), fu, fd, None, g.up, g.down, g.padding)
        assert arguments.resampling(*p[:3], p.up, p.down, p.padding).size == [g.out_size, g.out_size]


# ---- derivatives --------------------------------------------------------------------------------------------------------
TYPICAL: dict[str, Any] = {"up": 2, "down": 2, "padding": [3, 2, 4, 3], "clamp": 1.5, "slope": 0.3}


def operands(radial: bool = False, layout: torch.memory_format = torch.contiguous_format) -> dict[str, Any]:
    x = randn(2, 3, 5, 6, seed=4).contiguous(memory_format=layout).requires_grad_()
    fd = randn(4, 4, seed=2) / 4 if radial else randn(6, seed=2) / 2.4
    return {"x": x, "fu": randn(6, seed=1) * 0.7, "fd": fd, "b": randn(3, seed=3).requires_grad_(), **TYPICAL}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("radial", [False, True])
def test_derivatives_by_finite_differences(radial: bool, layout: torch.memory_format, backend: str) -> None:
    kwargs = operands(radial, layout)
    x, fu, fd, b, *rest = arguments.prepare(**kwargs)
    with torch.no_grad():
        t = filtered_lrelu_composed(x, fu, fd, b, *rest[:-1])[1]
        a = torch.nn.functional.leaky_relu(t, 0.3).abs() * 2**0.5
    assert float(t.abs().min()) > 1e-4 and float((a - 1.5).abs().min()) > 1e-4, "a kink is near"
    assert {0, 1, 2} == set(codes(t, 2**0.5, 0.3, 1.5).unique().tolist())

    def function(x: Tensor, b: Tensor) -> Tensor:
        return ops.filtered_lrelu(**{**kwargs, "x": x, "b": b})

    with gankern.use_backend(backend):
        assert torch.autograd.gradcheck(function, (kwargs["x"], kwargs["b"]), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, (kwargs["x"], kwargs["b"]), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_third_derivative(backend: str) -> None:
    kwargs = operands()
    leaves = [kwargs["x"], kwargs["b"]]
    with gankern.use_backend(backend):
        values = [f(**kwargs).pow(4).sum() for f in (ops.filtered_lrelu, filtered_lrelu_reference)]
        for _ in range(3):
            grads = [torch.autograd.grad(value, leaves, create_graph=True) for value in values]
            for result, truth in zip(*grads, strict=True):
                torch.testing.assert_close(result, truth)
                assert bool(result.any())
            values = [sum(g.pow(k).sum() for k, g in enumerate(some, 2)) for some in grads]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("train_x", [False, True])
def test_trained_filters(train_x: bool, backend: str) -> None:
    """Composed of operators that differentiate in their filters: up to the second order, as the reference."""
    kwargs = operands(radial=True)
    kwargs["x"] = kwargs["x"].detach().requires_grad_(train_x)
    leaves = [kwargs[name].requires_grad_() for name in (("x",) if train_x else ()) + ("fu", "fd", "b")]
    results = []
    with gankern.use_backend(backend):
        for f in (ops.filtered_lrelu, filtered_lrelu_reference):
            y = f(**kwargs)
            first = torch.autograd.grad(y.pow(3).sum(), leaves, create_graph=True)
            results.append([y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)])
    for result, truth in zip(*results, strict=True):
        torch.testing.assert_close(result, truth)


# ---- what is saved, launched and allocated ----------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_are_saved_and_no_image(layout: torch.memory_format, backend: str) -> None:
    kwargs = operands(layout=layout)
    with gankern.use_backend(backend):
        _, kept = saved_by(lambda: ops.filtered_lrelu(**kwargs))
        filters = {kwargs["fu"].data_ptr(), kwargs["fd"].data_ptr()}
        masks = [t for t in kept if t.data_ptr() not in filters]
        mid_h, mid_w = 12, 12  # 6 of each axis go in twice, and the output has 4: (4 - 1) * 2 + 6
        (mask,) = masks
        assert mask.dtype == torch.uint8
        n, c = 2, 3
        last = layout == torch.channels_last
        assert mask.shape == ((n, mid_h, mid_w, 1) if last else (n, c, mid_h, math.ceil(mid_w / 4)))
        with torch.no_grad():
            assert saved_by(lambda: ops.filtered_lrelu(**kwargs))[1] == []
        plain = {k: v.detach() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
        assert saved_by(lambda: ops.filtered_lrelu(**plain))[1] == []


def test_without_gradients_there_are_no_masks() -> None:
    kwargs = operands()
    assert arguments.prepare(**kwargs).with_mask
    assert arguments.prepare(**{**kwargs, "x": kwargs["x"].detach()}).with_mask  # the bias has one
    assert not arguments.prepare(**{**kwargs, "x": kwargs["x"].detach(), "b": None}).with_mask
    with torch.no_grad():
        p = arguments.prepare(**kwargs)
        assert not p.with_mask
        assert torch.ops.gankern.filtered_lrelu(*p)[1].numel() == 0


def test_what_is_launched() -> None:
    """Backward does not run the forward again, and does only what is asked for."""
    kwargs = operands()
    x, b = kwargs["x"], kwargs["b"]
    dy = randn(2, 3, 4, 4, seed=5).requires_grad_()
    wanted: list[tuple[list[Tensor], dict[str, int]]] = [
        ([x], {"filtered_lrelu_masked": 1}),  # as in a gradient penalty: no bias gradient that nobody wants
        ([b], {"filtered_lrelu_masked": 1, "modulate_backward": 1}),
        ([x, b], {"filtered_lrelu_masked": 1, "modulate_backward": 1}),
    ]
    for leaves, expected in wanted:
        y = ops.filtered_lrelu(**kwargs)
        with Calls() as calls:
            torch.autograd.grad(y, leaves, dy)
        assert calls.count == expected
    (dx,) = torch.autograd.grad(ops.filtered_lrelu(**kwargs), x, dy, create_graph=True)
    with Calls() as calls:
        torch.autograd.grad(dx.square().sum(), dy)
    assert calls.count == {"filtered_lrelu_masked": 1}


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory(layout: torch.memory_format, dtype: torch.dtype) -> None:
    """Forward and backward: the masks and 10 % of x beyond output and gradients."""
    x = randn(2, 36, 62, 58, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    b = torch.zeros(36, requires_grad=True)
    f = torch.full((12,), 1 / 12)
    settings: dict[str, Any] = {"up": 2, "down": 2, "padding": [11, 10, 11, 10], "clamp": 256.0}
    y, mask = torch.ops.gankern.filtered_lrelu(*arguments.prepare(x, f, f, b, **settings))
    dy = torch.ones_like(y)

    def step() -> Any:
        y = ops.filtered_lrelu(x, f, f, b, **settings)
        return y, *torch.autograd.grad(y, (x, b), dy)

    step()
    found = peak(step, torch.device("cpu"))
    assert found is not None
    assert mask.numel() <= 1.05 * x.numel() * 4 / 4 + 4 * mask.shape[0] * mask.shape[1] * mask.shape[2]
    least = y.nbytes + x.nbytes
    assert least < found <= least + mask.nbytes + 0.1 * x.nbytes


# ---- masks -----------------------------------------------------------------------------------------------------------------
def test_bits_of_a_mask() -> None:
    code = torch.tensor([0, 1, 2, 0, 1], dtype=torch.uint8)
    bytes_of = [1 << 2 | 2 << 4, 1]
    rows = code.view(1, 1, 1, 5)
    assert pack(rows, False).tolist() == [[[bytes_of]]]
    channels = code.view(1, 5, 1, 1)
    assert pack(channels, True).tolist() == [[[bytes_of]]]
    assert torch.equal(unpack(pack(rows, False), 1, 5, False), rows)
    assert torch.equal(unpack(pack(channels, True), 5, 1, True), channels)
    many = torch.randint(0, 3, (2, 7, 3, 6), dtype=torch.uint8)
    for last in (False, True):
        packed = pack(many, last)
        assert packed.shape == arguments.mask_shape(2, 7, (6, 3), last)
        assert torch.equal(unpack(packed, 7, 6, last), many)
    assert torch.equal(unpack(pack(many[:, :0], True), 0, 6, True), many[:, :0])


def test_codes_at_the_edges() -> None:
    """The kink belongs to the negative side and the bound to the unclamped one, as PyTorch differentiates them."""
    t = torch.tensor([-20.0, -10.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0], requires_grad=True)
    a = (torch.nn.functional.leaky_relu(t, 0.4) * 0.5).clamp(-2, 2).clamp(-1, 1)
    (slope,) = torch.autograd.grad(a.sum(), t)
    code = codes(t.detach(), 0.5, 0.4, 1.0)
    assert code.tolist() == [2, 2, 1, 1, 1, 0, 0, 2]
    assert torch.equal(torch.tensor([0.5, 0.2, 0.0])[code.long()], slope)


@NATIVE
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("radial", [False, True])
def test_backends_understand_each_others_masks(radial: bool, layout: torch.memory_format, dtype: torch.dtype) -> None:
    kwargs = {k: v.detach().to(dtype) if isinstance(v, Tensor) else v for k, v in operands(radial, layout).items()}
    kwargs["x"].requires_grad_()
    kwargs["b"].requires_grad_()
    masks, grads = [], []
    for there, back in (("cpu", "reference"), ("reference", "cpu"), ("cpu", "cpu")):
        with gankern.use_backend(there):
            y = ops.filtered_lrelu(**kwargs)
            masks.append(torch.ops.gankern.filtered_lrelu(*arguments.prepare(**kwargs))[1])
        with gankern.use_backend(back):
            grads.append(torch.autograd.grad(y.sum(), (kwargs["x"], kwargs["b"])))
    assert torch.equal(masks[0], masks[1])
    for other in grads[1:]:
        for result, truth in zip(other, grads[0], strict=True):
            torch.testing.assert_close(result, truth)


# ---- awkward values and shapes --------------------------------------------------------------------------------------------
@NATIVE  # the reference rounds the intermediate image as eager does, to infinity
@pytest.mark.parametrize("layout", LAYOUTS)
def test_float16_beyond_its_range_is_clamped(layout: torch.memory_format) -> None:
    x = (randn(2, 5, 9, 10) * 3e4).clamp(-6e4, 6e4).half().contiguous(memory_format=layout).requires_grad_()
    f = torch.tensor([0.5, 1.0, 1.0, 0.5])
    rest: dict[str, Any] = {"up": 2, "down": 2, "padding": 3, "clamp": 256.0}
    truth_x = x.detach().double().requires_grad_()
    truth = filtered_lrelu_reference(truth_x, f, f / 3, **rest)
    t = filtered_lrelu_composed(*arguments.prepare(truth_x, f, f / 3, **rest)[:-1])[1]
    assert float(t.detach().abs().max()) > torch.finfo(torch.float16).max
    with gankern.use_backend("cpu"):
        y = ops.filtered_lrelu(x, f, f / 3, **rest)
        (dx,) = torch.autograd.grad(y.sum(), x)
    assert_close(y.detach(), truth.detach())
    assert_close(dx, torch.autograd.grad(truth.sum(), truth_x)[0])


@NATIVE  # the reference computes half types as eager does
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_taps_and_bias_of_half_images_stay_float32(dtype: torch.dtype) -> None:
    """1 + 2^-13 is no half number, and what is left of it under the bias -1 would be lost."""
    x = torch.ones(1, 2, 3, 4, dtype=dtype, requires_grad=True)
    fu, b = torch.full((1, 1), 1 + 2.0**-13), torch.full((2,), -1 + 2.0**-13, requires_grad=True)
    y = ops.filtered_lrelu(x, fu, None, b, gain=1.0)
    torch.testing.assert_close(y, torch.full_like(y, 2.0**-13))
    y.sum().backward()
    assert b.grad is not None and b.grad.dtype == torch.float32 and b.grad.tolist() == [12.0] * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 5, 37])
def test_results_do_not_depend_on_the_number_of_threads(channels: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    if gankern.NATIVE.reason("cpu", "filtered_lrelu"):
        pytest.skip("PyTorch's convolutions depend on the number of threads")
    x = randn(2, channels, 31, 27, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    b = randn(channels, dtype=dtype, seed=1).requires_grad_()
    fu, fd = randn(12, seed=2).float(), randn(12, 12, seed=3).float()
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = ops.filtered_lrelu(x, fu, fd, b, 2, 2, 10)
            results.append((y, *torch.autograd.grad(y.float().square().mean(), (x, b))))
    finally:
        torch.set_num_threads(threads)
    assert all(bool(t.isfinite().all()) for t in results[0])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_operator_itself_names_what_it_cannot() -> None:
    kwargs = operands()
    p = arguments.prepare(**kwargs)._replace(with_mask=False)
    with pytest.raises(RuntimeError, match="has gradients in x and b only, and with with_mask=True"):
        torch.ops.gankern.filtered_lrelu(*p)[0].sum().backward()
    p = p._replace(with_mask=True, fu=kwargs["fu"].requires_grad_())
    with pytest.raises(RuntimeError, match="has gradients in x and b only"):
        torch.ops.gankern.filtered_lrelu(*p)[0].sum().backward()


@pytest.mark.slow
@NATIVE
def test_more_than_2_31_elements() -> None:
    x = torch.zeros(1, 2, (1 << 15) + 1, 1 << 15, dtype=torch.bfloat16)
    assert x.numel() > 2**31
    x[0, -1, -1, -1], x[0, 0, 0, 0] = 1, -1
    with torch.no_grad():
        y = ops.filtered_lrelu(x, None, torch.ones(2), torch.tensor([1.0, 2.0]), down=[2, 1], padding=[0, 0, 0, 1], gain=1)
    assert [float(y[0, 0, 0, 0]), float(y[0, 0, 0, 1]), float(y[0, 1, 0, 0]), float(y[0, 1, -2, -1])] == [3, 4, 8, 9]
