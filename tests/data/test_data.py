"""Images to train on: bundled sets, folders and what may be wrong with them, order, shards, exact resume, transforms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

from PIL import Image

from gankern.data import dataset as data_module
from gankern.data import folders, open_data, transforms
from gankern.data.dataset import Batch, ImageData


def write(path: Path, seed: int = 0, size: tuple[int, int] = (20, 12), mode: str = "RGB", **options: Any) -> np.ndarray:
    """A file with random pixels, width x height; the pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    Image.fromarray(pixels[:, :, 0] if bands == 1 else pixels).save(path, **options)
    return pixels


def solid(path: Path, level: int, size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)


def levels(images: torch.Tensor) -> list[int]:
    """The grey level of images of one colour each."""
    return transforms.to_uint8(images).flatten(1).float().mean(1).round().int().tolist()


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Ten images of the levels 0, 10, ..., 90."""
    for i in range(10):
        solid(tmp_path / f"{i}.png", 10 * i)
    return tmp_path


# ---- bundled ----------------------------------------------------------------------------------------------------------------
def test_digits_are_the_digits() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = open_data("digits", 8, channels=1, classes=True)
    assert (len(data), data.num_classes, data.class_names[3], data.skipped) == (1797, 10, "3", [])
    batch = data.images(range(50))
    assert batch.images.shape == (50, 1, 8, 8) and batch.images.dtype == torch.float32 and batch.inputs is None
    assert torch.equal(batch.labels, torch.from_numpy(bunch.target[:50]))  # type: ignore[arg-type]
    exact = torch.from_numpy(bunch.images[:50])[:, None] / 8 - 1
    assert (batch.images - exact).abs().max() <= 1 / 255 + 1e-6
    assert (batch.images.min(), batch.images.max()) == (-1, 1)


def test_digits_of_any_size_and_channels() -> None:
    batch = open_data("digits", 13, task="paired", channels=3, input_channels=1).images([0, 5])
    assert batch.images.shape == (2, 3, 13, 13) and batch.labels is None
    assert batch.inputs is not None and batch.inputs.shape == (2, 1, 13, 13)
    assert torch.equal(batch.images[:, 0], batch.images[:, 2])
    assert torch.equal(batch.inputs, transforms.edges(batch.images))
    with pytest.raises(ValueError, match="digits are one domain"):
        open_data("digits", 8, task="unpaired")


def test_photos_are_crops_of_the_photographs() -> None:
    data = open_data("photos", 16, classes=True, count=40, zoom=1)
    assert data.class_names == ["china", "flower"] and len(data) == 40
    batch = data.images(range(6))
    assert batch.labels is not None and batch.labels.tolist() == [0, 1, 0, 1, 0, 1]
    from sklearn.datasets import load_sample_images

    for i, (label, image) in enumerate(zip(batch.labels, transforms.to_uint8(batch.images), strict=True)):
        photo = torch.from_numpy(np.array(load_sample_images().images[label])).permute(2, 0, 1)
        windows = photo.unfold(1, 16, 1).unfold(2, 16, 1)  # [3, rows, columns, 16, 16]
        corner = (windows[:, :, :, 0, 0] == image[:, 0, 0, None, None]).all(0).nonzero().tolist()
        assert any(torch.equal(windows[:, r, c], image) for r, c in corner), f"crop {i} is not in its photograph"
    assert torch.equal(batch.images, open_data("photos", 16, count=40, zoom=1).images(range(6)).images)


def test_photos_as_pairs_and_as_domains() -> None:
    pairs = open_data("photos", 16, task="paired", count=4, input_channels=1).images(range(4))
    assert pairs.inputs is not None and torch.equal(pairs.inputs, transforms.grey(pairs.images))
    to_flower = open_data("photos", 16, task="unpaired", count=3)
    single = open_data("photos", 16, count=6)
    assert (len(to_flower), to_flower.num_inputs) == (3, 3)
    to_china = open_data("photos", 16, task="unpaired", count=3, direction="BtoA").images(range(3))
    forward = to_flower.images(range(3))
    assert torch.equal(forward.images, to_china.inputs) and torch.equal(forward.inputs, to_china.images)  # type: ignore[arg-type]
    # Means tell the light photograph of the palace from the dark one of the flower.
    means = [single.images(range(k, 6, 2)).images.mean().item() for k in (0, 1)]
    assert means[0] > means[1]
    assert forward.inputs is not None and forward.inputs.mean() > forward.images.mean()


def test_a_photograph_smaller_than_the_resolution_is_enlarged() -> None:
    assert open_data("photos", 500, count=2, cache_bytes=0).images([1]).images.shape == (1, 3, 500, 500)


# ---- folders ----------------------------------------------------------------------------------------------------------------
def test_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 1)
    write(tmp_path / "sub" / "b.JPG", 2)
    write(tmp_path / ".hidden" / "c.png", 3)
    write(tmp_path / ".d.png", 4)
    (tmp_path / "notes.txt").write_text("not an image")
    data = open_data(tmp_path, 8)
    assert len(data) == 2 and data.skipped == [] and data.images([0, 1]).images.shape == (2, 3, 8, 8)


def test_the_middle_is_cut_out(tmp_path: Path) -> None:
    pixels = write(tmp_path / "a.png", size=(20, 12))
    data = open_data(str(tmp_path), 12)
    assert np.array_equal(transforms.to_uint8(data.images([0]).images)[0].permute(1, 2, 0), pixels[:, 4:16])
    stretched = open_data(tmp_path, 12, crop="stretch").images([0]).images
    whole = transforms.resize(torch.from_numpy(pixels).permute(2, 0, 1), 12, 12)
    assert torch.equal(transforms.to_uint8(stretched)[0], whole)


@pytest.mark.parametrize("mode, expected", [("grey", 1), ("palette", 3), ("rgba", 4), ("la", 4), ("bits", 1), ("cmyk", 3)])
def test_kinds_of_files(tmp_path: Path, mode: str, expected: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    rgb, path = Image.fromarray(pixels), tmp_path / "x.png"
    if mode == "cmyk":
        path = tmp_path / "x.tif"
    pictures = {
        "grey": rgb.convert("L"), "palette": rgb.quantize(200), "rgba": rgb.convert("RGBA"), "la": rgb.convert("LA"),
        "bits": rgb.convert("1"), "cmyk": rgb.convert("CMYK"),
    }  # fmt: skip
    pictures[mode].save(path)
    found = folders.decode(path)
    assert found.dtype == torch.uint8 and found.shape == (expected, 8, 8)
    assert np.array_equal(
        found[:3].permute(1, 2, 0).numpy(), np.asarray(pictures[mode].convert("RGB"))[:, :, : min(expected, 3)]
    )


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (8, 8), dtype=np.uint16)
    deep[0, :2] = 0, 65535
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = folders.decode(tmp_path / "deep.png")[0].numpy()
    assert found[0, 0] == 0 and found[0, 1] == 255
    assert np.abs(found - deep / 257).max() <= 0.5


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:, :4, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = open_data(tmp_path, 8).images([0]).images
    assert (image[..., :4] == -1).all() and (image[..., 4:] == 1).all()
    assert torch.equal(open_data(tmp_path, 8, channels=4).images([0]).images[0, 3], image[0, 0].neg())


def test_exif_turns_the_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("x.png", "x.jpg"):
        write(tmp_path / name, size=(20, 10), exif=exif)
        assert folders.decode(tmp_path / name).shape == (3, 20, 10)
    assert folders._header(tmp_path / "x.jpg", None) == (10, 20)


@pytest.mark.parametrize("check", [None, False])
def test_corrupt_files_are_left_out(numbered: Path, check: bool | None) -> None:
    write(numbered / "5b.png", size=(64, 64))
    whole = (numbered / "5b.png").read_bytes()
    (numbered / "5b.png").write_bytes(whole[: len(whole) // 2])  # its header is fine
    (numbered / "7b.jpg").write_bytes(b"nothing")
    (numbered / "8b.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"of 13 images left out: .*7b\.jpg \(not an image\)"):
        data = open_data(numbered, 16, channels=1, check=check)
    if check is False:  # found out when it is needed; the next one takes its place
        assert data.skipped == ["7b.jpg", "8b.png"] and len(data) == 11
        with pytest.warns(UserWarning, match=r"5b\.png is left out"):
            assert levels(data.images([5, 6, 7]).images) == [50, 60, 60]
        assert data.skipped == ["7b.jpg", "8b.png", "5b.png"]
    else:
        assert data.skipped == ["5b.png", "7b.jpg", "8b.png"]
        assert levels(data.images(range(10)).images) == [10 * i for i in range(10)]


def test_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither 'digits' nor 'photos' nor a folder"):
        open_data(tmp_path / "none", 8)
    with pytest.raises(ValueError, match="no image in this folder"):
        open_data(tmp_path, 8)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"none of the images can be read: a\.png \(not an image\)"):
        open_data(tmp_path, 8)
    with pytest.raises(ValueError, match="got the file"):
        open_data(tmp_path / "a.png", 8)


def test_classes(tmp_path: Path) -> None:
    for name, level in (("cat", 10), ("dog", 20)):
        for i in range(3):
            solid(tmp_path / name / f"{i}.png", level + i)
    (tmp_path / "cat" / "1.png").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"1 of 6 images left out: cat/1\.png"):
        data = open_data(tmp_path, 16, channels=1, classes=True)
    batch = data.images(range(5))
    assert (data.num_classes, data.class_names) == (2, ["cat", "dog"])
    assert batch.labels is not None and batch.labels.dtype == torch.int64 and batch.labels.tolist() == [0, 0, 1, 1, 1]
    assert levels(batch.images) == [10, 12, 20, 21, 22]
    (tmp_path / "eel").mkdir()
    with pytest.raises(ValueError, match="the class 'eel' has no images"):
        open_data(tmp_path, 16, classes=True)
    (tmp_path / "eel" / "0.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="none of the images of the class 'eel' can be read"):
        open_data(tmp_path, 16, classes=True)
    with pytest.raises(ValueError, match="classes are subfolders"):
        open_data(tmp_path / "cat", 16, classes=True)


def test_pairs_of_two_folders(tmp_path: Path) -> None:
    for i in range(4):
        solid(tmp_path / "A" / f"{i}.png", 10 * i)
        solid(tmp_path / "B" / f"{i}.bmp", 10 * i + 5)
    solid(tmp_path / "A" / "alone.png", 0)
    (tmp_path / "B" / "2.bmp").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"2 of 9 images left out: A/alone\.png \(has no partner\), B/2\.bmp"):
        data = open_data(tmp_path, 16, channels=1, task="paired")
    batch = data.images(range(3))
    assert batch.inputs is not None and (levels(batch.inputs), levels(batch.images)) == ([0, 10, 30], [5, 15, 35])
    with pytest.warns(UserWarning):
        back = open_data(tmp_path, 16, channels=1, task="paired", direction="BtoA").images(range(3))
    assert torch.equal(back.images, batch.inputs) and torch.equal(back.inputs, batch.images)  # type: ignore[arg-type]
    solid(tmp_path / "B" / "3.bmp", 35, size=(32, 16))
    with pytest.warns(UserWarning, match="other proportions"):
        assert len(open_data(tmp_path, 16, task="paired")) == 2


def test_pairs_side_by_side(tmp_path: Path) -> None:
    pixels = write(tmp_path / "x.png", size=(16, 8))
    batch = open_data(tmp_path, 8, task="paired").images([0])
    assert batch.inputs is not None
    assert np.array_equal(transforms.to_uint8(batch.inputs)[0].permute(1, 2, 0), pixels[:, :8])
    assert np.array_equal(transforms.to_uint8(batch.images)[0].permute(1, 2, 0), pixels[:, 8:])
    write(tmp_path / "y.png", size=(15, 8))
    with pytest.raises(ValueError, match=r"y\.png \(15 x 8\) is not two images"):
        open_data(tmp_path, 8, task="paired")
    (tmp_path / "y.png").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"1 of 2 images left out: y\.png \(not an image\)"):
        assert len(open_data(tmp_path, 8, task="paired")) == 1
    (tmp_path / "A").mkdir()
    with pytest.raises(ValueError, match="B/ is not there"):
        open_data(tmp_path, 8, task="paired")


def test_a_plain_folder_makes_pairs_with_a_condition(tmp_path: Path) -> None:
    write(tmp_path / "x.png", size=(8, 8))
    batch = open_data(tmp_path, 8, task="paired", condition="grey").images([0])
    assert torch.equal(batch.inputs, transforms.to_channels(transforms.grey(batch.images), 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [("trainA", "trainB"), ("A", "B")])
def test_two_domains(tmp_path: Path, names: tuple[str, str]) -> None:
    for side, name in enumerate(names):
        for i in range(3 + 2 * side):
            solid(tmp_path / name / f"{i}.png", 100 * side + i)
    data = open_data(tmp_path, 16, channels=1, task="unpaired")
    assert (len(data), data.num_inputs) == (5, 3)
    stream = data.stream(15, seed=3)
    batch = next(stream)
    assert batch.inputs is not None
    assert sorted(levels(batch.images)) == sorted(list(range(100, 105)) * 3)
    assert sorted(levels(batch.inputs)) == sorted(list(range(3)) * 5)
    pairs = {(a, b) for a, b in zip(levels(batch.inputs), levels(batch.images), strict=True)}
    assert len(pairs) > 5, "the domains are shuffled together"
    (tmp_path / names[0]).rename(tmp_path / "other")
    with pytest.raises(ValueError, match="which are not there"):
        open_data(tmp_path, 16, task="unpaired")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"resolution": 0}, "resolution must be an int of at least 1, got 0"),
        ({"channels": 2}, "channels must be 1, 3 or 4, got 2"),
        ({"input_channels": 2}, "input_channels must be 1, 3 or 4"),
        ({"task": "video"}, "task must be one of 'latent', 'paired', 'unpaired', got 'video'"),
        ({"crop": "top"}, "crop must be one of"),
        ({"direction": "CtoD"}, "direction must be one of"),
        ({"task": "paired", "condition": "depth"}, "condition must be one of 'grey', 'edges'"),
        ({"condition": "grey"}, "condition must be None for task 'latent'"),
        ({"classes": True, "task": "paired"}, "classes must be False for task 'paired'"),
        ({"count": 0}, "count must be an int of at least 1"),
        ({"zoom": 0.5}, "zoom must be at least 1"),
        ({"cache_bytes": -1}, "cache_bytes must be an int of at least 0"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data("photos", **({"resolution": 8} | changes))


def test_other_types() -> None:
    with pytest.raises(TypeError, match="spec must be 'digits'"):
        open_data(3, 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="indices must be from 0 to 1796, got 1797"):
        open_data("digits", 8).images([1797])


@pytest.mark.parametrize("module, what", [("sklearn", "digits"), ("sklearn", "photos"), ("PIL", "folder")])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, numbered: Path, module: str, what: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "gankern\[train\]"'):
        open_data(numbered if what == "folder" else what, 8)


def test_the_cache_changes_nothing_but_decoding(numbered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    plain = folders.decode
    monkeypatch.setattr(folders, "decode", lambda *args: calls.append(args) or plain(*args))
    one, none = (open_data(numbered, 16, channels=1, cache_bytes=b) for b in (2**20, 0))
    room = open_data(numbered, 16, channels=1, cache_bytes=4 * 256)  # for four of the ten
    assert len(calls) == 30, "each file is decoded once by each scan"
    counts = []
    for data in (one, none, room):
        calls.clear()
        assert levels(data.images(range(10)).images) == [10 * i for i in range(10)]
        counts.append(len(calls))
    assert counts == [0, 10, 6]


# ---- streams ----------------------------------------------------------------------------------------------------------------
def same(a: Batch, b: Batch) -> bool:
    def equal(x: torch.Tensor | None, y: torch.Tensor | None) -> bool:
        return (x is None) == (y is None) and (x is None or y is None or torch.equal(x, y))

    return equal(a.images, b.images) and equal(a.labels, b.labels) and equal(a.inputs, b.inputs)


def test_an_epoch_has_every_image_once(numbered: Path) -> None:
    stream = open_data(numbered, 16, channels=1).stream(4, seed=1)
    seen = [level for _ in range(10) for level in levels(next(stream).images)]  # four epochs
    epochs = [seen[k : k + 10] for k in range(0, 40, 10)]
    assert all(sorted(e) == [10 * i for i in range(10)] for e in epochs)
    assert len({tuple(e) for e in epochs}) == 4 and stream.epoch == 4
    other = open_data(numbered, 16, channels=1).stream(10, seed=2)
    assert levels(next(other).images) != epochs[0]


def test_shards_are_disjoint_and_together_one_epoch() -> None:
    data = open_data("digits", 8, channels=1, classes=True, flip=True)
    whole = data.stream(12, seed=5)
    ranks = [data.stream(4, seed=5, rank=r, world=3) for r in range(3)]
    for _ in range(3):
        parts = [next(s) for s in ranks]
        expected = next(whole)
        assert torch.equal(torch.cat([p.images for p in parts]), expected.images)
        assert torch.equal(torch.cat([p.labels for p in parts]), expected.labels)  # type: ignore[misc,arg-type]


def test_shards_of_a_folder(numbered: Path) -> None:
    data = open_data(numbered, 16, channels=1)
    ranks = [data.stream(1, seed=5, rank=r, world=2) for r in range(2)]
    seen = [levels(next(s).images)[0] for _ in range(5) for s in ranks]
    assert sorted(seen) == [10 * i for i in range(10)]


@pytest.mark.parametrize("task", ["latent", "paired", "unpaired"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_exact(tmp_path: Path, task: str, workers: int) -> None:
    for i in range(7):
        write(tmp_path / "A" / f"{i}.png", i)
        write(tmp_path / "B" / f"{i}.png", 10 + i)
    settings: dict[str, Any] = {"task": task, "flip": True, "crop": "random"}
    stream = open_data(tmp_path, 8, **settings).stream(3, seed=4, workers=workers)
    for _ in range(3):
        next(stream)
    state = stream.state_dict()
    expected = [next(stream) for _ in range(5)]
    stream.close()
    fresh = open_data(tmp_path, 8, **settings).stream(3, seed=0, workers=2 - workers)
    next(fresh)
    fresh.load_state_dict(state)
    assert all(same(next(fresh), batch) for batch in expected)
    fresh.close()


def test_a_state_of_other_data_is_refused(numbered: Path) -> None:
    stream = open_data(numbered, 16).stream(2, seed=1)
    next(stream)
    with pytest.raises(ValueError, match="state is of data with 1797 images"):
        stream.load_state_dict(open_data("digits", 16).stream(2).state_dict())
    with pytest.raises(ValueError, match="position is missing or no number"):
        stream.load_state_dict({"seed": 1, "images": 10, "inputs": 0})
    assert stream.position == 2 and stream.seed == 1


def test_flips_and_crops(tmp_path: Path) -> None:
    pixels = write(tmp_path / "x.png", size=(9, 9))
    square = torch.from_numpy(pixels).permute(2, 0, 1)
    data = open_data(tmp_path, 9, flip=True)
    drawn = transforms.to_uint8(next(data.stream(40)).images)
    plain, mirrored = ((drawn == x).flatten(1).all(1) for x in (square, square.flip(-1)))
    assert bool((plain | mirrored).all()) and 8 < int(mirrored.sum()) < 32
    assert torch.equal(transforms.to_uint8(data.images([0]).images)[0], square), "images() never flips"
    shifted = open_data(tmp_path, 8, crop="random")
    size = round(8 * 286 / 256)
    assert size == 9
    windows = square.unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    drawn = transforms.to_uint8(next(shifted.stream(40)).images)
    which = [(windows == x).flatten(1).all(1).nonzero().flatten().tolist() for x in drawn]
    assert {w[0] for w in which} == {0, 1, 2, 3}


def test_pairs_are_flipped_and_cropped_together(tmp_path: Path) -> None:
    write(tmp_path / "A" / "x.png", size=(20, 12))
    write(tmp_path / "B" / "x.png", size=(20, 12))
    batch = next(open_data(tmp_path, 8, task="paired", flip=True, crop="random").stream(16))
    assert torch.equal(batch.images, batch.inputs)  # type: ignore[arg-type]
    assert len({tuple(x.flatten().tolist()) for x in batch.images}) > 4


def test_bad_streams() -> None:
    data = open_data("digits", 8)
    for changes, message in (
        ({"batch": 0}, "batch must be an int of at least 1, got 0"),
        ({"seed": -1}, "seed must be an int of at least 0"),
        ({"rank": 2, "world": 2}, "rank must be an int from 0 to 1, got 2"),
        ({"workers": True}, "workers must be an int"),
    ):
        with pytest.raises(ValueError, match=message):
            data.stream(**({"batch": 2} | changes))  # type: ignore[arg-type]


def test_batches_move() -> None:
    batch = next(open_data("digits", 8, task="paired").stream(2)).to("cpu", channels_last=True)
    assert isinstance(batch, Batch) and len(batch) == 2
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.inputs is not None and batch.inputs.is_contiguous(memory_format=torch.channels_last)


def test_empty_batches_have_shapes() -> None:
    for task in data_module.TASKS:
        batch = open_data("photos", 8, task=task, count=4).images([])
        assert batch.images.shape == (0, 3, 8, 8) and (batch.inputs is None) == (task == "latent")
        assert batch.inputs is None or batch.inputs.shape == (0, 3, 8, 8)
    assert isinstance(open_data("digits", 8), ImageData)


# ---- transforms -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(7, 9), (40, 31), (20, 6)])
def test_resizing_is_that_of_pillow(size: tuple[int, int]) -> None:
    """With floating-point pixels; with bytes pillow rounds between rows and columns."""
    image = torch.rand(1, 20, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    theirs = Image.fromarray(image[0].numpy()).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    assert (transforms.resize(image, *size)[0] - torch.from_numpy(np.array(theirs))).abs().max() < 1e-5
    whole = transforms.to_uint8(image)
    rounded = transforms.resize(transforms.to_float(whole), *size)
    assert torch.equal(transforms.resize(whole, *size), transforms.to_uint8(rounded))
    assert torch.equal(transforms.resize(whole, 20, 24), whole)


def test_channels() -> None:
    image = torch.randint(0, 256, (3, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    luma = Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")
    grey = transforms.to_channels(image, 1)
    assert (grey[0].int() - torch.from_numpy(np.array(luma)).int()).abs().max() <= 1
    assert torch.equal(transforms.to_channels(grey, 3), grey.expand(3, -1, -1))
    assert torch.equal(transforms.to_channels(transforms.to_channels(image, 4), 3), image)
    floats = transforms.to_channels(transforms.to_float(image), 1)
    assert (floats - transforms.to_float(grey)).abs().max() <= 1 / 255 + 1e-6
    with pytest.raises(ValueError, match="channels must be 1, 3 or 4, got 2"):
        transforms.to_channels(image, 2)
    with pytest.raises(ValueError, match="with 1, 3 or 4 channels"):
        transforms.to_channels(image[:2], 1)
    with pytest.raises(TypeError, match="uint8 or floating-point"):
        transforms.resize(image.int(), 4, 4)


def test_edges_of_a_step() -> None:
    x = torch.full((2, 3, 6, 6), -1.0)
    assert (transforms.edges(x) == -1).all()
    x[..., 3:] = 0.0
    found = transforms.edges(x)
    assert found.shape == (2, 1, 6, 6)
    assert found[..., 2:4].sub(1).abs().max() < 1e-6 and (found[..., :2] == -1).all() and (found[..., 4:] == -1).all()


def test_ranges_round_trip() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(transforms.to_uint8(transforms.to_float(every)), every)
    odd = torch.tensor([-3.0, 3.0, float("nan"), float("inf"), -float("inf")])
    assert transforms.to_uint8(odd).tolist() == [0, 255, 0, 255, 0]
    with pytest.raises(TypeError, match="images must be floating-point"):
        transforms.to_uint8(every.int())


def test_crops_lie_inside() -> None:
    x = torch.arange(35.0).view(1, 5, 7)
    assert transforms.center_crop(x, 3)[0, 0, 0] == 1 * 7 + 2
    assert transforms.random_crop(x, 3, (0.999999, 0.999999))[0, 0, 0] == 2 * 7 + 4
    with pytest.raises(ValueError, match="does not lie in an image of 5 x 7"):
        transforms.crop(x, 3, 0, 3)
