"""Pictures: grids, images, GIF and MP4, whole or not there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

from gankern.data import make_grid, save_frames, save_grid, save_image, to_uint8


def pictures(count: int = 5, channels: int = 3, height: int = 4, width: int = 6) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=random)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grid_is_read_like_a_page(tmp_path: Path, channels: int) -> None:
    images = pictures(channels=channels)
    path = tmp_path / "new" / "grid.png"
    save_grid(path, images.float() / 127.5 - 1)
    pixels = np.asarray(Image.open(path)).reshape(2 * 6 - 2, 3 * 8 - 2, channels)
    for i, image in enumerate(images):
        top, left = i // 3 * 6, i % 3 * 8
        assert np.array_equal(pixels[top : top + 4, left : left + 6], image.permute(1, 2, 0).numpy())
    covered = np.zeros(pixels.shape[:2], dtype=bool)
    for i in range(5):
        covered[i // 3 * 6 : i // 3 * 6 + 4, i % 3 * 8 : i % 3 * 8 + 6] = True
    assert (pixels[~covered] == 255).all()
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"], "nothing is left beside it"


def test_columns_padding_background() -> None:
    images = pictures()
    assert make_grid(images, columns=5, padding=0).shape == (3, 4, 30)
    assert make_grid(images, columns=9).shape == (3, 4, 5 * 8 - 2)
    assert make_grid(images, columns=1, background=-1).shape == (3, 5 * 6 - 2, 6)
    assert make_grid(images, columns=1, background=-1)[:, 4:6].sum() == 0
    assert torch.equal(make_grid(images[:1]), images[0])


def test_bad_grids(tmp_path: Path) -> None:
    for images, message in (
        (pictures()[:0], "N > 0"),
        (pictures()[0], "must be"),
        (pictures(channels=2), "1, 3 or 4 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            save_grid(tmp_path / "x.png", images)
    with pytest.raises(ValueError, match="columns must be an int of at least 1 or None, got 0"):
        save_grid(tmp_path / "x.png", pictures(), columns=0)
    with pytest.raises(ValueError, match="suffix of an image format"):
        save_grid(tmp_path / "x.txt", pictures())
    with pytest.raises(ValueError, match="JPEG has no opacity"):
        save_grid(tmp_path / "x.jpg", pictures(channels=4))
    with pytest.raises(TypeError, match=r"images must be a torch\.Tensor"):
        save_grid(tmp_path / "x.png", [pictures()])  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_one_image(tmp_path: Path) -> None:
    image = pictures(1)[0]
    save_image(tmp_path / "x.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), image.permute(1, 2, 0).numpy())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grid.png"
    save_grid(path, pictures())
    before = path.read_bytes()

    def fail(*args: object, **options: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_grid(path, pictures(9))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["grid.png"]


def test_a_gif(tmp_path: Path) -> None:
    frames = torch.stack([torch.full((3, 8, 8), v) for v in (-1.0, 0.0, 1.0)])
    save_frames(tmp_path / "x.gif", frames, fps=10)
    with Image.open(tmp_path / "x.gif") as file:
        assert (file.n_frames, file.info["duration"], file.info["loop"]) == (3, 100, 0)
        for i, level in enumerate((0, 128, 255)):
            file.seek(i)
            assert np.abs(np.asarray(file.convert("L")).astype(int) - level).max() <= 1


def test_an_mp4(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    frames = torch.stack([torch.full((3, 17, 16), v) for v in (-1.0, 1.0)]).repeat_interleave(5, 0)
    save_frames(tmp_path / "x.mp4", iter(frames), fps=10)
    # The reader says that its length is infinite, which list() would believe.
    read = list(imageio.get_reader(tmp_path / "x.mp4").iter_data())
    assert len(read) == 10 and read[0].shape == (18, 16, 3) and read[0].mean() < 20 and read[-1].mean() > 235


def test_an_mp4_needs_imageio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio", None)
    monkeypatch.setitem(sys.modules, "imageio.v2", None)
    with pytest.raises(ImportError, match="pip install imageio imageio-ffmpeg"):
        save_frames(tmp_path / "x.mp4", pictures())
    assert list(tmp_path.iterdir()) == []


def test_bad_frames(tmp_path: Path) -> None:
    for frames, message in (
        ([], "at least one frame"),
        ([pictures()], r"iterable of \[C, H, W\], got \[5, 3, 4, 6\] at 0"),
        ([pictures()[0], pictures(width=7)[0]], r"one size, \[3, 4, 6\], got \[3, 4, 7\] at 1"),
    ):
        with pytest.raises(ValueError, match=message):
            save_frames(tmp_path / "x.gif", frames)
    with pytest.raises(ValueError, match=r"path must end with \.gif or \.mp4"):
        save_frames(tmp_path / "x.avi", pictures())
    with pytest.raises(ValueError, match="fps must be positive"):
        save_frames(tmp_path / "x.gif", pictures(), fps=0)
    assert list(tmp_path.iterdir()) == []


def test_floats_are_clamped() -> None:
    assert to_uint8(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]
