"""adain's double backward in Triton; its tiles and stages are those of triton_kernels.py."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from gankern._triton import jit, tl
from gankern._triton_activations import activate
from gankern.ops.adain.triton_tiles import SIZES, factor_at, finished, line, number, put, q_at, slopes_at, tile, totals


@jit
def _sums(w, z, g, e, s, us, ut, CURVED: tl.constexpr, SPATIAL: tl.constexpr, AXIS: tl.constexpr):
    """The sums of kAdainDoubleSums, ``e`` being dy f2; 0 for those that are not needed."""
    d = g * s if SPATIAL else g
    s0 = tl.sum(d, AXIS, keep_dims=True)
    s1 = tl.sum(d * z, AXIS, keep_dims=True)
    s2 = tl.sum(w, AXIS, keep_dims=True)
    s3 = tl.sum(w * z, AXIS, keep_dims=True)
    s4 = tl.sum(d * w, AXIS, keep_dims=True)
    none = tl.zeros_like(s0)
    s5, s6, s7, s8, s9, s10, s11 = none, none, none, none, none, none, none
    if SPATIAL:
        lead = g * us
        if CURVED:
            lead += s * e * (us * z + ut)
            e = s * s * e
        s10 = tl.sum(lead, AXIS, keep_dims=True)
        s11 = tl.sum(lead * z, AXIS, keep_dims=True)
    if CURVED:
        s5 = tl.sum(e, AXIS, keep_dims=True)
        s6 = tl.sum(e * z, AXIS, keep_dims=True)
        s7 = tl.sum(e * z * z, AXIS, keep_dims=True)
        s8 = tl.sum(e * w, AXIS, keep_dims=True)
        s9 = tl.sum(e * w * z, AXIS, keep_dims=True)
    return s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11


@jit
def _numbers(m, r, s, us, ut, SPATIAL: tl.constexpr):
    """Of the means ``m``: those of d_shift and d_scale, and the coefficients. With images as factors s = 1, us = ut = 0."""
    m0, m1, w, wz, m4, m5, m6, m7, m8, m9, m10, m11 = m
    k = s * r * (m8 - w * m5 - wz * m6) + us * m6 + ut * m5
    kz = s * r * (m9 - w * m6 - wz * m7) + us * m7 + ut * m6
    gpw = r * (m4 - m0 * w - m1 * wz)
    if SPATIAL:
        e0 = k + m10
        e1 = kz + m11
    else:
        e0 = s * k + us * m0
        e1 = s * kz + us * m1
    d = s * m0
    dz = s * m1
    return k, kz + gpw, d, dz, w, wz, e0 - r * (w * dz + d * wz), e1 - 2 * r * dz * wz + s * gpw


@jit(do_not_specialize=SIZES)
def _adain_double_bwd_kernel(
    u, u_scale, u_shift, u_noise, u_b, dy, x, scale, shift, noise, b, mean, rstd, d_dy, d_x, d_scale, d_shift, d_noise_partial,
    d_b_partial, partial, coefficients, alpha: tl.float64, gain: tl.float64, pre_alpha: tl.float64,
    have, noise_samples, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks,
    ACT: tl.constexpr, PRE: tl.constexpr, CURVED: tl.constexpr, SPATIAL: tl.constexpr, STAGE: tl.constexpr,
    NOISE: tl.constexpr, WALK: tl.constexpr,
    PLANES: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``have``: 1 scale, 2 shift, 4 noise, 8 b, 16 d_x, 32 d_scale, 64 d_shift, 128 d_b_partial, 256 d_dy, 512 u, 1024 u_scale,
    2048 u_shift, 4096 u_noise, 8192 u_b, 16384 dy. CURVED: f has a second derivative. NOISE: d_noise_partial is there.
    """
    AXIS: tl.constexpr = 1 if PLANES else 0
    slope = tl.full((), alpha, ACC)
    factor = tl.full((), gain, ACC)
    pre_slope = tl.full((), pre_alpha, ACC)
    if PLANES and NOISE:
        over_channels = tl.zeros((TR, TC), ACC)
    for step in range(0, channel_chunk if WALK else TR, TR):
        n, chunk, part, c, hw, _, channel, channel_live, pixel, pixel_live, at = tile(
            step, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks, STAGE, PLANES, UNIT, TR, TC, INDEX
        )
        live = channel_live & pixel_live
        plane = n * c + channel
        q = q_at(x, noise, b, n, noise_samples, hw, at, live, channel, channel_live, pixel, pixel_live, have, ACC)
        r = tl.load(rstd + plane, mask=channel_live, other=0.0)
        z = (activate(q, pre_slope, PRE) - tl.load(mean + plane, mask=channel_live, other=0.0)) * r
        p1, p2 = slopes_at(q, pre_slope, 1.0, PRE)
        total = number(u, at, live, have, 512, 0.0).to(ACC)
        total += number(u_noise, n * hw + pixel, pixel_live, have, 4096, 0.0)
        total = tl.where(live, total + number(u_b, channel, channel_live, have, 8192, 0.0), 0.0)
        w = total * p1
        s = factor_at(scale, at, live, plane, channel_live, have, 1, 1.0, SPATIAL, ACC)
        us = factor_at(u_scale, at, live, plane, channel_live, have, 1024, 0.0, SPATIAL, ACC)
        ut = factor_at(u_shift, at, live, plane, channel_live, have, 2048, 0.0, SPATIAL, ACC)
        a = z * s + factor_at(shift, at, live, plane, channel_live, have, 2, 0.0, SPATIAL, ACC)
        f1, f2 = slopes_at(a, slope, factor, ACT)
        e = number(dy, at, live, have, 16384, 0.0).to(ACC)
        g = e * f1
        e *= f2
        if STAGE != "apply":
            sums = _sums(w, z, g, e, s, us, ut, CURVED, SPATIAL, AXIS)
        if STAGE == "sums":
            to = partial + (n * pixel_chunks + chunk) * 12 * c + channel
            for k in tl.static_range(12):
                if (k < 5 or k >= 10 or CURVED) and (k < 10 or SPATIAL):
                    tl.store(to + k * c, sums[k], mask=channel_live)
        else:
            if STAGE == "whole":
                share = 1 / hw.to(ACC)
                m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11 = sums
                m = (
                    m0 * share, m1 * share, m2 * share, m3 * share, m4 * share, m5 * share,
                    m6 * share, m7 * share, m8 * share, m9 * share, m10 * share, m11 * share,
                )  # fmt: skip
                if SPATIAL:
                    _, _, c0, c1, c2, c3, c4, c5 = _numbers(m, r, 1.0, 0.0, 0.0, SPATIAL)
                else:
                    of_shift, of_scale, c0, c1, c2, c3, c4, c5 = _numbers(m, r, s, us, ut, SPATIAL)
                    put(d_shift, plane, of_shift * hw.to(ACC), channel_live, have, 64)
                    put(d_scale, plane, of_scale * hw.to(ACC), channel_live, have, 32)
            else:
                of = coefficients + n * 6 * c + channel
                c0 = tl.load(of, mask=channel_live, other=0.0)
                c1 = tl.load(of + c, mask=channel_live, other=0.0)
                c2 = tl.load(of + 2 * c, mask=channel_live, other=0.0)
                c3 = tl.load(of + 3 * c, mask=channel_live, other=0.0)
                c4 = tl.load(of + 4 * c, mask=channel_live, other=0.0)
                c5 = tl.load(of + 5 * c, mask=channel_live, other=0.0)
            pw = (w - c2 - z * c3) * r
            h = s * pw + us * z + ut
            put(d_dy, at, h * f1, live, have, 256)
            k = h * e if CURVED else tl.zeros_like(h)
            if SPATIAL:
                put(d_shift, at, k, live, have, 64)
                put(d_scale, at, k * z + g * pw, live, have, 32)
            d = g * s
            dz = k * s + g * us - (w * c1 + d * c3) * r
            dq = (dz - c4 - z * c5) * r * p1 + total * r * (d - c0 - z * c1) * p2
            dq = tl.where(live, dq, 0.0)
            put(d_x, at, dq, live, have, 16)
            if have & 128:
                to = (n * pixel_chunks + chunk) * c + channel
                tl.store(d_b_partial + to, tl.sum(dq, AXIS, keep_dims=True), mask=channel_live)
            if NOISE:
                if PLANES:
                    over_channels += dq
                else:
                    to = (part * (tl.num_programs(0) // (pixel_chunks * channel_chunks)) + n) * hw + pixel
                    tl.store(d_noise_partial + to, tl.sum(dq, 1, keep_dims=True), mask=pixel_live)
    if PLANES and NOISE:
        n, chunk, part, c, hw, _, _, _, pixel, pixel_live, _ = tile(
            0, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks, STAGE, PLANES, UNIT, TR, TC, INDEX
        )
        to = (part * (tl.num_programs(0) // (pixel_chunks * channel_chunks)) + n) * hw + pixel
        tl.store(d_noise_partial + to, tl.sum(over_channels, 0, keep_dims=True), mask=pixel_live)


@jit(do_not_specialize=["have", "channels", "pixels", "pixel_chunks"])
def _adain_double_bwd_finish_kernel(
    rstd, scale, u_scale, u_shift, d_scale, d_shift, partial, coefficients, have, channels, pixels, pixel_chunks,
    CURVED: tl.constexpr, SPATIAL: tl.constexpr, TK: tl.constexpr, TC: tl.constexpr,
):  # fmt: skip
    """``have``: as the double backward kernel's. Per-pixel factors have been done there."""
    n, channel, live = finished(channels, TC)
    plane = n * channels + channel
    t = totals(partial, n, channel, live, channels, pixel_chunks, 12, 16, CURVED, SPATIAL, TK, TC) / pixels
    m = (
        line(t, 0, 16), line(t, 1, 16), line(t, 2, 16), line(t, 3, 16), line(t, 4, 16), line(t, 5, 16),
        line(t, 6, 16), line(t, 7, 16), line(t, 8, 16), line(t, 9, 16), line(t, 10, 16), line(t, 11, 16),
    )  # fmt: skip
    r = tl.load(rstd + plane, mask=live, other=0.0).to(tl.float64)
    if SPATIAL:
        _, _, c0, c1, c2, c3, c4, c5 = _numbers(m, r, 1.0, 0.0, 0.0, SPATIAL)
    else:
        s = number(scale, plane, live, have, 1, 1.0).to(tl.float64)
        us = number(u_scale, plane, live, have, 1024, 0.0).to(tl.float64)
        ut = number(u_shift, plane, live, have, 2048, 0.0).to(tl.float64)
        of_shift, of_scale, c0, c1, c2, c3, c4, c5 = _numbers(m, r, s, us, ut, SPATIAL)
        put(d_shift, plane, of_shift * pixels, live, have, 64)
        put(d_scale, plane, of_scale * pixels, live, have, 32)
    to = coefficients + n * 6 * channels + channel
    WIDE: tl.constexpr = coefficients.dtype.element_ty
    tl.store(to, c0.to(WIDE), mask=live)
    tl.store(to + channels, c1.to(WIDE), mask=live)
    tl.store(to + 2 * channels, c2.to(WIDE), mask=live)
    tl.store(to + 3 * channels, c3.to(WIDE), mask=live)
    tl.store(to + 4 * channels, c4.to(WIDE), mask=live)
    tl.store(to + 5 * channels, c5.to(WIDE), mask=live)
