"""Train the digits extractor: ``python -m gankern.metrics.train_digits`` wrote ``digits_weights.npz``.

Half a minute on one core. It needs scikit-learn. The bits of the weights depend on the machine and on PyTorch, which is why
they are part of the repository: features of other weights are not comparable.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gankern._files import replacing
from gankern._optional import optional
from gankern._scopes import own_random
from gankern.metrics.digits import SIZE, WEIGHTS, DigitsNetwork


def digits_images() -> tuple[Tensor, Tensor]:
    """The 1797 digits of scikit-learn: images [1797, 1, 8, 8] in [-1, 1] and labels int64 [1797].

    Raises:
        ImportError: scikit-learn is missing.
    """
    datasets = optional("sklearn.datasets", "the digits come with scikit-learn, which is missing: pip install scikit-learn")
    bunch = datasets.load_digits()
    return torch.from_numpy(bunch.images).float().div(8).sub(1)[:, None], torch.from_numpy(bunch.target).long()


def held_out(count: int) -> Tensor:
    """Which images the network is not trained on: every fifth, bool [count]."""
    return torch.arange(count) % 5 == 4


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images as a generator or a loader may give them: enlarged by some filter, moved by a pixel or two, with some noise."""

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    size = (16, 28, 32, 32, 64)[draw(5)]
    mode = ("nearest", "bilinear", "bicubic")[draw(3)]
    x = F.interpolate(images, size=(size, size), mode=mode)
    x = F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True).clamp(-1, 1)
    x = F.pad(x, (3, 3, 3, 3), value=-1.0)
    top, left = draw(7), draw(7)
    x = x[:, :, top : top + SIZE, left : left + SIZE]
    return x + 0.1 * torch.rand((), generator=generator) * torch.randn(x.shape, generator=generator)


def train(epochs: int = 60, batch: int = 64, seed: int = 0) -> tuple[DigitsNetwork, float]:
    """Train the network on four fifths of the digits; the weights are then rounded to float16.

    Args:
        epochs: passes over the images. Default 60.
        batch: images in a step. Default 64.
        seed: of weights, order and augmentation. Default 0.

    Returns:
        The network in evaluation mode, and its accuracy on the fifth that it has not seen.

    Raises:
        ImportError: scikit-learn is missing.
    """
    images, labels = digits_images()
    test = held_out(len(images))
    x, y = images[~test], labels[~test]
    with own_random(seed):
        network = DigitsNetwork()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for chosen in order[: len(x) // batch * batch].split(batch):
            _, logits = network(_augmented(x[chosen], generator))
            loss = F.cross_entropy(logits, y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval().requires_grad_(False)
    # Features of a root mean square of 1, as those of Inception about are: the kernel distance depends on their scale.
    size = network(F.interpolate(x, size=(SIZE, SIZE), mode="bicubic"))[0].square().mean().sqrt()
    for parameter, factor in ((network.hidden.weight, 1 / size), (network.hidden.bias, 1 / size), (network.head.weight, size)):
        parameter.mul_(factor)
    network.half().float()
    return network, accuracy(network, images[test], labels[test])


@torch.no_grad()
def accuracy(network: DigitsNetwork, images: Tensor, labels: Tensor) -> float:
    """Share of ``images`` [N, 1, 8, 8] that the network calls by their label."""
    _, logits = network(images)
    return float((logits.argmax(1) == labels).double().mean())


def main() -> None:
    """Train the network and write its weights into the package."""
    network, share = train()
    state = {name: value.half().numpy() for name, value in network.state_dict().items()}
    with replacing(WEIGHTS) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **state)
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size} bytes; {100 * share:.1f} % of the digits held out are right")


if __name__ == "__main__":
    main()
