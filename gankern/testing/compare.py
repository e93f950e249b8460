"""Comparison of a result with the float64 reference, with tolerances that are argued rather than tuned.

An element's error is measured against a scale that rounding cannot fall below: the largest magnitude in the reference of
the same tensor. float32 and float64 results must be within a fixed multiple of the type's rounding unit of it; half types must
not be worse than twice what eager PyTorch itself makes in that type (plus one rounding of the output).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# DESIGN.md, rule 6: kernels accumulate in float32 (float64 for float64).
RELATIVE = {torch.float32: 1e-6, torch.float64: 1e-12}
# One rounding of the output to the type: half of its epsilon, relative to the element.
UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@dataclass(frozen=True)
class Comparison:
    """Largest absolute error, the scale it is measured against, and the largest error that is allowed."""

    error: float
    scale: float
    allowed: float
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance (NaN never is)."""
        return not self.message and self.error <= self.allowed

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"error {self.error:.3g} at scale {self.scale:.3g}, allowed {self.allowed:.3g}"


def compare(result: Tensor | None, truth: Tensor | None, eager: Tensor | None = None, factor: float = 1.0) -> Comparison:
    """Compare ``result`` with the float64 ``truth``.

    Args:
        result: what a kernel gave, in its own dtype; None where a gradient is absent.
        truth: the reference in float64 on the same (already rounded) inputs.
        eager: what the reference gives in the dtype of ``result``: half types are allowed twice its error.
        factor: multiple of the tolerance for sums of many terms; the caller argues it.
    """
    if result is None or truth is None:
        missing = result is None and truth is None
        return Comparison(0.0, 0.0, 0.0, "" if missing else f"one is None: result {result is None}, reference {truth is None}")
    if result.shape != truth.shape:
        return Comparison(0.0, 0.0, 0.0, f"shape {list(result.shape)} instead of {list(truth.shape)}")
    if result.numel() == 0:
        return Comparison(0.0, 0.0, 0.0)
    truth = truth.detach().to("cpu", torch.float64)
    got = result.detach().to("cpu", torch.float64)
    scale = float(truth.abs().max())
    error = float((got - truth).abs().max())
    if error != error:
        count = int((~torch.isfinite(got)).sum())
        return Comparison(error, scale, 0.0, f"{count} of {got.numel()} elements are not finite")
    if result.dtype in RELATIVE:
        allowed = RELATIVE[result.dtype] * scale * factor
    else:
        own = 0.0 if eager is None else float((eager.detach().to("cpu", torch.float64) - truth).abs().max())
        allowed = 2 * own + UNIT_ROUNDOFF[result.dtype] * scale * factor
    return Comparison(error, scale, allowed)


def assert_close(
    result: Tensor | None, truth: Tensor | None, eager: Tensor | None = None, factor: float = 1.0, what: str = ""
) -> None:
    """:func:`compare`, raising AssertionError with the numbers if it is not ok."""
    comparison = compare(result, truth, eager, factor)
    if not comparison.ok:
        raise AssertionError(f"{what or 'result'}: {comparison}")
