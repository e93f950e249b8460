"""What style-based generators can do with their w: mix the styles of several latents, and trade variety for quality."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gankern.latent.rendering import check_generator, check_labels_of, map_latents, render
from gankern.models import StyleGenerator


def check_layers(generator: StyleGenerator, layers: Sequence[int] | range | None) -> list[int]:
    """Numbers of layers that take a w; None is all.

    Raises:
        ValueError: none at all, or a number that is out of range.
    """
    chosen = list(range(generator.num_ws)) if layers is None else [int(i) for i in layers]
    if not chosen or not all(0 <= i < generator.num_ws for i in chosen):
        raise ValueError(f"layers must be numbers from 0 to {generator.num_ws - 1}, at least one, got {chosen}")
    return chosen


def mix_styles(
    generator: StyleGenerator,
    rows: Tensor,
    columns: Tensor,
    layers: Sequence[int] | range | None = None,
    *,
    labels: int | None = None,
    truncation: float = 1.0,
    batch: int = 16,
) -> Tensor:
    """The grid of style mixing: each row's image with some of the styles of each column (Karras et al. 2019, figure 3).

    Args:
        generator: a StyleGenerator.
        rows: latents z [R, z_dim].
        columns: latents z [C, z_dim].
        layers: layers that take the column's w; the others take the row's. The first layers are coarse (pose, shape), the last
            ones fine (colours). Default None: the second half.
        labels: one class for all, where there are classes. Default None.
        truncation: of w. Default 1.
        batch: images at a time. Default 16.

    Returns:
        Images [R + 1, C + 1, channels, H, W] on the CPU. The first row has the columns' own images and the first column the
        rows'; their corner is white (1).

    Raises:
        TypeError, ValueError: a generator without w, or arguments that do not fit it.
    """
    check_generator(generator, style=True)
    chosen = check_layers(generator, range(generator.num_ws // 2, generator.num_ws) if layers is None else layers)
    w_rows, w_columns = (map_latents(generator, z, labels, truncation) for z in (rows, columns))
    r, c = w_rows.shape[0], w_columns.shape[0]
    mixed = w_rows[:, None].repeat(1, c, 1, 1)
    mixed[:, :, chosen] = w_columns[None, :, chosen]
    images = render(generator, w=torch.cat([w_rows, w_columns, mixed.flatten(0, 1)]), batch=batch)
    grid = images.new_ones(r + 1, c + 1, *images.shape[1:])
    grid[1:, 0], grid[0, 1:], grid[1:, 1:] = images[:r], images[r : r + c], images[r + c :].unflatten(0, (r, c))
    return grid


def truncation_sweep(
    generator: StyleGenerator,
    z: Tensor,
    truncations: Sequence[float] = (1.0, 0.7, 0.5, 0.0, -0.5, -1.0),
    *,
    labels: int | Tensor | None = None,
    truncation_cutoff: int | None = None,
    batch: int = 16,
) -> Tensor:
    """Each latent's image with several truncations psi (Karras et al. 2019, figure 8: 1, 0.7, 0.5, 0, -0.5, -1).

    w becomes w_avg + psi (w - w_avg): 0 is the mean image of all, negative psi the opposite ("antiface").

    Args:
        generator: a StyleGenerator.
        z: latents [N, z_dim].
        truncations: P values of psi. Default those of the paper's figure.
        labels: int64 [N], or one class for all, where there are classes. Default None.
        truncation_cutoff: how many layers, from the coarsest on, are truncated. Default None: all.
        batch: images at a time. Default 16.

    Returns:
        Images [N, P, channels, H, W] on the CPU.

    Raises:
        TypeError, ValueError: a generator without w, or arguments that do not fit it.
    """
    check_generator(generator, style=True)
    if not len(truncations):
        raise ValueError("truncations must have at least one number, got none")
    chosen = check_labels_of(generator, labels, z.shape[0])
    ws = torch.stack([map_latents(generator, z, chosen, psi, truncation_cutoff) for psi in truncations], 1)
    return render(generator, w=ws.flatten(0, 1), batch=batch).unflatten(0, (z.shape[0], len(truncations)))


__all__ = ["mix_styles", "truncation_sweep"]
