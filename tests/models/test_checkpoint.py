"""Checkpoints that are none: named, whatever their bytes make of an unpickler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gankern import models


@pytest.mark.parametrize("junk", [b"", b"junk\n", b"\x80", b"\x80\x04K\x01.", b"PK\x03\x04 and no more", bytes(range(256))])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(junk)
    with pytest.raises(ValueError, match=r"a\.pt' is truncated or not a checkpoint of gankern|a\.pt' is not a checkpoint"):
        models.load_checkpoint(path)
    assert path.read_bytes() == junk


def test_a_truncated_checkpoint_is_named_at_any_length(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    models.save_checkpoint(whole, models.GAN(models.FAMILIES["dcgan"].tiny))
    content = whole.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 20)):
        (tmp_path / "part.pt").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"part\.pt"):
            models.load_checkpoint(tmp_path / "part.pt")


def test_of_another_format_or_family(tmp_path: Path) -> None:
    torch.save({"format": "gankern-checkpoint 1", "family": "nothing"}, tmp_path / "family.pt")
    with pytest.raises(ValueError, match="unknown family 'nothing'"):
        models.load_checkpoint(tmp_path / "family.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="its format is 'list'"):
        models.load_checkpoint(tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        models.load_checkpoint(tmp_path / "absent.pt")
