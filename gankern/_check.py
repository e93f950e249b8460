"""``gankern check``: every kernel on this very machine against the reference, to second order."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

import torch

from gankern._dispatch import OPS, OpSpec
from gankern._library import NATIVE
from gankern._samples import DTYPES, LAYOUTS, Sample
from gankern._validate import short
from gankern.testing import check_sample

Case = tuple[OpSpec, str, str, torch.dtype, str, list[Sample]]

COMPOSITION = "composition"
"""In place of a backend: the op as it stands, its parts on whatever backends dispatch takes."""


def _cases(names: Sequence[str], everything: bool) -> Iterator[tuple[Case, str | None]]:
    """One line of the table each: (op, backend, device, dtype, layout, samples), and the reason if it cannot run."""
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for name in names:
        spec = OPS[name]
        samples = [s for s in spec.samples if ("contract" if everything else "check") in s.tags]
        for device in devices:
            if spec.table is None:
                for dtype in DTYPES:
                    for layout in LAYOUTS:
                        yield (spec, COMPOSITION, device, dtype, layout, samples), None
                continue
            for row in spec.table.rows:
                if (row.name == "cuda") != (device == "cuda") and row.name in ("cpu", "cuda"):
                    continue
                if row.name == "triton" and device == "cpu":
                    continue
                for dtype in DTYPES:
                    for layout in LAYOUTS:
                        probe = spec.prepare(**samples[0].inputs(dtype, layout, device))
                        yield (spec, row.name, device, dtype, layout, samples), row.can_run(*probe)


def run(names: Sequence[str] | None = None, everything: bool = False) -> int:
    """Print the table; 1 if anything failed, 2 for an unknown op, else 0."""
    unknown = sorted(set(names or []) - set(OPS))
    if unknown:
        print(f"gankern check: unknown op {', '.join(unknown)}; known: {', '.join(sorted(OPS))}", file=sys.stderr)
        return 2
    started = time.time()
    failed = passed = 0
    missing: set[tuple[str, str, str, str]] = set()
    print(f"{'op':18s} {'backend':10s} {'device':6s} {'dtype':9s} {'layout':14s} {'samples':>7s}  worst error / allowed")
    for (spec, backend, device, dtype, layout, samples), reason in _cases(list(names or OPS), everything):
        head = f"{spec.name:18s} {backend:10s} {device:6s} {short(dtype):9s} {layout:14s}"
        if reason is not None:
            if (spec.name, backend, device, reason) not in missing:  # once, not for every dtype and layout
                missing.add((spec.name, backend, device, reason))
                print(f"{spec.name:18s} {backend:10s} {device:6s} cannot run: {reason}")
            continue
        worst, worst_text, complaints, count = 0.0, "", [], 0
        for sample in samples:
            if layout not in sample.layouts:
                continue
            count += 1
            for outcome in check_sample(spec, sample, None if backend == COMPOSITION else backend, dtype, layout, device):
                c = outcome.comparison
                share = c.error / c.allowed if c.allowed else 0.0
                if not c.ok:
                    complaints.append(f"{sample.name}, {outcome.what}: {c}")
                elif share >= worst:
                    worst, worst_text = share, f"{share:6.3f}  ({sample.name}, {outcome.what})"
        passed += not complaints
        failed += bool(complaints)
        print(f"{head} {count:7d}  " + ("FAILED" if complaints else f"ok {worst_text}"), flush=True)
        for complaint in complaints:
            print(f"    {complaint}")
    print(f"{passed} passed, {failed} failed" + (f", {len(missing)} cannot run here" if missing else ""), end="")
    print(f" in {time.time() - started:.0f} s (values, first and second derivatives against float64)")
    if not NATIVE.cpu:
        print(f"no native CPU kernels: {NATIVE.reason('cpu')}")
    return 1 if failed else 0
