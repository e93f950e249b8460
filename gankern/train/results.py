"""What a finished run says of itself: settings, versions, machine, losses and metrics, as JSON."""

from __future__ import annotations

import math
from typing import Any

from gankern import _info
from gankern._files import write_json
from gankern.train.run import Run


def results(run: Run, stopped: str | None) -> dict[str, Any]:
    """Numbers and settings of a run, for ``results.json``.

    Args:
        run: as it is at its end.
        stopped: as for :class:`gankern.train.Result`.
    """
    facts = _info.gather()
    counts = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in (("generator", run.gan.generator), ("discriminator", run.gan.discriminator))
    }
    return {
        "step": run.step,
        "images": run.images,
        "seconds": round(run.when()["seconds"], 1),
        "stopped": stopped,
        "processes": run.team.world,
        "device": str(run.team.device),
        "data": repr(run.data),
        "parameters": counts,
        "losses": _clean(run.losses.rows[-1]) if run.losses.rows else {},
        "metrics": [_clean(row) for row in run.metrics.rows],
        "settings": run.settings.to_dict() | {"out": run.out.name},
        "config": run.config.to_dict(),
        "versions": facts["versions"],
        "machine": facts["machine"],
    }


def write_results(run: Run, stopped: str | None) -> None:
    """Write ``out/results.json``."""
    write_json(run.out / "results.json", results(run, stopped))


def _clean(row: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {k: v if math.isfinite(v) else None for k, v in row.items()}


__all__ = ["results", "write_results"]
