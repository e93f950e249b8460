"""Metrics while training: generated images against the data's, on all processes together."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gankern import metrics
from gankern._scopes import own_random
from gankern.train.curves import Row
from gankern.train.distributed import average_buffers
from gankern.train.run import Run


class Judge:
    """Computes a run's metrics and keeps the checkpoint of the best value of the first one.

    The real images' features are computed once. Each process makes its share of the images.

    Args:
        run: the run; its settings name metrics, number of images and extractor.
    """

    def __init__(self, run: Run) -> None:
        s = self.settings = run.settings
        self.run, self.names = run, metrics.metric_names(s.metric)
        team, count = run.team, min(s.metric_images, len(run.data))
        self.real, self.fake = (
            range(n * team.rank // team.world, n * (team.rank + 1) // team.world) for n in (count, s.metric_images)
        )
        with own_random(s.seed, team.device):
            self.evaluator = metrics.Evaluator(
                self._real(), self.names, s.extractor, device=team.device, sharded=team.world > 1, seed=s.seed
            )

    def _real(self) -> Iterator[Tensor]:
        for i in range(self.real.start, self.real.stop, 64):
            yield self.run.data.images(range(i, min(i + 64, self.real.stop))).images

    def judge(self) -> Row:
        """Compute the metrics now, add them to the run's rows, and write ``best.pt`` if it is the best so far."""
        run = self.run
        average_buffers(run.shown, run.team)  # one generator on all processes
        with own_random(self.settings.seed, run.team.device):
            found = self.evaluator.evaluate(run.sampler.images(run.shown, self.fake))
        value = found[self.names[0]]
        row = run.when() | found
        run.metrics.add(row)
        run.board.add("metrics", row)
        if metrics.is_better(self.names[0], value, run.best):
            run.best = value
            run.save(run.best_checkpoint)
        return row


__all__ = ["Judge"]
