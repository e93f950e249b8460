"""What the Triton kernels of adain share: a program's tile, what is loaded for it, sums over rectangles."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from gankern._triton import jit, narrow, tl
from gankern._triton_activations import slopes

SIZES = ["have", "noise_samples", "channels", "pixels", "channel_chunk", "channel_chunks", "pixel_chunk", "pixel_chunks"]


@jit
def tile(
    step, channels, pixels, channel_chunk, channel_chunks, pixel_chunk, pixel_chunks,
    STAGE: tl.constexpr, PLANES: tl.constexpr, UNIT: tl.constexpr, TR: tl.constexpr, TC: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Of the program's tile ``step`` channels down: the sample; its rectangle's number along pixels and along channels;
    channels and pixels of a sample, pixels of the rectangle; its channels and which of them are there; its pixels, likewise;
    its places in an image.

    Numbers of columns come divided by UNIT, so that Triton sees alignment. Neighbours in time are neighbours in memory; what is
    applied begins where the sums have ended, with what is in the cache.
    """
    pid = tl.program_id(0)
    if STAGE == "apply":
        pid = tl.num_programs(0) - 1 - pid
    down = tl.arange(0, TR)[:, None]
    across = tl.arange(0, TC)[None, :]
    if PLANES:
        chunk = pid % pixel_chunks
        line = pid // pixel_chunks
        part = line % channel_chunks
        n = (line // channel_chunks).to(tl.int64)
        pixels = pixels * UNIT
        pixel_chunk = pixel_chunk * UNIT
        down = step + down
        channel = part * channel_chunk + down
        pixel = chunk * pixel_chunk + across
        channel_live = (down < channel_chunk) & (channel < channels)
        pixel_live = (across < pixel_chunk) & (pixel < pixels)
        at = n * channels * pixels + (channel.to(INDEX) * pixels + pixel)
    else:
        part = pid % channel_chunks
        line = pid // channel_chunks
        chunk = line % pixel_chunks
        n = (line // pixel_chunks).to(tl.int64)
        channels = channels * UNIT
        channel_chunk = channel_chunk * UNIT
        channel = part * channel_chunk + across
        pixel = chunk * pixel_chunk + down
        channel_live = (across < channel_chunk) & (channel < channels)
        pixel_live = (down < pixel_chunk) & (pixel < pixels)
        at = n * channels * pixels + (pixel.to(INDEX) * channels + channel)
    count = tl.minimum(pixel_chunk, pixels - chunk * pixel_chunk)
    return n, chunk, part, channels, pixels, count, channel, channel_live, pixel, pixel_live, at


@jit
def number(table, at, live, have, BIT: tl.constexpr, absent: tl.constexpr):
    """``table[at]``; where that is absent, a number that changes nothing."""
    return tl.load(table + at, mask=live & ((have & BIT) != 0), other=absent)


@jit
def factor_at(
    factor, at, live, plane, plane_live, have, BIT: tl.constexpr, absent: tl.constexpr, SPATIAL: tl.constexpr, ACC: tl.constexpr
):
    """Of an image, or one for each plane."""
    if SPATIAL:
        return number(factor, at, live, have, BIT, absent).to(ACC)
    else:
        return number(factor, plane, plane_live, have, BIT, absent)


@jit
def put(target, at, value, live, have, BIT: tl.constexpr):
    """Store ``value``, if ``target`` is there."""
    tl.store(target + at, narrow(value, target.dtype.element_ty), mask=live & ((have & BIT) != 0))


@jit
def q_at(x, noise, b, n, noise_samples, pixels, at, live, channel, channel_live, pixel, pixel_live, have, ACC: tl.constexpr):
    """Q = x + noise + b."""
    q = tl.load(x + at, mask=live, other=0.0).to(ACC)
    q += number(noise, (n % noise_samples) * pixels + pixel, pixel_live, have, 4, 0.0)
    return q + number(b, channel, channel_live, have, 8, 0.0)


@jit
def slopes_at(v, alpha, gain, ACT: tl.constexpr):
    """First and second derivative of gain f."""
    return slopes(v, alpha, gain, 1.0, 0.0, ACT, "x", False)


@jit
def totals(
    partial, n, channel, channel_live, channels, pixel_chunks,
    SUMS: tl.constexpr, PADDED: tl.constexpr, CURVED: tl.constexpr, SPATIAL: tl.constexpr, TK: tl.constexpr, TC: tl.constexpr,
):  # fmt: skip
    """[PADDED, TC]: sums of planes over their rectangles, always in the same order."""
    chunk = tl.arange(0, TK)[:, None, None]
    k = tl.arange(0, PADDED)[None, :, None]
    there = (k < SUMS) & ((k < 5) | (k >= 10) | CURVED) & ((k < 10) | SPATIAL)
    there = there & channel_live[None, None, :]
    total = tl.zeros((TK, PADDED, TC), tl.float64)
    for first in range(0, pixel_chunks, TK):
        line = n * pixel_chunks + first + chunk
        at = (line * SUMS + k) * channels + channel[None, None, :]
        total += tl.load(partial + at, mask=there & (first + chunk < pixel_chunks), other=0.0).to(tl.float64)
    return tl.sum(total, 0)


@jit
def line(table, k: tl.constexpr, ROWS: tl.constexpr):
    """``table[k]``."""
    return tl.sum(tl.where(tl.arange(0, ROWS)[:, None] == k, table, 0.0), 0)


@jit
def finished(channels, TC: tl.constexpr):
    """Of a program that finishes planes: sample, channels, which of them are there."""
    pieces = tl.cdiv(channels, TC)
    pid = tl.program_id(0)
    channel = (pid % pieces) * TC + tl.arange(0, TC)
    return (pid // pieces).to(tl.int64), channel, channel < channels
