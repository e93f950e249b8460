"""Several processes: the gradients are those of one process with the whole batch, and torchrun trains, resumes and measures."""

from __future__ import annotations

import csv
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gankern.data.dataset import Batch
from gankern.models import FAMILIES, GAN, from_config, load_checkpoint
from gankern.train import Settings, run, steps, train
from gankern.train.distributed import Workers, replicate
from gankern.train.run import GAMES
from gankern.train.settings import fill

WORLD, BATCH = 2, 4
# Family, changes of its tiny config, penalties.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    "merged R1": ("stylegan2", {"mbstd_group": 0, "use_noise": False}, {"r1": 3.0, "path_length": 0.0}),
    "R1 and R2, relativistic": ("r3gan", {}, {"r1": 2.0, "r2": 1.0}),
    "WGAN-GP": ("wgan-gp", {}, {"wgan_gp": 10.0}),
    "classes, spectral norm, R1": ("sngan", {}, {"r1": 1.0}),
    "pairs": ("pix2pix", {"norm": "instance", "dropout": 0.0}, {"r1": 1.0}),
    "two domains": ("cyclegan", {}, {}),
    "growing": ("progan", {"stddev_group": 0, "stage": 1, "alpha": 0.5}, {"wgan_gp": 10.0}),
}


def inputs(family: str, gan: GAN) -> tuple[Batch, Tensor, Tensor]:
    """A batch for all processes, latents for it, and WGAN-GP's random numbers."""
    random = torch.Generator().manual_seed(1)
    config = gan.config
    shape = (BATCH, config.channels, config.resolution, config.resolution)
    images, others = (torch.rand(shape, generator=random, dtype=torch.float64) * 2 - 1 for _ in range(2))
    labels = torch.arange(BATCH) % getattr(config, "num_classes", 0) if getattr(config, "num_classes", 0) else None
    z = torch.randn(BATCH, getattr(gan.generator, "z_dim", 1), generator=random, dtype=torch.float64)
    eps = torch.rand(BATCH, generator=random, dtype=torch.float64)
    return Batch(images, labels, others if FAMILIES[family].task != "latent" else None), z, eps


def gradients(name: str, team: Workers, part: slice) -> dict[str, Tensor]:
    """Both networks' gradients of one step on a part of the batch."""
    family, changes, penalties = CASES[name]
    torch.manual_seed(0)
    gan = from_config(FAMILIES[family].tiny, **changes).double()
    if family == "r3gan":  # its residual branches start at 0, where no penalty reaches them
        for p in gan.parameters():
            p.data.add_(torch.randn(p.shape, dtype=p.dtype), alpha=0.1)
    gan.generator.eval()  # batch norm's statistics are each process's own
    batch, z, eps = inputs(family, gan)
    settings = fill(
        Settings(
            model=family,
            batch=BATCH,
            set={},
            penalties=penalties,
            style_mixing=0.0,
            r1_every=1,
            optimizer="sgd",
            lr=0.0,
            grow=False,
        )
    )
    unused = family == "progan"
    networks = [replicate(n, team, unused) for n in (gan.generator, gan.discriminator)]
    game = GAMES[FAMILIES[family].task](gan, *networks, settings, team)
    # What is random is taken from numbers for the whole batch.
    gan.generator.sample_z = lambda count: z[part]  # type: ignore[method-assign, assignment]
    penalty = steps.losses.wgan_gp
    steps.losses.wgan_gp = lambda *given, **options: penalty(*given, eps=eps[part], **options)
    mine = Batch(*(None if x is None else x[part] for x in (batch.images, batch.labels, batch.inputs)))
    try:
        game.critic_step(mine, 0)
        found = {f"discriminator.{n}": p.grad for n, p in gan.discriminator.named_parameters() if p.grad is not None}
        game.generator_step(mine, 0)
    finally:
        steps.losses.wgan_gp = penalty
    found |= {f"generator.{n}": p.grad for n, p in gan.generator.named_parameters() if p.grad is not None}
    return found


def compare(rank: int, folder: Path) -> None:
    """Every case on this process's share, and on rank 0 the whole batch in one process."""
    share = BATCH // WORLD
    lines = []
    for name in CASES:
        ours = gradients(name, Workers(rank, WORLD), slice(rank * share, (rank + 1) * share))
        if rank:
            continue
        whole = gradients(name, Workers(), slice(None))
        assert ours.keys() == whole.keys(), name
        for network in ("generator", "discriminator"):
            names = [n for n in ours if n.startswith(network)]
            norm = torch.stack([whole[n].norm() for n in names]).norm()
            error = torch.stack([(ours[n] - whole[n]).norm() for n in names]).norm()
            lines.append(f"{name}\t{network}\t{float(norm)}\t{float(error / norm)}")
    if not rank:
        (folder / "errors").write_text("\n".join(lines))


def train_and_resume(rank: int, folder: Path) -> None:
    """A whole run, and one that ends and is resumed; what is refused, all processes refuse."""
    settings = Settings(
        set={"width": 8, "z_dim": 8}, batch=4, log_every=1, device="cpu", flip=True, steps=4, checkpoint_every=2,
        sample_count=4, metric=("kernel",), metric_every=2, metric_images=40, extractor="pixels", progress=False,
    )  # fmt: skip
    train(settings.replace(out=str(folder / "whole")))
    broken = settings.replace(out=str(folder / "broken"))
    train(broken.replace(steps=2))
    with pytest.raises(ValueError, match="has an earlier run"):
        train(broken)
    with pytest.raises(ValueError, match="batch must be a multiple of the 2 processes, got 3"):
        train(settings.replace(out=str(folder / "uneven"), batch=3))
    train(broken.replace(resume=True))
    # A network in DistributedDataParallel that outlives its group may hang in its end.
    assert not [o for o in gc.get_objects() if isinstance(o, DistributedDataParallel)]


def in_processes(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    run.draw = lambda *args: False  # type: ignore[assignment]  # pictures of curves take longer than these runs
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    try:
        compare(rank, Path(folder))
        train_and_resume(rank, Path(folder))
    finally:
        gc.collect()
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    found = tmp_path_factory.mktemp("two")
    mp.spawn(in_processes, (str(found),), nprocs=WORLD)
    return found


def test_gradients_of_penalties_are_those_of_the_whole_batch(folder: Path) -> None:
    rows = [line.split("\t") for line in (folder / "errors").read_text().splitlines()]
    assert {(name, network) for name, network, *_ in rows} == {(n, w) for n in CASES for w in ("generator", "discriminator")}
    for name, network, norm, error in rows:
        assert float(norm) > 1e-8, (name, network)
        assert float(error) < 1e-9, (name, network, error)


def test_resume_is_exact_in_several_processes(folder: Path) -> None:
    a, b = (load_checkpoint(folder / out / "checkpoint.pt") for out in ("whole", "broken"))
    assert a.state["step"] == b.state["step"] == 4 and len(a.state["ranks"]) == WORLD
    for name, value in a.gan.state_dict().items():
        assert torch.equal(value, b.gan.state_dict()[name]), name
    assert not torch.equal(*(r["random"] for r in a.state["ranks"])), "each process draws latents of its own"
    tables = []
    for out in ("whole", "broken"):
        with open(folder / out / "metrics.csv", newline="") as file:
            tables.append([(row["step"], row["kernel"]) for row in csv.DictReader(file)])
    assert tables[0] == tables[1] and [step for step, _ in tables[0]] == ["2", "4"]
    for name in ("best.pt", "samples.png", "results.json"):
        assert (folder / "whole" / name).exists(), name
    assert not (folder / "uneven").exists()


def test_another_number_of_processes_goes_on(folder: Path) -> None:
    """The data's order and the weights, if not the random numbers, are those of the run before."""
    before = load_checkpoint(folder / "broken" / "checkpoint.pt").state
    settings = Settings.from_dict(before["settings"]).replace(resume=True, steps=5, metric=(), metric_every=0)
    result = train(settings)
    state = load_checkpoint(result.checkpoint).state
    assert result.step == 5 and len(state["ranks"]) == 1
    assert state["stream"]["position"] == before["stream"]["position"] + 4 == state["images"]


def test_torchrun(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD), "-m", "gankern", "train"]
    small = [
        "--set",
        "width=8",
        "--set",
        "z_dim=8",
        "--batch",
        "4",
        "--steps",
        "2",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [sys.executable, *torchrun, *small],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("step 2/2") == 1, "only one process speaks"
    assert len(load_checkpoint(tmp_path / "out" / "checkpoint.pt").state["ranks"]) == WORLD
    assert (tmp_path / "out" / "samples.png").exists()
