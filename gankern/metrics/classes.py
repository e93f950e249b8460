"""What a classifier says of generated images: inception score, and which classes (modes) they show; modes of known mixtures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gankern.metrics._features import check_features


@dataclass(frozen=True)
class InceptionScore:
    """An inception score: 1 at worst, the number of classes at best.

    Attributes:
        mean: of the splits.
        std: standard deviation over the splits (divided by their number).
    """

    mean: float
    std: float


@torch.no_grad()
def inception_score(logits: Tensor, splits: int = 10, seed: int | None = 0) -> InceptionScore:
    """Exp of the mean divergence KL(p(y|x) || p(y)) of class probabilities, over parts of the images, in float64.

    Args:
        logits: [N, K] of a classifier for generated images.
        splits: parts, as equal as possible, at most N. Default 10. The score grows with the size of a part.
        seed: of the order in which the images are dealt to parts. Default 0; None: in the order they have, which is wrong for
            images sorted by class.

    Returns:
        Mean and standard deviation.

    Raises:
        TypeError, ValueError: logits that are not finite [N, K]; ``splits`` not from 1 to N.

    Source: Salimans et al., "Improved techniques for training GANs", 2016, section 4.
    """
    check_features("logits", logits, 1)
    if isinstance(splits, bool) or not isinstance(splits, int) or not 1 <= splits <= len(logits):
        raise ValueError(f"splits must be an int from 1 to the number of images, {len(logits)}, got {splits!r}")
    if seed is not None:
        order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
        logits = logits[order.to(logits.device)]
    scores = []
    for part in logits.tensor_split(splits):
        log_p = part.double().log_softmax(1)
        log_mean = log_p.logsumexp(0) - math.log(len(part))
        scores.append((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp())
    found = torch.stack(scores)
    return InceptionScore(float(found.mean()), float(found.std(correction=0)))


@dataclass(frozen=True)
class ModeCoverage:
    """Which modes samples show.

    Attributes:
        modes: modes with at least one good sample.
        total: modes there are.
        high_quality: share of samples that are good (all, where a classifier decides).
        kl: divergence in nats of the samples' modes from what they should be (all equally likely, or those of real images); 0
            is best. Infinite if no sample is good, or if a mode shows that real images do not have.
        counts: good samples of each mode.
    """

    modes: int
    total: int
    high_quality: float
    kl: float
    counts: tuple[int, ...]


def _coverage(counts: Tensor, samples: int, target: Tensor) -> ModeCoverage:
    good = int(counts.sum())
    p = counts.double() / max(good, 1)
    kl = float(torch.where(p > 0, p * (p / target).log(), 0.0).sum()) if good else math.inf
    return ModeCoverage(
        int((counts > 0).sum()), len(counts), good / samples, max(kl, 0.0), tuple(int(c) for c in counts.tolist())
    )  # fmt: skip


@torch.no_grad()
def mode_coverage(samples: Tensor, centres: Tensor, std: float, within: float = 3.0) -> ModeCoverage:
    """Modes of a mixture of equally likely isotropic Gaussians, such as a ring of 8 or a grid of 25, that samples hit.

    A sample belongs to the nearest centre, and is good within ``within`` standard deviations of it.

    Args:
        samples: [N, D], floating-point, at least one.
        centres: [K, D].
        std: standard deviation of the components, positive.
        within: standard deviations. Default 3.

    Returns:
        The modes hit, the share of good samples, and KL(modes of good samples || uniform).

    Raises:
        TypeError, ValueError: tensors that are not finite [N, D], of different widths; ``std`` or ``within`` not positive.

    Source: Srivastava et al., "VEEGAN: reducing mode collapse in GANs using implicit variational learning", 2017, section 4.1.
    """
    check_features("samples", samples, 1)
    check_features("centres", centres, 1)
    if samples.shape[1] != centres.shape[1]:
        raise ValueError(f"centres must be [K, {samples.shape[1]}], as samples, got {list(centres.shape)}")
    for name, value in (("std", std), ("within", within)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
    counts = torch.zeros(len(centres), dtype=torch.int64)
    for block in samples.split(max(1, 2**22 // (centres.shape[1] * len(centres)))):
        d = (block.double()[:, None] - centres.to(block.device).double()[None]).square().sum(2)
        nearest = d.min(1)
        good = nearest.indices[nearest.values <= (within * std) ** 2]
        counts += torch.bincount(good, minlength=len(centres)).cpu()
    return _coverage(counts, len(samples), torch.full((len(centres),), 1 / len(centres), dtype=torch.float64))


@torch.no_grad()
def class_coverage(fake_logits: Tensor, real_logits: Tensor | None = None) -> ModeCoverage:
    """Classes that a classifier sees in generated images, beside those it sees in real ones.

    Args:
        fake_logits: [N, K].
        real_logits: [M, K]. Default None: all classes are equally likely.

    Returns:
        The classes found, and KL(their frequencies || the real ones).

    Raises:
        TypeError, ValueError: logits that are not finite [N, K], or of different numbers of classes.

    Source: Metz et al., "Unrolled generative adversarial networks", 2017, section 3.3.1 (Che et al. 2017 for the divergence).
    """
    check_features("fake_logits", fake_logits, 1)
    classes = fake_logits.shape[1]
    counts = torch.bincount(fake_logits.argmax(1), minlength=classes).cpu()
    target = torch.full((classes,), 1 / classes, dtype=torch.float64)
    if real_logits is not None:
        check_features("real_logits", real_logits, 1)
        if real_logits.shape[1] != classes:
            raise ValueError(f"real_logits must be [M, {classes}], as fake_logits, got {list(real_logits.shape)}")
        target = torch.bincount(real_logits.argmax(1), minlength=classes).cpu().double() / len(real_logits)
    return _coverage(counts, len(fake_logits), target)


__all__ = ["InceptionScore", "ModeCoverage", "class_coverage", "inception_score", "mode_coverage"]
