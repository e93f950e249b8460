"""A replay buffer of generated images for discriminators (Shrivastava et al. 2017; Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Shows a discriminator earlier generated images beside the newest.

    While the pool fills, images are kept and returned as they are. Then, for each image with probability 1/2, one that is kept
    is returned and the new one takes its place; else the new one is returned and forgotten (Zhu et al. 2017, section 4).

    The choice is made on the host by a random generator of the pool's own, so it neither waits for a GPU nor changes
    PyTorch's random state, and two pools of one seed choose alike.

    Args:
        size: images to keep; 0 returns all images as they are. Default 50.
        seed: of the choices. Default 0.

    Source: Shrivastava et al., "Learning from simulated and unsupervised images through adversarial training", 2017, 2.3.
    """

    def __init__(self, size: int = 50, seed: int = 0) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"ImagePool: size must be a number of images, 0 or more, got {size!r}")
        self.size = size
        self._random = torch.Generator().manual_seed(seed)
        self._images: Tensor | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def query(self, images: Tensor) -> Tensor:
        """Put images into the pool, and get as many to train with.

        Args:
            images: [N, C, H, W], always of the same C, H, W, dtype and device.

        Returns:
            [N, C, H, W], detached, in memory of its own (``images`` itself, detached, for a pool of size 0).

        Raises:
            ValueError: images of another shape, dtype or device than those kept.
        """
        if images.dim() != 4:
            raise ValueError(f"ImagePool: images must be [N, C, H, W], got {list(images.shape)}")
        images = images.detach()
        if self.size == 0:
            return images
        kept = self._images
        if kept is None:
            kept = self._images = images.new_empty((self.size, *images.shape[1:]))
        for name, new, old in (
            ("the shape", list(images.shape[1:]), list(kept.shape[1:])),
            ("the dtype", images.dtype, kept.dtype),
            ("the device", images.device, kept.device),
        ):
            if new != old:
                raise ValueError(f"ImagePool: images must have {name} of those that are kept ({old}), got {new}")
        chosen = images.clone()
        for i in range(images.shape[0]):
            if self._count < self.size:
                kept[self._count].copy_(images[i])
                self._count += 1
            elif int(torch.randint(2, (), generator=self._random)):
                place = int(torch.randint(self.size, (), generator=self._random))
                chosen[i].copy_(kept[place])
                kept[place].copy_(images[i])
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs: tensors and numbers, for a checkpoint."""
        images = None if self._images is None else self._images[: self._count].clone()
        return {"size": self.size, "images": images, "random": self._random.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], device: str | torch.device | None = None) -> None:
        """Continue where :meth:`state_dict` was taken.

        Args:
            state: what it gave.
            device: where the images are to be kept. Default None: where they are in ``state``.

        Raises:
            ValueError: a state of a pool of another size, or not of a pool; nothing is changed.
        """
        if set(state) != {"size", "images", "random"}:
            raise ValueError(f"ImagePool: state must have size, images and random, got {', '.join(sorted(map(str, state)))}")
        if state["size"] != self.size:
            raise ValueError(f"ImagePool: state must be of a pool of size {self.size}, got {state['size']}")
        images = state["images"]
        if images is not None and (images.dim() != 4 or images.shape[0] > self.size):
            raise ValueError(f"ImagePool: images of state must be [at most {self.size}, C, H, W], got {list(images.shape)}")
        kept = None
        if images is not None:
            place = images.device if device is None else torch.device(device)
            kept = torch.empty((self.size, *images.shape[1:]), dtype=images.dtype, device=place)
            kept[: len(images)].copy_(images)
        self._random.set_state(state["random"].cpu())
        self._images, self._count = kept, 0 if images is None else len(images)


__all__ = ["ImagePool"]
