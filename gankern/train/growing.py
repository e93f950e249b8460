"""ProGAN's schedule: each resolution is trained for a while, then the next one fades in (Karras et al. 2018, appendix A.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from gankern.models.progan import Growing


class Growth:
    """Where the networks are in a run: 4x4 alone, 8x8 fading in, 8x8 alone, ... each for the same number of steps.

    Args:
        networks: generator and discriminator.
        steps: of the run.
        grow: False: the networks stay as they are, and real images are made to fit.
    """

    def __init__(self, networks: Sequence[Growing], steps: int, grow: bool = True) -> None:
        self.networks, self.steps, self.grow = list(networks), steps, grow

    def place(self, step: int) -> tuple[int, float]:
        """Stage and share of its resolution in a step, counted from 0."""
        last = self.networks[0].config.last_stage
        length = self.steps / (2 * last + 1)
        phase = min(int(step / length), 2 * last)
        if phase % 2 == 0:
            return phase // 2, 1.0
        return (phase + 1) // 2, min((step + 1) / length - phase, 1.0)

    def prepare(self, step: int) -> None:
        """Grow the networks to where they should be in this step."""
        if not self.grow:
            return
        stage, alpha = self.place(step)
        for network in self.networks:
            while network.stage < stage:
                network.grow()
            network.alpha = alpha

    def shown(self, images: Tensor) -> Tensor:
        """Real images at the networks' resolution; while it fades in, blended with that before like generated ones."""
        network = self.networks[0]
        factor = images.shape[-1] // network.image_shape[-1]
        if factor > 1:
            images = F.avg_pool2d(images, factor)
        if network.fading:
            before = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="nearest")
            images = before.lerp(images, network.fade.weight)
        return images


__all__ = ["Growth"]
