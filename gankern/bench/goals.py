"""What the numbers should be, as data: one entry per claim, matched to rows by patterns.

A metric is one of a row's numbers (``session.metrics``): ``speedup_eager``, ``speedup_compile``, ``copy_share``, or of
an extra contender NAME ``speedup_NAME`` and ``time_over_NAME``. Every run reports its goals; only ``--goals`` makes a
missed 'must' a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gankern.bench.rows import Row


def fits(sample: str, patterns: str) -> bool:
    """Whether one of several patterns, separated by '|', is that of a sample."""
    return any(fnmatchcase(sample, pattern) for pattern in patterns.split("|"))


@dataclass(frozen=True)
class Goal:
    """``metric`` of the matching rows must reach ``must`` and would like to reach ``stretch``.

    Attributes:
        op, sample, dtype, layout, backend: patterns (``*`` matches everything); ``sample`` may be several, separated by '|'.
        direction: one of ``rows.DIRECTIONS``.
        kind: 'cpu' or 'cuda'.
        metric: name of the number.
        at_most: the number must not be above (a time over another's) instead of not below.
        note: where the goal comes from, or under which conditions it was set.
    """

    op: str
    sample: str
    direction: str
    dtype: str
    layout: str
    kind: str
    metric: str
    must: float
    stretch: float
    at_most: bool = False
    backend: str = "best"
    note: str = ""

    def matches(self, row: Row, kind: str) -> bool:
        """Whether the goal is about this row on this kind of device."""
        return (
            self.kind == kind
            and self.direction == row.direction
            and fits(row.sample, self.sample)
            and fnmatchcase(row.op, self.op)
            and fnmatchcase(row.dtype, self.dtype)
            and fnmatchcase(row.layout, self.layout)
            and fnmatchcase(row.backend, self.backend)
        )

    def verdict(self, value: float | None) -> str:
        """'stretch', 'must', 'missed', or 'unmeasured' where there is no number."""
        if value is None:
            return "unmeasured"

        def reached(bound: float) -> bool:
            return value <= bound if self.at_most else value >= bound

        return "stretch" if reached(self.stretch) else "must" if reached(self.must) else "missed"


_FOUR_TAPS = "blur_4x4_*|up2_4x4_*|up2_rgb_*|down2_4x4_*"

# Layers without resampling: a plain transposed convolution does not filter, so no time over it is set for up=2.
_STYLE = "stylegan2_[0-9]*"

GOALS: tuple[Goal, ...] = (
    # CPU: 2 cores with AVX-512, float32 against the pure-PyTorch reference in the same run.
    Goal("upfirdn2d", _FOUR_TAPS, "forward", "float32", "nchw", "cpu", "speedup_eager", 10, 20),
    Goal("upfirdn2d", _FOUR_TAPS, "forward", "float32", "nchw", "cpu", "copy_share", 0.50, 0.75),
    Goal("bias_act", "*", "forward", "float32", "*", "cpu", "speedup_eager", 3, 5),
    Goal("bias_act", "*", "forward", "float32", "*", "cpu", "copy_share", 0.85, 0.85),
    Goal("bias_act", "*", "backward", "float32", "*", "cpu", "speedup_eager", 3, 5),
    Goal("modulated_conv2d", _STYLE, "forward", "float32", "*", "cpu", "time_over_plain_conv", 1.15, 1.05, at_most=True),
    Goal("modulated_conv2d", "stylegan2_*", "backward", "float32", "nchw", "cpu", "speedup_eager", 2, 3),
    Goal("path_length_step", "stylegan2_*", "forward", "float32", "nchw", "cpu", "speedup_eager", 2.5, 4),
    Goal("adain", "*", "forward", "float32", "*", "cpu", "speedup_eager", 3, 5),
    Goal("adain", "*", "backward", "float32", "*", "cpu", "speedup_eager", 3, 5),
    Goal("adain", "*", "double_backward", "float32", "*", "cpu", "speedup_eager", 5, 10),
    Goal("filtered_lrelu", "stylegan3_*", "forward", "float32", "*", "cpu", "speedup_eager", 20, 50),
    Goal("filtered_lrelu", "stylegan3_*", "backward", "float32", "*", "cpu", "speedup_eager", 10, 20),
    # R1 and R2 by the merged gradient: 8 units over 6. StyleGAN2's D has a minibatch standard deviation: double backward.
    *(
        Goal("penalised_step", sample, "forward", "float32", "nchw", "cpu", "time_over_plain_step", 1.6, 1.4, at_most=True)
        for sample in ("r3gan_*", "resnet_*")
    ),
    Goal("penalised_step", "stylegan2_*", "forward", "float32", "nchw", "cpu", "speedup_eager", 1.15, 1.3),
    # Whole networks: StyleGAN2 with channel_base 32768, forward, step of the generator, path length, R1 step.
    *(
        Goal(f"network_{phase}", sample, "forward", "float32", "nchw", "cpu", "speedup_eager", must, stretch)
        for sample, bounds in (
            (
                "stylegan2_128_b4",
                {"forward": (1.3, 1.8), "step": (1.5, 1.9), "path_length": (1.6, 2.1), "r1_step": (1.15, 1.3)},
            ),
            ("stylegan3_t_128_b1", {"forward": (3.5, 4.5), "step": (3.2, 4), "path_length": (4, 5.5)}),
            ("stylegan3_r_64_b1", {"forward": (8, 12), "step": (4, 6), "path_length": (8, 15)}),
        )
        for phase, (must, stretch) in bounds.items()
    ),
    *(
        Goal(f"network_{phase}", "stylegan2_128_b4", "forward", "float32", "nchw", "cpu", "time_over_bf16_autocast", 1.6, 2)
        for phase in ("forward", "step")
    ),
    # GPU: bfloat16, channels_last, device time.
    Goal(
        "second_order_weight_gradient",
        "stylegan2_d1024_b8",
        "forward",
        "bfloat16",
        "channels_last",
        "cuda",
        "speedup_eager",
        10,
        40,
    ),
    Goal(
        "second_order_weight_gradient",
        "r3gan_grouped_b8",
        "forward",
        "bfloat16",
        "channels_last",
        "cuda",
        "speedup_eager",
        30,
        90,
    ),
    *(
        Goal(
            "modulated_conv2d",
            sample,
            "forward",
            "bfloat16",
            "channels_last",
            "cuda",
            "time_over_plain_conv",
            must,
            stretch,
            at_most=True,
        )
        for sample, must, stretch in (
            ("stylegan2_512x64_b8", 1.10, 1.03),
            ("stylegan2_256x128_b8", 1.15, 1.04),
            ("stylegan2_128x256_b8", 1.20, 0.95),
            ("stylegan2_64x512_b8", 1.20, 0.76),
            ("stylegan2_32x1024_b8", 1.0, 0.60),
            ("stylegan2_512x8_b1", 1 / 1.5, 1 / 3),
        )
    ),
    Goal("modulated_conv2d", "stylegan2_256x*", "backward", "bfloat16", "channels_last", "cuda", "speedup_eager", 3, 4),
    Goal("upfirdn2d", _FOUR_TAPS, "forward", "bfloat16", "channels_last", "cuda", "copy_share", 0.88, 0.94),
    Goal("bias_act", "*", "forward", "bfloat16", "channels_last", "cuda", "copy_share", 0.90, 0.95),
    Goal("bias_act", "*", "backward", "bfloat16", "channels_last", "cuda", "copy_share", 0.90, 0.95),
    Goal("filtered_lrelu", "stylegan3_*", "forward", "bfloat16", "channels_last", "cuda", "speedup_eager", 20, 40),
    Goal("filtered_lrelu", "stylegan3_*", "forward", "bfloat16", "channels_last", "cuda", "copy_share", 0.40, 0.65),
    # Forward, backward and double backward end to end, with the penalty's own passes, which are PyTorch's on both sides.
    Goal("bias_act", "*", "double_backward", "bfloat16", "channels_last", "cuda", "speedup_eager", 3.5, 4),
)


def judge(row: Row, kind: str, metrics: Mapping[str, float | None], goals: Sequence[Goal] = GOALS) -> list[dict[str, Any]]:
    """Every goal of a row with its value and verdict, ready for the result file."""
    judged = []
    for goal in goals:
        if goal.matches(row, kind):
            value = metrics.get(goal.metric)
            judged.append(
                {
                    "metric": goal.metric,
                    "value": value,
                    "must": goal.must,
                    "stretch": goal.stretch,
                    "at_most": goal.at_most,
                    "verdict": goal.verdict(value),
                }
            )
    return judged


def describe(judged: Mapping[str, Any]) -> str:
    """One judged goal in words: 'speedup_eager 12.3 >= 10 (stretch 20): must'."""
    value = judged["value"]
    sign = "<=" if judged["at_most"] else ">="
    shown = "not measured" if value is None else f"{value:.3g}"
    return f"{judged['metric']} {shown} {sign} {judged['must']:g} (stretch {judged['stretch']:g}): {judged['verdict']}"
