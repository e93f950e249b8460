"""Where images come from, how they are prepared, and the cache of their features."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gankern import models
from gankern.metrics import Extractor, Features, Source, _cache, generated, make_extractor, open_pair, open_source
from gankern.metrics.sources import prepared


def pictures(n: int, c: int = 3, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, c, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def floats(x: torch.Tensor) -> torch.Tensor:
    return x.float() / 127.5 - 1


def whole(source: Source | Features) -> torch.Tensor:
    assert isinstance(source, Source)
    return torch.cat(list(source.parts(4)))


def write(folder: Path, images: torch.Tensor, names: str = "{:03d}.png") -> None:
    from PIL import Image

    for i, x in enumerate(images):
        path = folder / names.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.permute(1, 2, 0).squeeze(2).numpy()).save(path)


# ---- preparation -----------------------------------------------------------------------------------------------------------
def test_images_are_rounded_to_8_bits() -> None:
    x = pictures(2)
    assert torch.equal(prepared("x", x), floats(x)) and torch.equal(prepared("x", floats(x)), floats(x))
    near = floats(x) + 0.4 / 127.5
    torch.testing.assert_close(prepared("x", near), floats(x), rtol=0, atol=1e-6)
    assert torch.equal(prepared("x", torch.full((1, 1, 1, 2), -1.7)), torch.full((1, 1, 1, 2), -1.0))


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(2, 3, 4), r"images must be \[N, C, H, W\], got \[2, 3, 4\]"),
        (torch.full((1, 1, 2, 2), 255.0), "from -1 to 1, got 255 to 255; 0 to 255 is for uint8"),
        (torch.full((1, 1, 2, 2), float("nan")), "must be finite"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.int64), "must be uint8 or floating-point from -1 to 1, got int64"),
        ([1, 2], "must be a torch.Tensor"),
    ],
)
def test_what_is_no_image_is_named(images: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match="fake, batch 3: .*" + message):
        prepared("fake, batch 3", images)


# ---- sources ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_and_its_tensors_are_the_same(tmp_path: Path, channels: int) -> None:
    pytest.importorskip("PIL")
    x = pictures(5, channels)
    write(tmp_path, x, "sub{:d}/a.png")
    source = open_source(tmp_path, "real")
    assert isinstance(source, Source) and source.count == 5 and source.shape == (channels, 8, 8) and not source.skipped
    assert torch.equal(whole(source), whole(open_source(x, "real")))
    assert torch.equal(whole(open_source(tmp_path, "real", count=2)), floats(x[:2]))
    small = open_source(tmp_path, "real", resolution=4, channels=1)
    assert isinstance(small, Source) and small.shape == (1, 4, 4) and small.key != source.key


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"real: .*no image in this folder"):
        open_source(tmp_path / "empty", "real")
    mixed = tmp_path / "mixed"
    write(mixed, pictures(1), "a{:d}.png")
    write(mixed, pictures(1, size=6), "b{:d}.png")
    with pytest.raises(ValueError, match=r"images must have one size, but a0\.png is 8x8 and b0\.png 6x6; a resolution"):
        whole(open_source(mixed, "real"))
    assert whole(open_source(mixed, "real", resolution=5)).shape == (2, 3, 5, 5)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of 1 images can be read: x\.png: not an image"):
        open_source(tmp_path / "broken", "real")
    with pytest.raises(FileNotFoundError, match="fake: no file or folder"):
        open_source(tmp_path / "nowhere", "fake")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"fake must be a folder, an \.npz"):
        open_source(tmp_path / "notes.txt", "fake")


def test_files_of_arrays(tmp_path: Path) -> None:
    x = pictures(6)
    np.save(tmp_path / "nhwc.npy", x.permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "named.npz", images=x.numpy(), labels=np.arange(6)[:, None, None, None])
    np.savez(tmp_path / "plain.npz", floats(x).numpy())
    torch.save(x[:, :1], tmp_path / "grey.pt")
    np.save(tmp_path / "flat.npy", x[:, 0].numpy())
    for name in ("nhwc.npy", "named.npz", "plain.npz"):
        torch.testing.assert_close(whole(open_source(tmp_path / name, "real")), floats(x), rtol=0, atol=1e-6)
    for name in ("grey.pt", "flat.npy"):
        assert torch.equal(whole(open_source(tmp_path / name, "real")), floats(x[:, :1]))
    np.savez(tmp_path / "features.npz", features=np.ones((6, 4), np.float32), logits=np.ones((6, 2), np.float32))
    found = open_source(tmp_path / "features.npz", "real", count=5)
    assert isinstance(found, Features) and found.values.shape == (5, 4) and found.logits is not None
    data = (tmp_path / "named.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    data = (tmp_path / "grey.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    for name in ("cut.npz", "cut.pt"):
        with pytest.raises(ValueError, match=rf"real: .*{name}' is truncated or holds no arrays"):
            open_source(tmp_path / name, "real")


def test_streams_and_data() -> None:
    x = pictures(10)
    batches = [x[:3], x[3:9], x[9:]]
    stream = open_source(iter(batches), "fake")
    assert isinstance(stream, Source) and stream.count is None
    assert torch.equal(whole(stream), floats(x)) and stream.shape == (3, 8, 8)
    with pytest.raises(ValueError, match="a stream cannot be shared out"):
        stream.share(0, 2)
    with pytest.raises(TypeError, match=r"fake must be a folder.*got int"):
        open_source(3, "fake")
    shares = [open_source(x, "real").share(r, 3) for r in range(3)]  # type: ignore[union-attr]
    assert torch.equal(torch.cat([whole(s) for s in shares]), floats(x)) and len({s.key for s in shares}) == 3
    with pytest.raises(ValueError, match="10 images cannot be shared out to 11 ranks"):
        open_source(x, "real").share(0, 11)  # type: ignore[union-attr]


def test_bundled_data_have_the_size_of_the_other_side() -> None:
    pytest.importorskip("sklearn")
    real, fake = open_pair("digits", pictures(2, 3, 16))
    assert isinstance(real, Source) and real.shape == (3, 16, 16) and real.count == 1797
    assert next(iter(real.parts(2))).shape == (2, 3, 16, 16)
    real, fake = open_pair(pictures(2, 1, 16), "digits", count=10)
    assert isinstance(fake, Source) and fake.shape == (1, 16, 16) and fake.count == 10 and real is not None
    both = open_pair("digits", "digits")
    assert both[0].shape == both[1].shape == (1, 32, 32)  # type: ignore[union-attr]


# ---- generators ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def gan() -> models.GAN:
    torch.manual_seed(0)
    return models.from_config(models.FAMILIES["stylegan2"].tiny)


def test_generated_images_depend_on_seed_and_number(gan: models.GAN) -> None:
    """Noise included: however they are batched, whatever was drawn before, in whatever mode the network is."""
    source = generated(gan.generator, 70, seed=3)
    gan.generator.train()
    x = torch.cat(list(source.parts(70)))
    torch.randn(5)
    before = torch.random.get_rng_state()
    assert torch.equal(torch.cat(list(generated(gan.generator, 70, seed=3).parts(9))), x)
    assert torch.equal(before, torch.random.get_rng_state()) and gan.generator.training
    assert torch.equal(torch.cat([torch.cat(list(source.share(r, 3).parts(16))) for r in range(3)]), x)
    assert not torch.equal(torch.cat(list(generated(gan.generator, 70, seed=4).parts(70))), x)
    assert len({tuple(i.flatten().tolist()) for i in x}) == 70, "no image comes twice"


def test_a_checkpoint_makes_images(gan: models.GAN, tmp_path: Path) -> None:
    ema = {k: v * 0.5 if v.is_floating_point() else v for k, v in gan.generator.state_dict().items()}
    models.save_checkpoint(tmp_path / "gan.pt", gan, ema=ema)
    plain = open_source(tmp_path / "gan.pt", "fake", count=6, ema=False)
    assert isinstance(plain, Source) and plain.count == 6 and plain.shape == (3, 16, 16) and plain.generator is not None
    assert torch.equal(whole(plain), whole(generated(gan.generator, 6)))
    averaged = open_source(tmp_path / "gan.pt", "fake", count=6)
    assert isinstance(averaged, Source) and not torch.equal(whole(averaged), whole(plain)) and averaged.key != plain.key
    mean = open_source(tmp_path / "gan.pt", "fake", count=6, ema=False, truncation=0.0)
    w = whole(mean)
    assert float((w - w[:1]).abs().mean()) < float((whole(plain) - whole(plain)[:1]).abs().mean())


def test_generators_that_cannot_be(gan: models.GAN, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="generator must have sample_z"):
        generated(torch.nn.Linear(2, 2), 3)
    with pytest.raises(ValueError, match="count must be an int, at least 1, got 0"):
        generated(gan.generator, 0)
    tiny = models.from_config(models.FAMILIES["dcgan"].tiny)
    with pytest.raises(ValueError, match="truncation must be None for DCGANGenerator, which has no mapping"):
        generated(tiny.generator, 2, truncation=0.5)
    models.save_checkpoint(tmp_path / "pix.pt", models.from_config(models.FAMILIES["pix2pix"].tiny))
    with pytest.raises(ValueError, match="is a pix2pix, which makes images from images"):
        open_source(tmp_path / "pix.pt", "fake")


def test_classes_are_drawn() -> None:
    tiny = models.from_config(models.FAMILIES["cgan"].tiny)
    source = generated(tiny.generator, 5)
    assert tiny.generator.num_classes > 0 and torch.cat(list(source.parts(5))).shape[0] == 5


# ---- cache -----------------------------------------------------------------------------------------------------------------
class Counting(torch.nn.Module):
    """Features that say how often they were asked for."""

    key = "counting"

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen += len(x)
        return x.flatten(1)[:, :5], x.mean((2, 3))


def test_a_second_run_reads_and_an_interrupted_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "CHUNK", 8)
    x, module = pictures(20), Counting()
    extractor = make_extractor(module)

    def run(cache: Path | None) -> Features:
        source = open_source(x, "real")
        assert isinstance(source, Source)
        return Features.join(list(_cache.chunks(source, extractor, 3, cache)))

    plain = run(None)
    assert module.seen == 20
    source = open_source(x, "real")
    assert isinstance(source, Source)
    parts = _cache.chunks(source, extractor, 3, tmp_path)
    next(parts), next(parts)
    parts.close()  # two of three chunks are done
    assert module.seen == 36
    found = run(tmp_path)
    assert module.seen == 40, "the last four images alone"
    assert torch.equal(found.values, plain.values) and torch.equal(found.logits, plain.logits)  # type: ignore[arg-type]
    run(tmp_path)
    assert module.seen == 40
    x[0, 0, 0, 0] += 1
    run(tmp_path)
    assert module.seen == 60, "other images"
    other = Counting()
    other.key = "another"
    list(_cache.chunks(source, make_extractor(other), 3, tmp_path))
    assert other.seen == 20, "another extractor"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_named_and_computed_again(tmp_path: Path, damage: str) -> None:
    module = Counting()
    extractor = make_extractor(module)
    source = open_source(pictures(6), "real")
    assert isinstance(source, Source)
    (first,) = _cache.chunks(source, extractor, 6, tmp_path)
    (path,) = tmp_path.glob("*/*.npz")
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 255
    path.write_bytes({"cut": bytes(data[: len(data) * 2 // 3]), "flipped": bytes(data), "empty": b""}[damage])
    with pytest.warns(UserWarning, match=rf"{path.name}' is truncated or damaged .*computed again"):
        (again,) = _cache.chunks(source, extractor, 6, tmp_path)
    assert torch.equal(again.values, first.values) and module.seen == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(_cache.chunks(source, extractor, 6, tmp_path))
    assert module.seen == 12


def test_skipped_images_are_told_also_from_the_cache(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    write(tmp_path / "images", pictures(4))
    (tmp_path / "images" / "002.png").write_bytes(b"broken")
    extractor = make_extractor(Counting())
    for _ in range(2):
        source = open_source(tmp_path / "images", "real")
        assert isinstance(source, Source)
        with pytest.warns(UserWarning, match=r"1 of 4 images left out: 002\.png: not an image"):
            (part,) = _cache.chunks(source, extractor, 2, tmp_path / "cache")
        assert len(part) == 3 and source.skipped == ["002.png: not an image"]


def test_what_has_no_key_is_not_cached(tmp_path: Path) -> None:
    source = open_source(pictures(2), "real")
    stream = open_source([pictures(2)], "fake")
    assert isinstance(source, Source) and isinstance(stream, Source)
    with pytest.raises(ValueError, match=r"features of the extractor .*have no key"):
        list(_cache.chunks(source, Extractor("mine", lambda x: x.flatten(1)), cache=tmp_path))
    assert len(Features.join(list(_cache.chunks(stream, make_extractor("pixels"), cache=tmp_path)))) == 2
    assert not list(tmp_path.iterdir())
