"""What holds for all tests: their arithmetic, and which of them this machine can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from interpreter_speed import skip_repeated_patches
from machine import HAS_GPU, INTERPRETED

torch.manual_seed(0)
# Results are compared with float64: convolutions must not round float32 to TF32, which PyTorch lets cuDNN do.
torch.backends.cudnn.allow_tf32 = False
if INTERPRETED:
    skip_repeated_patches()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For networks and tensors that gain nothing by threads, and lose much where other processes want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if HAS_GPU:
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
