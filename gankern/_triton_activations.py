"""The activation functions in Triton, and their slopes as functions of the output or of the pre-activation.

The formulas of the reference of ``bias_act`` in forms that stay accurate near 0 and do not overflow; no libdevice, which the
interpreter lacks.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from gankern._triton import jit, tl


@jit
def _expm1(x):
    """exp(x) - 1 for x <= 0, accurate to a few last bits of the result also near 0."""
    u = tl.exp(x)
    if x.dtype == tl.float64:
        # Kahan: u - 1 is wrong by u's rounding, log(u) is wrong by the same.
        inside = (u != 1) & (u > 1e-17)
        r = (u - 1) * (x / tl.log(tl.where(inside, u, 0.5)))
        r = tl.where(inside, r, tl.where(u == 1, x, u - 1))
    else:
        p = 1 / 40320
        p = x * p + 1 / 5040
        p = x * p + 1 / 720
        p = x * p + 1 / 120
        p = x * p + 1 / 24
        p = x * p + 1 / 6
        p = x * p + 0.5
        r = tl.where(x > -0.5, x * (x * p) + x, u - 1)
    return r


@jit
def _sigmoid(v):
    e = tl.exp(-tl.abs(v))
    return tl.where(v < 0, e, 1.0) / (1 + e)


@jit
def _tanh(v):
    m = _expm1(-2 * tl.abs(v))
    t = -m / (2 + m)
    return tl.where(v < 0, -t, t)


@jit
def _softplus(v):
    e = tl.exp(-tl.abs(v))
    w = 1 + e
    # log(1 + e): what rounding 1 + e has taken from e is given back by the factor.
    r = tl.where(w == 1, e, tl.log(w) * (e / tl.where(w == 1, 1.0, w - 1)))
    return tl.where(v > 20, v, tl.where(v > 0, v, 0.0) + r)  # PyTorch's threshold


@jit
def activate(v, alpha, ACT: tl.constexpr):
    """f(v). Comparisons are such that NaN stays NaN."""
    f = v
    if ACT == "relu":
        f = tl.where(v < 0, 0.0, v)
    elif ACT == "lrelu":
        f = tl.where(v > 0, v, v * alpha)
    elif ACT == "tanh":
        f = _tanh(v)
    elif ACT == "sigmoid":
        f = _sigmoid(v)
    elif ACT == "elu":
        f = tl.where(v > 0, v, _expm1(tl.where(v > 0, 0.0, v)))
    elif ACT == "selu":
        alpha_v = tl.full((), 1.6732632423543772, v.dtype)
        scale = tl.full((), 1.0507009873554805, v.dtype)
        f = scale * tl.where(v > 0, v, alpha_v * _expm1(tl.where(v > 0, 0.0, v)))
    elif ACT == "softplus":
        f = _softplus(v)
    elif ACT == "swish":
        f = v * _sigmoid(v)
    return f


@jit
def _slopes_of_y(y, alpha, gain, inverse, ACT: tl.constexpr):
    """dy/dv and its derivative in y, of the output."""
    t = y * inverse
    zero = tl.zeros_like(t)
    one = zero + 1
    first = one
    second = zero
    if ACT == "relu":
        first = tl.where(t > 0, one, zero)
    elif ACT == "lrelu":
        first = tl.where(t > 0, one, alpha)
    elif ACT == "tanh":
        first = 1 - t * t
        second = -2 * t
    elif ACT == "sigmoid":
        first = t * (1 - t)
        second = 1 - 2 * t
    elif ACT == "elu":
        first = tl.where(t > 0, one, t + 1)
        second = tl.where(t < 0, one, zero)
    elif ACT == "selu":
        scale = tl.full((), 1.0507009873554805, t.dtype)
        scale_alpha = tl.full((), 1.7580993408473766, t.dtype)
        first = tl.where(t > 0, scale, t + scale_alpha)
        second = tl.where(t < 0, one, zero)
    elif ACT == "softplus":
        first = -_expm1(-t)
        second = tl.exp(-t)
    return first * gain, second


@jit
def _slopes_of_v(v, alpha, gain, ACT: tl.constexpr):
    """dy/dv and its derivative in v, of the pre-activation."""
    zero = tl.zeros_like(v)
    one = zero + 1
    first = one
    second = zero
    if ACT == "relu":
        first = tl.where(v > 0, one, zero)
    elif ACT == "lrelu":
        first = tl.where(v > 0, one, alpha)
    elif ACT == "tanh":
        e = tl.exp(-2 * tl.abs(v))
        first = 4 * e / ((1 + e) * (1 + e))  # 1 - tanh^2, where that would be a difference of like numbers
        second = -2 * _tanh(v) * first
    elif ACT == "sigmoid":
        s = _sigmoid(v)
        first = s * (1 - s)
        second = first * (1 - 2 * s)
    elif ACT == "elu":
        e = tl.exp(tl.where(v > 0, zero, v))
        first = tl.where(v > 0, one, e)
        second = tl.where(v < 0, e, zero)
    elif ACT == "selu":
        e = tl.full((), 1.7580993408473766, v.dtype) * tl.exp(tl.where(v > 0, zero, v))
        first = tl.where(v > 0, tl.full((), 1.0507009873554805, v.dtype), e)
        second = tl.where(v < 0, e, zero)
    elif ACT == "softplus":
        first = _sigmoid(v)
        second = first * (1 - first)
    elif ACT == "swish":
        s = _sigmoid(v)
        first = s * (1 + v * (1 - s))
        second = s * (1 - s) * (2 + v * (1 - 2 * s))
    return first * gain, second * gain


@jit
def slopes(saved, alpha, gain, inverse, clamp, ACT: tl.constexpr, SAVED: tl.constexpr, CLAMPED: tl.constexpr):
    """dy/dv and its derivative in what was saved, the output ("y") or the pre-activation ("x"); zero where y is clamped."""
    if SAVED == "y":
        first, second = _slopes_of_y(saved, alpha, gain, inverse, ACT)
        size = tl.abs(saved)
    else:
        first, second = _slopes_of_v(saved, alpha, gain, ACT)
        size = tl.abs(activate(saved, alpha, ACT) * gain)
    if CLAMPED:
        zero = tl.zeros_like(saved)
        first = tl.where(size < clamp, first, zero)
        second = tl.where(size < clamp, second, zero)
    return first, second
