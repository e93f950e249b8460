"""The small extractor: a convolutional network trained on scikit-learn's handwritten digits, whose weights come along.

It lets every metric run without a download, and is of use for grey images of digits alone. How the weights were made:
``gankern/metrics/train_digits.py``.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("digits_weights.npz")
SIZE = 32
FEATURES = 64
CLASSES = 10


class DigitsNetwork(nn.Module):
    """Three convolutions of stride 2 and two linear layers: 64 features and the logits of ten digits.

    Shape: images [N, C, H, W] of any size and channels in [-1, 1] to (features [N, 64], not negative, of a mean square of about
    1, logits [N, 10]). Images are made grey by the mean of their channels and resized to 32 x 32, bilinear and antialiased.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in ((1, 16), (16, 32), (32, 48)))
        self.hidden = nn.Linear(48 * (SIZE // 8) ** 2, FEATURES)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of ``images``."""
        x = images.to(self.head.weight.dtype).mean(1, keepdim=True)
        if tuple(x.shape[2:]) != (SIZE, SIZE):
            x = F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True)
        for convolution in self.convolutions:
            x = convolution(x).relu()
        features = self.hidden(x.flatten(1)).relu()
        return features, self.head(features)


def load_digits_network() -> DigitsNetwork:
    """The network with its trained weights, in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: the weights are missing from this installation, or truncated.
    """
    network = DigitsNetwork()
    mend = "reinstall gankern, or make it anew with: python -m gankern.metrics.train_digits"
    if not WEIGHTS.is_file():
        raise FileNotFoundError(f"the weights of the digits extractor, {str(WEIGHTS)!r}, are missing: {mend}")
    try:
        with np.load(WEIGHTS, allow_pickle=False) as file:
            state = {name: torch.from_numpy(file[name]).float() for name in network.state_dict()}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"the weights of the digits extractor, {str(WEIGHTS)!r}, are truncated: {mend}") from error
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def weights_digest() -> str:
    """A short name of these weights: features of others are not comparable."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16]


__all__ = ["CLASSES", "FEATURES", "DigitsNetwork", "load_digits_network", "weights_digest"]
