"""Everything that a run has while it goes, how it begins, and how it is written down and taken up again."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankern._files import write_json
from gankern.data.dataset import Batch, ImageData, open_data
from gankern.data.images import save_grid
from gankern.models import FAMILIES, GAN, ModelConfig, config_of, from_config, load_checkpoint, save_checkpoint
from gankern.models.progan import Growing
from gankern.train.curves import Board, Row, Table, draw
from gankern.train.distributed import Workers, average_buffers, replicate
from gankern.train.ema import EMA
from gankern.train.samples import Sampler
from gankern.train.settings import BETWEEN, Settings, fill
from gankern.train.steps import Game, LatentGame, Stats
from gankern.train.translation import PairedGame, UnpairedGame

GAMES: dict[str, type[Game]] = {"latent": LatentGame, "paired": PairedGame, "unpaired": UnpairedGame}
"""Which steps a task has."""
LEAST_CELL = 48
"""Pixels: smaller images are enlarged in grids, by whole factors."""


class Run:
    """A run: data, networks, optimizers, averages, and how far it is.

    Args:
        settings: as the user gave them.
        team: the processes.

    Attributes:
        settings: with everything filled in.
        team: the processes.
        data: the images.
        gan: both networks.
        game: the steps.
        ema: the averaged generator, or None.
        step: steps made.
        images: images seen by the discriminator, over all processes.
        losses: rows of losses.
        metrics: rows of metrics.
        best: value of the first metric in ``best.pt``, or None.

    Raises:
        ValueError, FileNotFoundError, ImportError: settings, data, or an earlier run that do not fit; nothing is written then.
    """

    def __init__(self, settings: Settings, team: Workers) -> None:
        s = self.settings = fill(settings)
        self.team = team
        self.out = Path(s.out)
        self.checkpoint, self.best_checkpoint = self.out / "checkpoint.pt", self.out / "best.pt"
        earlier = team.first_does(self._earlier)
        assert s.batch is not None and s.n_critic is not None and s.ema is not None
        self.batch = team.share(s.batch, "batch")
        self.data, self.config = open_for(s)
        saved = load_checkpoint(self.checkpoint, s.ops) if earlier else None
        if saved is not None and saved.gan.config != self.config:
            raise ValueError(f"{self.checkpoint} is of another model: {saved.gan.config}; the settings ask for {self.config}")
        torch.manual_seed(s.seed)
        self.gan = saved.gan if saved is not None else from_config(self.config, s.ops)
        self.gan = self.gan.to(team.device).train()
        if s.channels_last:
            self.gan = self.gan.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Layers of resolutions that are still to come get no gradients.
        unused = isinstance(self.gan.generator, Growing)
        generator = replicate(self.gan.generator, team, unused)
        penalised = any(s.penalties.get(name) for name in ("r1", "r2", *BETWEEN))
        critic = replicate(self.gan.discriminator, team, unused, sync=not penalised)
        self.game = GAMES[self.data.task](self.gan, generator, critic, s, team)
        self.ema = EMA(self.gan.generator, s.ema, s.ema_rampup) if s.ema else None
        self.stream = self.data.stream(self.batch, s.seed, team.rank, team.world)
        self.sampler = Sampler(self.data, s.seed, self.batch, team.device)
        self.step, self.images, self.spent = 0, 0, 0.0
        self.losses, self.metrics = Table(self.out / "losses.csv"), Table(self.out / "metrics.csv")
        self.best: float | None = None
        self.window: dict[str, list[Any]] = {}
        torch.manual_seed(s.seed + 7919 * (team.rank + 1))  # latents of each rank's own
        if saved is not None:
            self._restore(saved.state, saved.ema)
        self.board = Board(self.out / "tensorboard", s.tensorboard and team.first)
        self.began = time.monotonic() - self.spent

    # ---- beginning ----------------------------------------------------------------------------------------------------------
    def _earlier(self) -> bool:
        """Whether there is a run to go on with; an error if there is one and nobody asked for it."""
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"out must be a folder, got the file {str(self.out)!r}")
        found = [p.name for p in (self.checkpoint, self.losses_path) if p.exists()]
        if found and not self.settings.resume:
            raise ValueError(
                f"out: {str(self.out)!r} has an earlier run ({', '.join(found)}): resume=True (--resume) goes on with it, "
                "or take another folder"
            )
        return self.checkpoint.exists()

    @property
    def losses_path(self) -> Path:
        """Of the losses."""
        return self.out / "losses.csv"

    def begin(self) -> None:
        """Write the first files, now that nothing can be wrong any more; all processes call this together."""

        def write() -> None:
            self.out.mkdir(parents=True, exist_ok=True)
            for left in self.out.glob(".*.tmp.*"):  # of a process that was killed while it wrote
                left.unlink(missing_ok=True)
            write_json(self.out / "settings.json", {**self.settings.to_dict(), "config": self.config.to_dict()})

        self.team.first_does(write)
        if self.step == 0:
            self.save()

    def next_batch(self) -> Batch:
        """The next images, where they are needed."""
        assert self.settings.batch is not None
        self.images += self.settings.batch
        return next(self.stream).to(self.team.device, self.settings.channels_last)

    # ---- losses -------------------------------------------------------------------------------------------------------------
    def note(self, stats: Stats) -> None:
        """Keep what a step found, until the next row."""
        for name, value in stats.items():
            self.window.setdefault(name, []).append(value)

    def healthy(self) -> bool:
        """Whether all losses of the window are finite, on all processes. On a GPU this waits for them."""
        self.window = {name: _numbers(values) for name, values in self.window.items()}
        return not self.team.any(not all(math.isfinite(v) for values in self.window.values() for v in values))

    def row(self) -> Row:
        """A row of losses: means over the window, which is empty then, and over the processes."""
        names = list(self.window)
        means = torch.tensor([sum(v) / len(v) for v in map(_numbers, self.window.values())], dtype=torch.float64)
        on_device = means.to(self.team.device)
        self.team.mean_(on_device)
        self.window = {}
        row = self.when() | dict(zip(names, on_device.tolist(), strict=True))
        g = self.gan.generator
        if isinstance(g, Growing):
            row |= {"resolution": float(g.image_shape[-1]), "alpha": g.alpha}
        self.losses.add(row)
        self.board.add("losses", row)
        return row

    def when(self) -> Row:
        """The first columns of a row."""
        return {"step": float(self.step), "images": float(self.images), "seconds": time.monotonic() - self.began}

    # ---- networks -----------------------------------------------------------------------------------------------------------
    @property
    def shown(self) -> nn.Module:
        """The generator whose images are looked at: the averaged one, if there is one."""
        return self.gan.generator if self.ema is None else self.ema.network

    def sample(self) -> None:
        """Write the grid, under its step's name and as the newest one."""
        if not self.team.first:
            return
        images, columns = self.sampler.grid(self.shown, self.settings.sample_count)
        factor = -(-LEAST_CELL // images.shape[-1])
        images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        for path in (self.out / "samples" / f"{self.step:07d}.png", self.out / "samples.png"):
            save_grid(path, images, columns)

    def draw(self) -> None:
        """Write curves and the rows behind them."""
        if self.team.first:
            self.losses.write()
            self.metrics.write()
            title = f"{self.settings.model} on {self.settings.data}, {self.settings.ops} ops"
            draw(self.out / "curves.png", self.losses.rows, self.metrics.rows, title)

    # ---- checkpoints --------------------------------------------------------------------------------------------------------
    def save(self, *paths: Path) -> bool:
        """Write checkpoints, unless a weight is not finite; all processes call this together.

        Returns:
            Whether they were written.
        """
        average_buffers(self.gan.generator, self.team)
        average_buffers(self.gan.discriminator, self.team)
        if self.team.any(not _finite(self.gan)):
            return False
        ranks = self.team.gather(self._rank_state())
        if self.team.first:
            state = {
                "step": self.step,
                "images": self.images,
                "seconds": time.monotonic() - self.began,
                "settings": self.settings.to_dict(),
                "game": self.game.state_dict(),
                "stream": self.stream.state_dict(),
                "best": self.best,
                "ranks": ranks,
            }
            # Rows first: a run killed in between has rows newer than its checkpoint, which are dropped when it goes on.
            self.losses.write()
            self.metrics.write()
            for path in paths or (self.checkpoint,):
                save_checkpoint(path, self.gan, None if self.ema is None else self.ema.network.state_dict(), state)
        self.team.barrier()
        return True

    def _rank_state(self) -> dict[str, Any]:
        cuda = self.team.device.type == "cuda"
        return {
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.team.device) if cuda else None,
            "game": self.game.rank_state_dict(),
            "window": {name: _numbers(values) for name, values in self.window.items()},
        }

    def _restore(self, state: dict[str, Any], ema: dict[str, Any] | None) -> None:
        """Go on where a checkpoint was written."""
        if "stream" not in state:
            raise ValueError(f"{self.checkpoint} holds networks but no training to go on with")
        self.step, self.images, self.spent, self.best = state["step"], state["images"], state["seconds"], state["best"]
        self.game.load_state_dict(state["game"])
        self.stream.load_state_dict(state["stream"])
        if self.ema is not None and ema is not None:
            self.ema.network.load_state_dict(ema)
        elif self.ema is not None:  # it is wanted from now on
            self.ema = EMA(self.gan.generator, self.ema.half_life, self.ema.rampup)
        if len(state["ranks"]) == self.team.world:  # random numbers of other ranks' would be no continuation
            own = state["ranks"][self.team.rank]
            self.game.load_rank_state_dict(own["game"])
            self.window = {name: list(values) for name, values in own["window"].items()}
            torch.set_rng_state(own["random"])
            if own["cuda"] is not None and self.team.device.type == "cuda":
                torch.cuda.set_rng_state(own["cuda"], self.team.device)
        else:
            torch.manual_seed(self.settings.seed + 7919 * (self.team.rank + 1) + self.step)
        for table in (self.losses, self.metrics):
            table.read(self.step)
        # A run that ended within a window has a row of the part, which the whole window's takes the place of.
        self.losses.rows = [r for r in self.losses.rows if r["step"] % self.settings.log_every == 0]

    def close(self) -> None:
        """Let go of threads and files."""
        self.stream.close()
        self.board.close()


def open_for(settings: Settings) -> tuple[ImageData, ModelConfig]:
    """The data of filled settings, and the model's config for them: as many classes as the data has."""
    s = settings
    config = config_of(s.model, **s.set)
    task = FAMILIES[config.family].task
    can = hasattr(config, "num_classes")
    if s.classes and not can:
        raise ValueError(f"classes: {s.model} has none; models with classes are {', '.join(_with_classes())}")
    classes = can and (s.classes or config.num_classes > 0)  # type: ignore[attr-defined]
    options = {"input_channels": config.in_channels} if hasattr(config, "in_channels") else {}
    data = open_data(s.data, config.resolution, config.channels, task, classes, s.flip, **options)
    if classes:
        if s.set.get("num_classes", data.num_classes) != data.num_classes:
            raise ValueError(f"set: num_classes must be {data.num_classes} for {s.data}, got {s.set['num_classes']}")
        config = config.replace(num_classes=data.num_classes)
    if config.family == "progan" and s.grow and "stage" not in s.set:
        config = config.replace(stage=0)
    return data, config


def stored_settings(out: str | Path) -> Settings:
    """The settings of the run in a folder, for who goes on with it.

    Raises:
        FileNotFoundError: no run there.
        ValueError: a file that is none.
    """
    path = Path(out) / "settings.json"
    if not path.exists():
        raise FileNotFoundError(f"no run in {str(out)!r}: there is no settings.json")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(stored, dict) or "model" not in stored:
        raise ValueError(f"{str(path)!r} has no settings of a training run")
    model = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["set"].items()}
    return Settings.from_dict(stored | {"set": model})


def _with_classes() -> list[str]:
    return [name for name, family in FAMILIES.items() if hasattr(family.tiny, "num_classes")]


def _numbers(values: list[Any]) -> list[float]:
    """Floats of tensors and floats; one wait for a GPU, not one for each."""
    tensors = [v for v in values if isinstance(v, Tensor)]
    if not tensors:
        return list(values)
    found = iter(torch.stack([t.reshape(()).double() for t in tensors]).tolist())
    return [next(found) if isinstance(v, Tensor) else v for v in values]


@torch.no_grad()
def _finite(gan: GAN) -> bool:
    """Whether all weights and buffers are numbers."""
    tensors = [t for t in (*gan.parameters(), *gan.buffers()) if t.is_floating_point() and t.numel()]
    return bool(torch.stack([torch.isfinite(t).all() for t in tensors]).all())


__all__ = ["Run", "open_for", "stored_settings"]
