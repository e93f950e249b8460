"""The training loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gankern.models import load_checkpoint
from gankern.train.curves import Row
from gankern.train.distributed import Workers, workers
from gankern.train.evaluate import Judge
from gankern.train.progress import Progress, Referee
from gankern.train.results import write_results
from gankern.train.run import Run
from gankern.train.settings import Settings
from gankern.train.steps import Stats


@dataclass
class Result:
    """What a run left behind.

    Attributes:
        out: its folder.
        step: steps made in all.
        stopped: why it ended before its last step, 'nan' or 'interrupted'; or None.
        checkpoint: the newest checkpoint (``out/checkpoint.pt``).
        best: the checkpoint of the best metric (``out/best.pt``), or None.
        samples: the newest grid (``out/samples.png``).
        losses: the rows of ``out/losses.csv``.
        metrics: the rows of ``out/metrics.csv``.
    """

    out: Path
    step: int
    stopped: str | None
    checkpoint: Path
    best: Path | None
    samples: Path
    losses: list[Row] = field(default_factory=list)
    metrics: list[Row] = field(default_factory=list)


def train(settings: Settings) -> Result:
    """Train a GAN.

    ``settings.out`` gets: ``checkpoint.pt`` (:func:`gankern.models.load_checkpoint`) and ``best.pt``, if there is a metric;
    ``samples.png`` and ``samples/STEP.png``; ``losses.csv``, ``metrics.csv`` and ``curves.png``; ``settings.json`` and
    ``results.json``. Each file is whole at any moment, and the checkpoint is there from before the first step on.

    A resumed run is what the unbroken one would have been, bit for bit on one machine: weights, averages, optimizers, random
    numbers, order of the data and running means are all in the checkpoint. Losses that are no numbers end a run; the last good
    checkpoint stays. Ctrl-C or SIGTERM end it after the step, with a checkpoint (in one process).

    With ``torchrun --nproc-per-node N -m gankern train ...``, or in a process group of the caller's, every process takes its
    share of each batch; the gradients, those of penalties too, are those of the whole batch. Batch norm (but SyncBatchNorm on
    GPUs, where no penalty needs second derivatives), minibatch standard deviation and the mean of path lengths are of each
    process's share.

    Args:
        settings: what to do.

    Returns:
        What was done.

    Raises:
        ValueError, TypeError: a setting that cannot be, an earlier run in ``out`` without ``resume``, a checkpoint that is
            truncated or of another model; nothing is changed then.
        FileNotFoundError: no such data.
        ImportError: a library that data or pictures need is not installed.
    """
    with workers(settings.device) as team:
        return _train(settings, team)


def _train(settings: Settings, team: Workers) -> Result:
    """In a frame of its own, so that the networks go before the process group does."""
    run = Run(settings, team)
    try:
        return _loop(run)
    finally:
        run.close()


def _loop(run: Run) -> Result:
    s, game, first = run.settings, run.game, run.team.first
    assert s.n_critic is not None and s.batch is not None
    judge = Judge(run) if s.metric else None
    progress = Progress(s.steps, run.step, s.progress and first, s.model)
    referee = Referee()
    if run.step:
        progress.note(f"{s.out}: goes on from step {run.step}")
    run.begin()
    stopped: str | None = None
    with _asked_to_stop(run.team.world == 1) as asked:
        while run.step < s.steps and stopped is None:
            # One step: the discriminator's, n_critic times, then the generator's, then the average follows.
            game.prepare(run.step)
            seen = run.images
            stats: Stats = {}
            for i in range(s.n_critic):
                batch = run.next_batch()
                stats |= game.critic_step(batch, run.step * s.n_critic + i)
            for i in range(s.n_generator):
                stats |= game.generator_step(batch, run.step * s.n_generator + i)
            if run.ema is not None:
                run.ema.update(run.gan.generator, s.batch, seen)
            run.step += 1
            run.note(stats)

            # What is due now and then. Rows and metrics come before the checkpoint, which remembers them.
            last = run.step == s.steps or bool(asked)
            log, measure, sample, save = (
                every > 0 and run.step % every == 0
                for every in (s.log_every, s.metric_every, s.sample_every, s.checkpoint_every)
            )
            every_step = run.team.device.type == "cpu" and run.team.world == 1  # there losses need not be waited for
            if (log or measure or sample or save or last or every_step) and not run.healthy():
                stopped = "nan"
            elif last and run.step < s.steps:
                stopped = "interrupted"
            if log and stopped != "nan":
                row = run.row()
                progress.losses(row)
                progress.note(referee.look(row))
            if judge is not None and (measure or run.step == s.steps) and stopped != "nan":
                progress.metrics(judge.judge())
            if (save or last) and stopped != "nan" and not run.save():
                stopped = "nan"
            if sample and not last and stopped is None:
                run.sample()
                run.draw()
            progress.step(run.step)
    return _finish(run, stopped, progress)


def _finish(run: Run, stopped: str | None, progress: Progress) -> Result:
    """The last row, grid and curves, and the results: of the newest checkpoint, whatever happened after it."""
    if run.window:
        run.row()
    if stopped == "nan":
        kept = load_checkpoint(run.checkpoint, run.settings.ops, run.team.device)
        run.gan.load_state_dict(kept.gan.state_dict())
        if run.ema is not None and kept.ema is not None:
            run.ema.network.load_state_dict(kept.ema)
        progress.note(
            f"stopped: losses or weights are no finite numbers by step {run.step}; {run.checkpoint} is of step "
            f"{kept.state['step']}. What helps: a lower --lr, a penalty (--r1), --autocast off, --ops reference to compare"
        )
    run.sample()
    run.draw()
    if run.team.first:
        write_results(run, stopped)
    run.team.barrier()
    progress.close()
    best = run.best_checkpoint if run.best_checkpoint.exists() else None
    return Result(
        run.out, run.step, stopped, run.checkpoint, best, run.out / "samples.png", run.losses.rows, run.metrics.rows
    )  # fmt: skip


@contextmanager
def _asked_to_stop(listen: bool) -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM comes; a second one ends the process as usual."""
    asked: list[int] = []
    if not listen or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["Result", "train"]
