"""Small things that every part of the benchmark system uses: its error, and how numbers are written."""

from __future__ import annotations

import re

SHORT_DTYPES = {"float32": "f32", "float64": "f64", "bfloat16": "bf16", "float16": "f16"}
SHORT_LAYOUTS = {"nchw": "nchw", "channels_last": "nhwc"}
SHORT_DIRECTIONS = {"forward": "fwd", "backward": "fwd+bwd", "double_backward": "double bwd"}


class BenchError(Exception):
    """Bad input of the user's: one line that names it."""


def first_line(error: BaseException, limit: int = 160) -> str:
    """'Type: first line of the message', shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def slug(text: str) -> str:
    """Lower case, everything but letters and digits a hyphen (benchmarks/gpu.sh makes the same in shell)."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def seconds(value: float | None) -> str:
    """A time with three digits and a unit."""
    if value is None:
        return "-"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= factor:
            return f"{digits(value / factor)} {unit}"
    return f"{digits(value / 1e-9)} ns"


def digits(value: float) -> str:
    """Three significant digits without an exponent (more only in front of the point)."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def times(value: float | None) -> str:
    """A ratio: '12.3x'."""
    return "-" if value is None else f"{digits(value)}x"


def percent(value: float | None) -> str:
    """A share: '61%'."""
    return "-" if value is None else f"{100 * value:.0f}%"


def mebibytes(value: float | None) -> str:
    """Bytes in MiB."""
    return "-" if value is None else digits(value / 2**20) if value else "0"
