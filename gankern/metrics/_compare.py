"""Metrics of two sets of images or features: once, or again and again against the same real ones."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from gankern.metrics import _cache, _distributed
from gankern.metrics._features import Features
from gankern.metrics._table import DEFAULT, METRICS, Settings, metric_names
from gankern.metrics.classes import class_coverage, inception_score
from gankern.metrics.extractors import Extractor, make_extractor
from gankern.metrics.gaussian import GaussianStatistics, frechet_distance
from gankern.metrics.kernel import kernel_distance
from gankern.metrics.neighbours import manifold_metrics
from gankern.metrics.path_length import perceptual_path_length
from gankern.metrics.perceptual import diversity, lpips_distance, paired_distance
from gankern.metrics.sources import Source, open_pair, open_source

_MANIFOLD = ("precision", "recall", "density", "coverage")


class _Side:
    """One set: its statistics, and as much more as the metrics need."""

    def __init__(
        self, name: str, count: int, statistics: GaussianStatistics | None, features: Features | None, source: Source | None
    ):
        self.name, self.count, self.statistics, self.features, self.source = name, count, statistics, features, source

    @property
    def values(self) -> Tensor:
        assert self.features is not None
        return self.features.values

    @property
    def logits(self) -> Tensor:
        assert self.features is not None
        if self.features.logits is None:
            raise ValueError(
                f"{self.name}: inception_score and modes need logits of classes, which the extractor (or the features given) "
                "does not have"
            )
        return self.features.logits


class Evaluator:
    """Metrics against real images whose features are computed once, when it is made.

    Under torch.distributed with ``sharded=True``, ``real`` here and ``fake`` in :meth:`evaluate` are this rank's share; every
    rank makes the same calls and is given the same result, that of all shares together (in the order of the ranks). Of images
    that every rank can read, ``open_source(...).share(rank, world)`` and ``generated(...).share(rank, world)`` are the share.

    Args:
        real: as for :func:`compare`; None if no metric compares with real images.
        metrics: as for :func:`compare`. Default ('frechet',).
        extractor: as for :func:`compare`. Default 'digits'.
        batch: as for :func:`compare`. Default 64.
        device: as for :func:`compare`. Default None: the CPU.
        cache: as for :func:`compare`. Default None.
        progress: as for :func:`compare`. Default False.
        sharded: put the shares of all ranks together. Default False: each rank has everything, and no rank waits for another.
        **settings: of :class:`Settings`, or ``settings=Settings(...)``.

    Attributes:
        metrics: their full names.
        extractor: what makes the features.
        settings: the numbers that decide what a metric is.

    Raises:
        As :func:`compare`.
    """

    def __init__(
        self,
        real: Any,
        metrics: str | Sequence[str] = ("frechet",),
        extractor: Any = "digits",
        *,
        batch: int = 64,
        device: str | torch.device | None = None,
        cache: str | os.PathLike[str] | None = None,
        progress: bool = False,
        sharded: bool = False,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        self.metrics = metric_names(metrics)
        if settings is not None and options:
            raise ValueError(f"settings must be given as Settings or one by one, got both: {', '.join(options)}")
        self.settings = settings or Settings(**_known(options))
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ValueError(f"batch must be an int, at least 1, got {batch!r}")
        self.batch, self.device, self.cache, self.progress = batch, torch.device(device or "cpu"), cache, progress
        self.sharded = sharded
        self._needs = {METRICS[m].needs for m in self.metrics}
        self._extractor_spec = extractor
        self._extractor: Extractor | None = None
        self._distance: Any = None
        self._real: _Side | None = None
        compares = any(METRICS[m].needs in ("features", "pairs") for m in self.metrics) or "modes_kl" in self.metrics
        if real is None and compares:
            raise ValueError(f"real must be given for {', '.join(self.metrics)}, got None")
        if real is not None and compares:
            self._real = _distributed.together(lambda: self._side(real, "real"), self.sharded)
            self._real = self._joined(self._real)

    @property
    def extractor(self) -> Extractor:
        """What makes the features; built when the first images come."""
        if self._extractor is None:
            self._extractor = make_extractor(self._extractor_spec, self.device)
        return self._extractor

    @property
    def real_count(self) -> int:
        """Real images, of all ranks; 0 without."""
        return self._real.count if self._real else 0

    def evaluate(self, fake: Any, generator: nn.Module | None = None) -> dict[str, float]:
        """The metrics of generated images.

        Args:
            fake: as for :func:`compare`.
            generator: the network that made them, for 'path_length'. Default None: that of a checkpoint.

        Returns:
            {name: value}, as :func:`compare`.

        Raises:
            As :func:`compare`; with ``sharded`` a RuntimeError where another rank failed.
        """
        return self.measured(fake, generator)[0]

    def measured(self, fake: Any, generator: nn.Module | None = None) -> tuple[dict[str, float], dict[str, Any]]:
        """(what :meth:`evaluate` gives, how it was computed: extractor, numbers of images, settings, versions)."""
        side = _distributed.together(lambda: self._side(fake, "fake"), self.sharded)
        images = side.source
        made_by = images.generator if images is not None else None
        _distributed.together(lambda: self._check_sizes(images), self.sharded)
        pairs = _distributed.together(lambda: self._perceptual(images), self.sharded)
        side = self._joined(side)
        found = _distributed.first_does(lambda: self._values(side, generator or made_by), self.sharded)
        for name, (total, count) in pairs.items():
            total, count = _distributed.totals((total, count), self.sharded)
            found[name] = total / count
        order = [key for name in self.metrics for key in (name, f"{name}_std") if key in found]
        return {key: found[key] for key in order}, self._about(side)

    def _check_sizes(self, fake: Source | None) -> None:
        """Tell of images of two sizes: what resizes them decides a part of the distance."""
        real = self._real.source if self._real is not None else None
        mine, theirs = (s.shape if s is not None else None for s in (real, fake))
        if mine is None or theirs is None or mine == theirs or not self._needs & {"features"}:
            return
        real_size, fake_size = (f"{s[2]}x{s[1]} with {s[0]} channel{'s' if s[0] > 1 else ''}" for s in (mine, theirs))
        if self.extractor.name == "pixels":
            raise ValueError(
                f"extractor 'pixels': all images must have one size, got real ones of {real_size}, fakes of {fake_size}"
            )
        warnings.warn(
            f"real images are {real_size}, fakes {fake_size}: the extractor {self.extractor.name} makes them alike, and its "
            "resizing is a part of every distance",
            UserWarning,
            stacklevel=4,
        )

    def _about(self, fake: _Side) -> dict[str, Any]:
        from gankern._version import __version__

        uses_extractor = {"features", "logits"} & self._needs or self.settings.path_distance == "extractor"
        return {
            "real": self._real and {"name": self._real.name, "images": self._real.count},
            "fake": {"name": fake.name, "images": fake.count},
            "extractor": {"name": self._extractor.name, "key": self._extractor.key}
            if self._extractor and uses_extractor
            else None,
            "settings": asdict(self.settings),
            "versions": {"gankern": __version__, "torch": str(torch.__version__)},
        }

    # ---- one side --------------------------------------------------------------------------------------------------------
    def _side(self, spec: Any, name: str) -> _Side:
        """Statistics, features and images of what came, of this rank."""
        source = open_source(spec, name, seed=self.settings.seed, device=self.device)
        whole = bool(self._needs & {"features", "logits"}) and set(self.metrics) - {"frechet"} != set()
        if isinstance(source, Features):
            if self._needs & {"pairs", "fakes"}:
                raise ValueError(f"{name}: lpips needs images, got features")
            statistics = GaussianStatistics.of(source.values.cpu()) if "frechet" in self.metrics else None
            logits = None if source.logits is None else source.logits.cpu()
            return _Side(name, len(source), statistics, Features(source.values.cpu(), logits), None)
        if source.read is None and self._needs & {"pairs", "fakes"}:
            source = _kept(source)
        if not self._needs & {"features", "logits"}:
            return _Side(source.name, source.count or 0, None, None, source)
        statistics, parts, count = None, [], 0
        for part in _cache.chunks(source, self.extractor, self.batch, self.cache, self.progress):
            count += len(part)
            if "frechet" in self.metrics:
                statistics = statistics or GaussianStatistics(part.values.shape[1])
                statistics.update(part.values)
            if whole:
                parts.append(part)
        if not count:
            raise ValueError(f"{name}: there are no images in {source.name}")
        return _Side(source.name, count, statistics, Features.join(parts) if parts else None, source)

    def _joined(self, side: _Side) -> _Side:
        """That of all ranks."""
        if not _distributed.active(self.sharded):
            return side
        if side.features is not None:
            side.features = _distributed.gathered(side.features, True)
        if side.statistics is not None:
            side.statistics.all_reduce()
        side.count = int(_distributed.totals((0.0, side.count), True)[1])
        return side

    def _perceptual(self, fake: Source | None) -> dict[str, tuple[float, int]]:
        """(sum, count) of LPIPS metrics, of this rank."""
        if not self._needs & {"pairs", "fakes"}:
            return {}
        s = self.settings
        self._distance = self._distance or lpips_distance(s.lpips_net, self.device)
        assert fake is not None
        found = {}
        if "lpips" in self.metrics:
            real = self._real.source if self._real else None
            assert real is not None
            if real.count != fake.count:
                raise ValueError(f"lpips: real and fake must be as many images, in pairs, got {real.count} and {fake.count}")
            found["lpips"] = paired_distance(real.parts(self.batch), fake.parts(self.batch), self._distance)
        if "lpips_diversity" in self.metrics:
            stored = _kept(fake)
            assert stored.read is not None and stored.count is not None
            found["lpips_diversity"] = diversity(
                stored.read(0, stored.count), self._distance, s.pairs, s.seed, self.batch
            )  # fmt: skip
        return found

    # ---- the numbers -----------------------------------------------------------------------------------------------------
    def _values(self, fake: _Side, generator: nn.Module | None) -> dict[str, float]:
        s, real, found = self.settings, self._real, {}
        wanted = set(self.metrics)
        if "frechet" in wanted:
            assert real is not None and real.statistics is not None and fake.statistics is not None
            found["frechet"] = frechet_distance(real.statistics, fake.statistics)
        if "kernel" in wanted:
            assert real is not None
            kernel = kernel_distance(*self._pair(real, fake), s.subsets, s.subset_size, s.seed)
            found["kernel"] = kernel.mean
            if s.subsets > 1:
                found["kernel_std"] = kernel.std
        if wanted & set(_MANIFOLD):
            assert real is not None
            manifolds = manifold_metrics(*self._pair(real, fake), s.neighbours, s.density_neighbours)
            found.update({name: getattr(manifolds, name) for name in _MANIFOLD if name in wanted})
        if "inception_score" in wanted:
            score = inception_score(fake.logits, min(s.splits, fake.count), s.seed)
            found.update(inception_score=score.mean, inception_score_std=score.std)
        if wanted & {"modes", "modes_kl"}:
            coverage = class_coverage(fake.logits, real.logits if real else None)
            found.update({"modes": float(coverage.modes), "modes_kl": coverage.kl})
        if "path_length" in wanted:
            if generator is None:
                raise ValueError("path_length needs a generator: fake must be a checkpoint, or give evaluate(fake, generator)")
            distance = self.extractor if s.path_distance == "extractor" else lpips_distance("vgg", self.device)
            length = perceptual_path_length(
                generator, distance, s.path_samples, space=s.path_space, sampling=s.path_sampling, epsilon=s.path_epsilon,
                batch=self.batch, seed=s.seed, progress=self.progress,
            )  # fmt: skip
            found["path_length"] = length.mean
        return found

    def _pair(self, real: _Side, fake: _Side) -> tuple[Tensor, Tensor]:
        return real.values.to(self.device), fake.values.to(self.device)


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Settings one by one; a TypeError for a name that is none."""
    for name in options:
        if name not in Settings.__dataclass_fields__:
            raise TypeError(f"there is no setting {name!r}; there are {', '.join(Settings.__dataclass_fields__)}")
    return options


def _kept(source: Source) -> Source:
    """A source whose images can be read again, in memory as uint8; a source with a number of images as it is."""
    if source.read is not None:
        return source
    parts = [x.add(1).mul_(127.5).round_().to(torch.uint8).cpu() for x in source.parts(64)]
    if not parts:
        raise ValueError(f"{source.name}: there are no images")
    images = torch.cat(parts)
    return Source(source.name, lambda a, b: images[a:b], len(images))


def compare(
    real: Any,
    fake: Any,
    metrics: str | Sequence[str] = DEFAULT,
    extractor: Any = "digits",
    *,
    batch: int = 64,
    device: str | torch.device | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = False,
    generator: nn.Module | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> dict[str, float]:
    """How near generated images are to real ones.

    Args:
        real: images: a tensor [N, C, H, W] (uint8, or floating-point from -1 to 1), an iterable of such batches, a folder, an
            .npz, .npy or .pt file, 'digits', 'photos', or the data of ``gankern.data.open_data``. Or features: a tensor
            [N, D], :class:`Features`, or a file of them.
        fake: generated images, likewise, or a checkpoint of gankern, which makes 10,000 (:func:`open_source` for another
            number). The two sets may have different numbers and sizes of images.
        metrics: names, see :data:`METRICS` and ``metric_names``. Default frechet, kernel, precision, recall, density, coverage.
        extractor: of features: 'digits', 'pixels', 'inception', 'inception:FILE', 'module:...', a module, a function, see
            ``gankern.metrics.make_extractor``. Default 'digits', which is of use for grey digits alone.
        batch: images in a call of the extractor. Default 64.
        device: of the extractor and of large products. Default None: the CPU.
        cache: folder of features; those of files, folders and tensors that it has are not computed again, and an interrupted
            run goes on where it was. Streams are not cached. Default None.
        progress: show progress on standard error. Default False.
        generator: the network that made ``fake``, for 'path_length'. Default None: that of a checkpoint.
        settings: numbers that decide what a metric is. Default None: the published ones.
        **options: settings one by one: ``neighbours=5``.

    Returns:
        {name: value}; 'kernel' and 'inception_score' have 'kernel_std' and 'inception_score_std' beside them.

    Warns:
        UserWarning: not more images than features (frechet); images left out; a broken cache file; other sizes of images.

    Raises:
        TypeError, ValueError: what came is not images or features, not finite, too few, or an argument is out of range.
        FileNotFoundError, ImportError: with what is missing and where it comes from.
    """
    names, seed = metric_names(metrics), (settings or Settings(**_known(options))).seed
    real, fake = open_pair(real, fake, seed=seed, device=device or "cpu")
    evaluator = Evaluator(
        real, names, extractor, batch=batch, device=device, cache=cache, progress=progress, settings=settings, **options
    )  # fmt: skip
    return evaluator.evaluate(fake, generator)


__all__ = ["Evaluator", "compare"]
