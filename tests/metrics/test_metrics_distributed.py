"""Several processes: the metrics of all shares together are those of one process, and an error of one is one of all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from gankern import models
from gankern.metrics import Evaluator, Features, GaussianStatistics, generated, open_source

WORLD = 2
METRICS = "fid,kid,prdc,is,modes,modes_kl"


def images(n: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def project(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(7)
    flat = x.flatten(1).double()  # else the rounding of a product depends on the number of its rows
    weights = torch.randn(768, 8, generator=g, dtype=torch.float64)
    return flat @ weights[:, :5], flat @ weights[:, 5:]


def generator() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.from_config(models.FAMILIES["stylegan2"].tiny).generator


def evaluate(rank: int, world: int) -> list[dict[str, float]]:
    """Uneven shares of the real images and of the generated ones; the second time as a stream."""
    real = open_source(images(41, 0), "real")
    fake = generated(generator(), 35, seed=2)
    if world > 1:
        real, fake = real.share(rank, world), fake.share(rank, world)  # type: ignore[union-attr]
    evaluator = Evaluator(real, METRICS, project, sharded=True)
    assert evaluator.real_count == 41
    return [evaluator.evaluate(fake), evaluator.evaluate(fake.parts(4))]


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    try:
        found = evaluate(rank, WORLD)
        x = torch.randn(50, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 100
        statistics = GaussianStatistics(4)
        statistics.update(x[:13] if rank == 0 else x[13:])
        statistics.all_reduce()
        errors = []
        for fake in (3 if rank == 1 else images(9, 1), torch.zeros(9, 4 if rank == 1 else 5)):
            try:
                Evaluator(images(9, 0), "kid", project, sharded=True).evaluate(fake)
                errors.append("none")
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
        Path(folder, f"{rank}.json").write_text(json.dumps({"found": found, "errors": errors}))
        torch.save((statistics.count, statistics.mean, statistics.covariance), Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this PyTorch has no gloo")
def test_two_processes_are_one(tmp_path: Path) -> None:
    mp.spawn(_work, args=(str(tmp_path),), nprocs=WORLD)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD))
    assert first["found"] == second["found"], "every rank is given the same"
    alone = evaluate(0, 1)
    for mine, theirs in zip(alone, first["found"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-9, abs=1e-9)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 100
    whole = GaussianStatistics.of(x)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    assert all(torch.equal(a, b) for a, b in zip(states[0][1:], states[1][1:], strict=True))
    assert states[0][0] == 50
    torch.testing.assert_close(states[0][1], whole.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(states[0][2], whole.covariance, rtol=1e-11, atol=1e-12)
    # What one rank cannot do fails on both: the other does not wait for ever.
    assert first["errors"][0].startswith("RuntimeError: metrics: rank 1 failed with TypeError: fake must be a folder")
    assert second["errors"][0].startswith("TypeError: fake must be a folder")
    assert all("as many features" in e["errors"][1] for e in (first, second))


def test_without_a_process_group_sharded_changes_nothing() -> None:
    statistics = GaussianStatistics.of(torch.zeros(3, 2))
    statistics.all_reduce()
    assert statistics.count == 3
    features = Features(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    assert Evaluator(features, "kid", sharded=True).evaluate(features) == Evaluator(features, "kid").evaluate(features)
