"""Precision, recall, density and coverage: nearest neighbours of features, block by block, with distances that are right.

Squared distances come from a float32 matrix product, |x|^2 + |y|^2 - 2 x.y, of features that were centred before. Its error is
bounded by a multiple of |x|^2 + |y|^2 (:func:`_slack`); whatever that leaves undecided, a neighbour or a point at the edge of a
ball, is computed again in float64. So results are those of float64 at the price of float32, and no matrix larger than a block
is made: 50,000 x 50,000 images take the memory of their features, twice, and some 100 MB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern.metrics._features import check_features, check_pair

_ELEMENTS = 2**20  # of a block of distances: 4 MB stay in a cache
_COLUMNS = 8192
_GROUP = 64
_TIE = 1 + 1e-12  # factor on a squared radius: a point at the edge is inside, whatever a sum's order did to the last digits


@contextmanager
def _full_float32() -> Iterator[None]:
    """Matrix products of float32 in float32: a user may have allowed TF32 or bfloat16, for which no error bound here holds."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _slack(dim: int, dtype: torch.dtype) -> float:
    """Share of |x|^2 + |y|^2 by which a squared distance from a matrix product of D = ``dim`` terms may be wrong.

    Rounding errors of D sums have no common sign: twice a product is off by about 0.3 sqrt(D) eps of |x|^2 + |y|^2, if all its
    terms are added one after another, and by less in the several lanes of a real one. So sqrt(D) is three standard deviations
    and more; 8 stand for the norms, the sum of three and what was rounded before.
    """
    return (8 + math.sqrt(dim)) * torch.finfo(dtype).eps


class _Points:
    """Rows ready for products: about a centre, in float32 (float64 if they came so), with their squared norms."""

    def __init__(self, rows: Tensor, centre: Tensor) -> None:
        self.rows, self.centre = rows.detach(), centre
        self.dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        blocks = [self.exact(slice(i, i + _COLUMNS)) for i in range(0, max(len(rows), 1), _COLUMNS)]
        self.norms = torch.cat([b.square().sum(1) for b in blocks])
        self.centred = torch.cat([b.to(self.dtype) for b in blocks])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def slack(self) -> float:
        return _slack(self.rows.shape[1], self.dtype)

    def exact(self, which: slice | Tensor) -> Tensor:
        """Rows about the centre, in float64."""
        return self.rows[which].double() - self.centre

    def block(self, which: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Rows about the centre, for a product in ``dtype``."""
        return self.centred[which] if dtype == self.dtype else self.exact(which)


def _centre(*sets: Tensor) -> Tensor:
    total = sum(len(s) for s in sets)
    return torch.stack([s.mean(0, dtype=torch.float64) * (len(s) / total) for s in sets if len(s)]).sum(0)


def _product(x: _Points, y: _Points, rows: slice | Tensor, columns: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Squared distances [rows, columns] of a block, and the sums of squared norms that bound their error."""
    size = (x.norms[rows, None] + y.norms[None, columns]).to(dtype)
    return torch.addmm(size, x.block(rows, dtype), y.block(columns, dtype).t(), alpha=-2), size


def _differences(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances of the pairs (x[i], y[j]), of indices [P], in float64 from differences."""
    step = max(1, 2**16 // x.shape[1])  # what a cache holds
    pairs = zip(i.split(step), j.split(step), strict=True)
    return torch.cat([(x[a].double() - y[b].double()).square().sum(1) for a, b in pairs])


def _parts(length: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _height(columns: int) -> int:
    """Rows of a block of distances."""
    return max(1, _ELEMENTS // max(1, min(columns, _COLUMNS)))


def _least(d: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, indices) of the k least of each row, in any order.

    They lie in those k groups of columns whose least elements are the least: a pass for these minima and a choice among few
    cost a fraction of a choice among all.
    """
    rows, columns = d.shape
    if columns < 4 * _GROUP * k:
        least = d.topk(min(k, columns), 1, largest=False, sorted=False)
        return least.values, least.indices
    d = F.pad(d, (0, -columns % _GROUP), value=math.inf).view(rows, -1, _GROUP)
    groups = d.amin(2).topk(k, 1, largest=False, sorted=False).indices
    few = d.gather(1, groups[:, :, None].expand(-1, -1, _GROUP)).view(rows, -1)
    least = few.topk(k, 1, largest=False, sorted=False)
    return least.values, groups.gather(1, least.indices // _GROUP) * _GROUP + least.indices % _GROUP


def _candidates(x: _Points, y: _Points, rows: Tensor, pool: int, same: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(squared distances, indices) [rows, pool] of the rows of y that a product says are the nearest."""
    near = torch.empty(len(rows), 0, dtype=dtype, device=rows.device)
    names = torch.empty(len(rows), 0, dtype=torch.int64, device=rows.device)
    for columns in _parts(len(y), _COLUMNS):
        d, _ = _product(x, y, rows, columns, dtype)
        if same:  # a row is not its own neighbour
            own = ((rows >= columns.start) & (rows < columns.stop)).nonzero().flatten()
            d[own, rows[own] - columns.start] = math.inf
        values, indices = _least(d, pool)
        near, names = torch.cat([near, values], 1), torch.cat([names, indices + columns.start], 1)
        if near.shape[1] > pool:
            kept = near.topk(pool, 1, largest=False, sorted=False)
            near, names = kept.values, names.gather(1, kept.indices)
    return near, names


def _refined(x: Tensor, y: Tensor, rows: Tensor, names: Tensor) -> Tensor:
    """Squared distances [R, K] of x[rows] and y[names], of indices [R] and [R, K], in float64 from differences."""
    step = max(1, 2**16 // max(1, x.shape[1] * names.shape[1]))  # what a cache holds
    found = torch.empty(names.shape, dtype=torch.float64, device=x.device)
    for part in _parts(len(rows), step):
        d = y.index_select(0, names[part].flatten()).double().view(*names[part].shape, -1)
        d -= x[rows[part]].double()[:, None]
        torch.sum(d.square_(), 2, out=found[part])
    return found


def _nearest(x: _Points, y: _Points, rows: Tensor, k: int, same: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(squared distances float64, indices) [rows, k] of the nearest rows of y."""
    others = len(y) - same
    pool = min(others, k + 8)
    near, names = _candidates(x, y, rows, pool, same, dtype)
    near, order = near.sort(1)
    names = names.gather(1, order)

    def sorted_first(rows: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
        exact, order = _refined(x.rows, y.rows, rows, names).sort(1)
        return exact[:, :k], names.gather(1, order[:, :k])

    def undecided(which: Tensor, exact: Tensor, bound: Tensor) -> Tensor:
        """Of ``which``: where a row whose product is at least ``bound`` may be nearer than the k-th.

        It is if its product is wrong by as much, and then its norm is at most that of x plus the k-th distance.
        """
        norms, kth = x.norms[rows[which]], exact[which, -1]
        wrong = _slack(x.rows.shape[1], dtype) * (norms + (norms.sqrt() + kth.sqrt()).square())
        return which[(bound.double() - wrong < kth) & (kth > 0)]

    found, indices = sorted_first(rows, names[:, :k])
    if pool == k:
        return found, indices
    # Seldom does rounding leave the choice open: first among some more candidates, then among all.
    which = undecided(torch.arange(len(rows), device=rows.device), found, near[:, k])
    if len(which):
        found[which], indices[which] = sorted_first(rows[which], names[which])
        if pool < others and dtype != torch.float64:
            which = undecided(which, found, near[which, -1])
            if len(which):
                found[which], indices[which] = _nearest(x, y, rows[which], k, same, torch.float64)
    return found, indices


@torch.no_grad()
def nearest_neighbours(x: Tensor, y: Tensor | None = None, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest rows of ``y`` of each row of ``x``, by Euclidean distance.

    Args:
        x: features [N, D].
        y: features [M, D]. Default None: the other rows of ``x`` (a row is not its own neighbour).
        k: neighbours, at most M (N - 1 without ``y``). Default 1.

    Returns:
        (distances float64 [N, k] from the nearest to the farthest, indices int64 [N, k]). Of equally distant rows any may come.

    Raises:
        TypeError, ValueError: tensors that are not finite [N, D]; ``k`` out of range.

    Memory: that of the features and of blocks of some 10 MB, never of N x M.
    """
    if y is None:
        check_features("x", x, 2)
    else:
        check_features("x", x)
        check_features("y", y, 1)
        if x.shape[1] != y.shape[1] or x.device != y.device:
            raise ValueError(f"y must be [M, {x.shape[1]}] on {x.device}, as x, got {list(y.shape)} on {y.device}")
    most = len(x) - 1 if y is None else len(y)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise ValueError(f"k must be an int from 1 to {most}, got {k!r}")
    centre = _centre(x) if y is None else _centre(x, y)
    points = _Points(x, centre)
    others = points if y is None else _Points(y, centre)
    return _all_nearest(points, others, k, y is None)


def _all_nearest(x: _Points, y: _Points, k: int, same: bool) -> tuple[Tensor, Tensor]:
    distances = torch.empty(len(x), k, dtype=torch.float64, device=x.rows.device)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.rows.device)
    everything = torch.arange(len(x), device=x.rows.device)
    with _full_float32():
        for part in _parts(len(x), _height(len(y))):
            squared, indices[part] = _nearest(x, y, everything[part], k, same, x.dtype)
            distances[part] = squared.sqrt()
    return distances, indices


class _Found:
    """Which of a set's points lie in a ball of the other's, or have one of the other's in their own ball.

    Blocks say it of most with certainty; the others are looked at again in float64 when all blocks have been seen.
    """

    def __init__(self, points: _Points, others: _Points, own: Tensor | None = None, theirs: Tensor | None = None) -> None:
        """``own``: squared radii [N] of balls about ``points``; or ``theirs``: [M], about ``others``."""
        self.points, self.others, self.own, self.theirs = points, others, own, theirs
        self.known, self.maybe = (torch.zeros(len(points), dtype=torch.bool, device=points.rows.device) for _ in range(2))

    def see(self, which: slice, gap: Tensor, wrong: float) -> None:
        """``gap`` of the points ``which``: least squared distance less squared radius in a block, ``wrong`` by that much."""
        self.known[which] |= gap < -wrong
        self.maybe[which] |= gap <= wrong

    def decided(self) -> Tensor:
        """Bool [N]."""
        undecided = (self.maybe & ~self.known).nonzero().flatten()
        for part in _parts(len(undecided), _height(len(self.others))):
            which = undecided[part]
            inside = torch.zeros(len(which), dtype=torch.bool, device=which.device)
            for columns in _parts(len(self.others), _COLUMNS):
                d = _precise(self.points, self.others, which, columns)
                edge = self.theirs[None, columns] if self.own is None else self.own[which, None]  # type: ignore[index]
                inside |= (d <= edge * _TIE).any(1)
            self.known[which] = inside
        return self.known


def _precise(x: _Points, y: _Points, rows: slice | Tensor, columns: slice) -> Tensor:
    """Squared distances of a block in float64, less what they may be wrong by: a point at the edge of a ball is inside."""
    d, size = _product(x, y, rows, columns, torch.float64)
    return d - _slack(x.rows.shape[1], torch.float64) * size


def _overlap(x: _Points, y: _Points, near: Tensor, near_y: Tensor, dense: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """What lies in which ball, in one pass.

    Args:
        x: N points.
        y: M points.
        near: squared radii [N], float64, of balls about x.
        near_y: squared radii [M] of balls about y.
        dense: squared radii [N] of other balls about x.

    Returns:
        Whether each y is in a ball ``near`` [M]; each x in a ball ``near_y`` [N]; each ball ``dense`` has a y in it [N]; and
        how many pairs of a ball ``dense`` and a y in it there are.
    """
    in_near, in_near_y, has_y = _Found(y, x, theirs=near), _Found(x, y, theirs=near_y), _Found(x, y, own=dense)
    pairs = 0
    for rows in _parts(len(x), _height(len(y))):
        for columns in _parts(len(y), _COLUMNS):
            d, _ = _product(x, y, rows, columns, x.dtype)
            gap = torch.empty_like(d)
            reach = [x.norms[rows].max() + y.norms[columns].max(), near[rows].max(), near_y[columns].max(), dense[rows].max()]
            wrong = x.slack * float(sum(reach))
            r, s, t = (v.to(d.dtype) for v in (near[rows, None], near_y[None, columns], dense[rows, None]))
            in_near.see(columns, torch.sub(d, r, out=gap).amin(0), wrong)
            in_near_y.see(rows, torch.sub(d, s, out=gap).amin(1), wrong)
            has_y.see(rows, torch.sub(d, t, out=gap).amin(1), wrong)
            surely = int((gap < -wrong).sum())
            undecided = int((gap <= wrong).sum()) - surely
            pairs += surely
            if undecided > d.numel() // _GROUP:
                # Many in a heap far from the centre, as of a collapsed generator: pair by pair would take too long.
                pairs += int((_precise(x, y, rows, columns) <= dense[rows, None] * _TIE).sum()) - surely
            elif undecided:
                i, j = (gap.abs_() <= wrong).nonzero(as_tuple=True)
                inside = _differences(x.rows, y.rows, i + rows.start, j + columns.start) <= dense[rows][i] * _TIE
                pairs += int(inside.sum())
    return in_near.decided(), in_near_y.decided(), has_y.decided(), pairs


def _radii(points: _Points, k: int) -> Tensor:
    """Distances float64 [N, k] to the nearest others of the same set.

    A heap far from the centre is put about its own: nothing is as bad for products.
    """
    away = (points.centred.mean(0, dtype=torch.float64)).square().sum()
    if away > points.norms.mean() / 2:
        points = _Points(points.rows, _centre(points.rows))
    return _all_nearest(points, points, k, True)[0]


@dataclass(frozen=True)
class Manifolds:
    """What :func:`manifold_metrics` gives; all of 0 to 1 but ``density``.

    Attributes:
        precision: share of fakes in the ball of some real image (Kynkaanniemi et al. 2019).
        recall: share of real images in the ball of some fake (the same).
        density: balls of real images that a fake lies in, on average, over k; about 1 for more real images (Naeem et al. 2020).
        coverage: share of real images with a fake in their ball (the same).
    """

    precision: float
    recall: float
    density: float
    coverage: float


@torch.no_grad()
def manifold_metrics(real: Tensor, fake: Tensor, neighbours: int = 3, density_neighbours: int = 5) -> Manifolds:
    """Precision, recall, density and coverage, from balls that reach to the k-th nearest neighbour of their own set.

    A point at the edge of a ball is inside.

    Args:
        real: features [N, D].
        fake: features [M, D], on the same device.
        neighbours: k of precision and recall. Default 3.
        density_neighbours: k of density and coverage. Default 5.

    Returns:
        The four.

    Raises:
        TypeError, ValueError: tensors that are not finite [N, D], of different widths, or with no more rows than k.

    Memory: that of the features, twice, and of blocks of some 10 MB, never of N x M.

    Source: Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models", 2019, eqs. 1, 2;
    Naeem et al., "Reliable fidelity and diversity metrics for generative models", 2020, section 3.
    """
    for name, k in (("neighbours", neighbours), ("density_neighbours", density_neighbours)):
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"{name} must be an int, at least 1, got {k!r}")
    check_pair(real, fake, neighbours + 1)
    most = max(neighbours, density_neighbours)
    if len(real) <= most:
        raise ValueError(f"real must have at least {most + 1} rows, got {len(real)}")
    centre = _centre(real, fake)
    x, y = _Points(real, centre), _Points(fake, centre)
    of_real, of_fake = (_radii(points, k) for points, k in ((x, most), (y, neighbours)))
    with _full_float32():
        radii = of_real[:, neighbours - 1], of_fake[:, -1], of_real[:, density_neighbours - 1]
        in_real, in_fake, covered, pairs = _overlap(x, y, *(r.square() for r in radii))
    precision, recall, coverage = (float(t.double().mean()) for t in (in_real, in_fake, covered))
    return Manifolds(precision, recall, pairs / (density_neighbours * len(fake)), coverage)


__all__ = ["Manifolds", "manifold_metrics", "nearest_neighbours"]
