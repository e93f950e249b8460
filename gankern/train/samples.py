"""Images to look at and to measure: always of the same latents or inputs; training's random numbers are left alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gankern._scopes import own_random
from gankern.data.dataset import Batch, ImageData
from gankern.models import StyleGenerator

BATCH = 32
"""Images that are made at once."""


class Sampler:
    """Makes images with a generator of any task.

    Args:
        data: gives inputs for image-to-image models.
        seed: of latents and noise.
        batch: images that are made at once; pix2pix normalises over them.
        device: where the generator is.
    """

    def __init__(self, data: ImageData, seed: int, batch: int, device: torch.device) -> None:
        self.data, self.seed, self.device = data, seed, device
        self.batch = batch if data.task == "paired" else min(batch, BATCH)

    def ready(self, network: nn.Module) -> nn.Module:
        """A copy in the mode for making images; what it does leaves the original alone.

        pix2pix generates as it was trained, with dropout and the statistics of the batch (Isola et al. 2017, 6.1.1).
        """
        return copy.deepcopy(network).requires_grad_(False).train(self.data.task == "paired")

    @torch.no_grad()
    def grid(self, network: nn.Module, count: int) -> tuple[Tensor, int]:
        """Images [M, C, H, W] on the CPU, and how many of them make a row.

        Latents: about ``count`` images, a column for each class. Pairs: input, output and target beside each other. Two
        domains: A, A as B, B, B as A.
        """
        g: Any = self.ready(network)
        with own_random(self.seed, self.device):
            if self.data.task == "latent":
                classes = g.num_classes
                columns = classes if classes else max(int(count**0.5), 1)
                total = max(count // columns, 1) * columns
                made = torch.cat(
                    [images.cpu() for images in self._latent(g, total, self.seed, torch.arange(total) % max(classes, 1))]
                )
                return made, columns
            side = 3 if self.data.task == "paired" else 4
            total = min(max(count // side, 1), len(self.data))
            rows = [self._row(g, batch) for batch in self._batches(range(total))]
            return torch.cat(rows).flatten(0, 1), side * max(round((total / side) ** 0.5), 1)

    @torch.no_grad()
    def images(self, network: nn.Module, indices: range) -> Iterator[Tensor]:
        """Generated images for metrics, [n, C, H, W] each: always of the same latents, or of these inputs.

        Args:
            network: the generator.
            indices: numbers of the images: each process has its own range.
        """
        g: Any = self.ready(network)
        with own_random(self.seed + 1, self.device):
            if self.data.task == "latent":
                labels = torch.tensor(list(indices)) % max(g.num_classes, 1)
                yield from self._latent(g, len(indices), self.seed + 1 + indices.start, labels)
                return
            for batch in self._batches(indices):
                assert batch.inputs is not None
                yield g(batch.inputs) if self.data.task == "paired" else g.a_to_b(batch.inputs)

    def _latent(self, g: Any, total: int, seed: int, labels: Tensor) -> Iterator[Tensor]:
        z = g.sample_z(total, torch.Generator().manual_seed(seed))
        given = labels.to(self.device)
        options = {"noise_mode": "const"} if isinstance(g, StyleGenerator) and hasattr(g.config, "use_noise") else {}
        for i in range(0, total, self.batch):
            part = slice(i, i + self.batch)
            yield g(z[part], given[part] if g.num_classes else None, **options).float()

    def _batches(self, numbers: range) -> Iterator[Batch]:
        for i in range(0, len(numbers), self.batch):
            yield self.data.images([n % len(self.data) for n in numbers[i : i + self.batch]]).to(self.device)

    def _row(self, g: Any, batch: Batch) -> Tensor:
        """[N, images of a row, C, H, W] on the CPU."""
        a, b = batch.inputs, batch.images
        assert a is not None
        if self.data.task == "paired":
            parts = [a, g(a), b]
        else:
            fake_b, fake_a = g(a, b)
            parts = [a, fake_b, b, fake_a]
        channels = max(p.shape[1] for p in parts)
        return torch.stack([p.float().expand(-1, channels, -1, -1) for p in parts], 1).cpu()


__all__ = ["Sampler"]
