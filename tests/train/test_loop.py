"""The loop and its parts: every family trains and leaves its files, settings come from the paper, penalties and rates act."""

from __future__ import annotations

import copy
import csv
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from gankern import losses
from gankern.data.dataset import Batch, open_data
from gankern.losses.adversarial import adversarial
from gankern.models import FAMILIES, from_config, load_checkpoint
from gankern.train import Settings, steps, train
from gankern.train.curves import Board, Table, draw
from gankern.train.defaults import RECIPES, SMALL
from gankern.train.distributed import Workers, choose_device
from gankern.train.ema import EMA
from gankern.train.growing import Growth
from gankern.train.progress import WINDOW, Progress, Referee
from gankern.train.run import GAMES, open_for
from gankern.train.samples import Sampler
from gankern.train.settings import fill

DCGAN = {"width": 8, "z_dim": 8}


def tiny(family: str) -> dict[str, Any]:
    """A family's smallest settings, at one channel for the digits."""
    config = FAMILIES[family].tiny
    changes = config.to_dict()
    if FAMILIES[family].task == "latent":
        changes["channels"] = 1
    changes.pop("num_classes", None)
    return changes


def settings(out: Path, **more: Any) -> Settings:
    common = {"steps": 2, "batch": 4, "log_every": 1, "sample_count": 4, "progress": False, "device": "cpu"}
    return Settings(out=str(out), **{**common, **more})


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Pictures of curves take longer than these runs; one test has them."""
    if not request.node.name.startswith("test_a_folder_of_classes"):
        monkeypatch.setattr("gankern.train.run.draw", lambda *args: False)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains(family: str, tmp_path: Path) -> None:
    data = "digits" if FAMILIES[family].task == "latent" else "photos"
    result = train(settings(tmp_path / "run", model=family, data=data, set=tiny(family), classes=family == "sngan"))
    assert result.step == 2 and result.stopped is None
    assert all(math.isfinite(v) for row in result.losses for v in row.values())
    kept = load_checkpoint(result.checkpoint)
    assert kept.gan.config.family == family and kept.state["step"] == 2
    start = from_config(kept.gan.config)
    torch.manual_seed(0)
    for network in ("generator", "discriminator"):
        moved = zip(getattr(kept.gan, network).parameters(), getattr(start, network).parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in moved), network
    from PIL import Image

    with Image.open(result.samples) as picture:
        assert picture.format == "PNG" and min(picture.size) >= 48
    with open(tmp_path / "run" / "losses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (
        found["step"] == 2
        and found["settings"]["model"] == family
        and found["config"] == json.loads(json.dumps(kept.gan.config.to_dict()))
    )
    assert found["versions"]["torch"].startswith(torch.__version__)
    names = {"loss_d", "loss_g", *(n for n in (FAMILIES[family].penalties or {}) if n != "clip")}
    assert names - {"path_length"} <= set(rows[0])


def test_every_family_has_a_recipe_and_its_papers_loss() -> None:
    assert set(RECIPES) == set(FAMILIES)
    for name, family in FAMILIES.items():
        filled = fill(Settings(model=name))
        assert filled.loss == family.loss
        for penalty, weight in (family.penalties or {}).items():
            assert filled.penalties[penalty] == SMALL.get((name, "digits"), SMALL["gan", "digits"]).train.get(penalty, weight)
        assert None not in (
            filled.batch,
            filled.lr,
            filled.lr_d,
            filled.betas,
            filled.n_critic,
            filled.ema,
            filled.style_mixing,
        )


@pytest.mark.parametrize(("family", "data"), SMALL)
def test_small_sizes_can_be_built(family: str, data: str) -> None:
    opened, config = open_for(fill(Settings(model=family, data=data)))
    assert opened.resolution == config.resolution and opened.channels == config.channels
    gan = from_config(config)
    assert sum(p.numel() for p in gan.parameters()) < 3e6


def test_a_preset_is_not_made_small_and_the_user_has_the_last_word() -> None:
    assert fill(Settings(model="dcgan-64")).set == {}
    assert fill(Settings(model="dcgan", data="folder")).set == {}
    filled = fill(Settings(model="dcgan", set={"width": 16}, lr=1e-3, penalties={"r1": 1.0}))
    assert filled.set["width"] == 16 and filled.set["resolution"] == 16
    assert filled.lr == filled.lr_d == 1e-3 and filled.penalties == {"r1": 1.0}
    assert fill(Settings(model="wgan", set={"clip": 0.02})).penalties["clip"] == 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nothing"}, "no model 'nothing'; there are"),
        ({"steps": 0}, "steps must be an int, at least 1, got 0"),
        ({"lr": -1.0}, "lr must be a number, not negative, got -1.0"),
        ({"betas": (0.5, 1.0)}, "betas must be two numbers from 0 to below 1"),
        ({"loss": "mse"}, "loss must be one of .*hinge.*, got 'mse'"),
        ({"autocast": "int8"}, "autocast must be one of None, bf16"),
        ({"penalties": {"r3": 1.0}}, "penalties: there is no 'r3'; there are"),
        ({"penalties": {"r1": -1.0}}, "penalties: r1 must be a number, not negative"),
        ({"penalties": {"cycle": 1.0}}, "penalties: cycle is for unpaired models, dcgan is latent"),
        ({"model": "cyclegan", "data": "photos", "penalties": {"r1": 1.0}}, "penalties: r1 is for latent or paired models"),
        ({"metric_every": 5}, "metric must name what is to be computed"),
        ({"ops": "fast"}, "ops must be 'fused' or 'reference'"),
        ({"set": {"depth": 3}}, "no setting 'depth'; it has"),
        ({"set": {"resolution": 17}}, "resolution must be a power of two from 8 to 1024, got 17"),
        ({"classes": True}, "classes: dcgan has none; models with classes are"),
        ({"model": "cgan", "set": {"num_classes": 7}}, "num_classes must be 10 for digits, got 7"),
        ({"penalties": {"path_length": 1.0}}, "path_length is for style-based generators, dcgan is none"),
        ({"style_mixing": 0.5}, "style_mixing is for style-based generators"),
        ({"model": "mgan", "penalties": {"r1": 1.0}}, "classifier does not go with r1"),
        ({"device": "abacus"}, "device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got 'abacus'"),
        ({"metric": ("beauty",)}, "there is no metric 'beauty'"),
        ({"data": "."}, "no image"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named_and_nothing_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ValueError, match=message):
        train(settings(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no data"):
        train(settings(tmp_path / "run", data=str(tmp_path / "nothing")))
    with pytest.raises(ValueError, match="this machine has"):
        choose_device("cuda:99")


def test_a_folder_of_classes_trains(tmp_path: Path) -> None:
    from gankern.data import save_image

    for name in ("apples", "pears"):
        for i in range(3):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            save_image(tmp_path / "data" / name / f"{i}.png", torch.rand(3, 20, 24) * 2 - 1)
    (tmp_path / "data" / "pears" / "broken.png").write_bytes(b"no image")
    small = {k: v for k, v in tiny("cgan").items() if k != "channels"}
    with pytest.warns(UserWarning, match="broken.png"):
        result = train(settings(tmp_path / "run", model="cgan", data=str(tmp_path / "data"), set=small))
    assert load_checkpoint(result.checkpoint).gan.config.num_classes == 2
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000


def test_both_operators_give_the_same_run(tmp_path: Path) -> None:
    rows = [
        train(settings(tmp_path / ops, model="stylegan2", set=tiny("stylegan2"), ops=ops)).losses
        for ops in ("fused", "reference")
    ]
    for a, b in zip(*rows, strict=True):
        for name in ("loss_d", "loss_g"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), name


def test_bf16_and_channels_last(tmp_path: Path) -> None:
    plain = train(settings(tmp_path / "plain", model="stylegan2", set=tiny("stylegan2"), penalties={"r1": 1.0}))
    other = train(
        settings(
            tmp_path / "other",
            model="stylegan2",
            set=tiny("stylegan2"),
            penalties={"r1": 1.0},
            autocast="bf16",
            channels_last=True,
        )
    )
    first, second = plain.losses[0], other.losses[0]
    assert all(math.isfinite(v) for row in other.losses for v in row.values())
    for name in ("loss_d", "loss_g", "r1"):
        assert second[name] == pytest.approx(first[name], rel=0.1) and second[name] != first[name], name


# ---- steps ------------------------------------------------------------------------------------------------------------------
def game_of(family: str, changes: dict[str, Any] | None = None, **more: Any) -> tuple[Any, Batch]:
    torch.manual_seed(0)
    gan = from_config(FAMILIES[family].tiny, **(changes or {}))
    filled = fill(Settings(model=family, data="folder", batch=4, **more))
    config = gan.config
    images = torch.rand(4, config.channels, config.resolution, config.resolution) * 2 - 1
    game = GAMES[FAMILIES[family].task](gan, gan.generator, gan.discriminator, filled, Workers())
    return game, Batch(images)


def test_lazy_regularisation_is_seldom_and_as_large() -> None:
    """Over 4 steps with frozen weights the gradients of R1 every 4 steps are those of R1 in each."""
    sums = []
    for every in (1, 4):
        game, batch = game_of(
            "stylegan2",
            {"mbstd_group": 0},
            penalties={"r1": 5.0, "path_length": 0},
            r1_every=every,
            optimizer="sgd",
            lr=0.0,
            style_mixing=0.0,
        )
        total = 0.0
        with_r1 = []
        for index in range(4):
            torch.manual_seed(1)
            stats = game.critic_step(batch, index)
            with_r1.append("r1" in stats)
            total = total + game.gan.discriminator.blocks[0].conv0.weight.grad.clone()
        sums.append(total)
        assert with_r1 == [index % every == 0 for index in range(4)]
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-4, atol=1e-7)


def test_the_critics_gradient_is_that_of_loss_and_penalties() -> None:
    """Merged or not, with classes or not: autograd of the formula, written out here."""
    for family, penalties in (("r3gan", {"r1": 2.0, "r2": 3.0}), ("sngan", {"r1": 2.0, "r2": 3.0})):
        game, batch = game_of(family, penalties=penalties, optimizer="sgd", lr=0.0, ema=0)
        for p in game.gan.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.05)
        d = game.gan.discriminator.eval()  # power iterations stand still
        classes = getattr(game.gan.config, "num_classes", 0)
        batch.labels = torch.arange(4) % classes if classes else None
        given = () if batch.labels is None else (batch.labels,)
        fake = torch.rand_like(batch.images)
        game.fakes = lambda count, labels, fake=fake: (None, fake)
        stats = game.critic_step(batch, 0)
        found = [p.grad.clone() for p in d.parameters()]
        x, y = batch.images.clone().requires_grad_(), fake.clone().requires_grad_()
        real, made = d(x, *given), d(y, *given)
        loss = adversarial(FAMILIES[family].loss).discriminator(real, made)
        total = loss
        for logits, images, weight in ((real, x, 2.0), (made, y, 3.0)):
            (g,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            total = total + weight / 2 * g.square().sum() / len(images)
        expected = torch.autograd.grad(total, list(d.parameters()))
        assert float(stats["loss_d"]) == pytest.approx(float(loss.detach()), rel=1e-5)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_the_one_sided_penalty_by_name() -> None:
    """'wgan_lp' costs what 'wgan_gp' does where gradients are long, nothing where short."""
    found = {}
    for name in ("wgan_gp", "wgan_lp"):
        for scale in (0.1, 10.0):
            penalties = {"wgan_gp": 0.0, "wgan_lp": 0.0, name: 3.0}
            game, batch = game_of("wgan-gp", penalties=penalties, optimizer="sgd", lr=0.0, ema=0)
            with torch.no_grad():
                for p in list(game.gan.discriminator.parameters())[-2:]:
                    p.mul_(scale)  # the last layer, by which all gradients scale
            torch.manual_seed(1)
            stats = game.critic_step(batch, 0)
            assert {"wgan_gp", "wgan_lp"} & set(stats) == {name}
            found[name, scale] = float(stats[name])
    assert found["wgan_lp", 0.1] == 0 < found["wgan_gp", 0.1]
    assert found["wgan_lp", 10.0] == pytest.approx(found["wgan_gp", 10.0], rel=1e-5) and found["wgan_lp", 10.0] > 0


def test_r1_of_a_piecewise_linear_critic_goes_the_merged_way() -> None:
    game, batch = game_of("r3gan")
    game.critic_step(batch, 0)
    assert game.penalized.explain().startswith("merged gradient")


def test_clipping_bounds_the_critic() -> None:
    game, batch = game_of("wgan", penalties={"clip": 0.003})
    game.critic_step(batch, 0)
    assert max(float(p.detach().abs().max()) for p in game.gan.discriminator.parameters()) <= float(torch.tensor(0.003))


def test_steps_move_one_network_each() -> None:
    game, batch = game_of("dcgan")
    before = {n: p.detach().clone() for n, p in game.gan.named_parameters()}

    def moved() -> set[str]:
        return {n.split(".")[0] for n, p in game.gan.named_parameters() if not torch.equal(p, before[n])}

    game.critic_step(batch, 0)
    assert moved() == {"discriminator"}
    before.update({n: p.detach().clone() for n, p in game.gan.named_parameters()})
    game.generator_step(batch, 0)
    assert moved() == {"generator"}
    assert all(p.requires_grad for p in game.gan.parameters())


def test_n_critic_takes_batches_of_its_own(tmp_path: Path) -> None:
    result = train(settings(tmp_path, model="wgan-gp", set=tiny("wgan-gp"), n_critic=3, n_generator=2))
    assert [row["images"] for row in result.losses] == [12, 24]
    optimizers = load_checkpoint(result.checkpoint).state["game"]
    made = {name: float(optimizers[f"optimizer_{name}"]["state"][0]["step"]) for name in "dg"}
    assert made == {"d": 6, "g": 4}


def test_unrolled_steps_are_those_of_the_formula() -> None:
    game, batch = game_of("dcgan", unrolled=2, optimizer="sgd", lr=0.1)
    game.critic_step(batch, 0)
    z = torch.randn(4, 6)
    game.gan.generator.sample_z = lambda count: z
    d = game.gan.discriminator
    before = {k: v.clone() for k, v in d.state_dict().items()}
    ahead = copy.deepcopy(d)
    optimizer = torch.optim.SGD(ahead.parameters(), 0.1, momentum=0.5)
    optimizer.load_state_dict(copy.deepcopy(game.optimizer_d.state_dict()))  # it would share its tensors
    fake = game.fakes(4, None)[1].detach()
    now = -game.loss.discriminator(ahead(batch.images), ahead(fake))
    for _ in range(2):
        optimizer.zero_grad()
        game.loss.discriminator(ahead(batch.images), ahead(fake)).backward()
        optimizer.step()
    expected = -game.loss.discriminator(ahead(batch.images), ahead(fake))
    stats = game.generator_step(batch, 0)
    assert float(stats["loss_g"]) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert float(now.detach()) != pytest.approx(float(expected.detach()), rel=1e-2)
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items())
    with pytest.raises(ValueError, match="unrolled is for models of latents"):
        Settings(model="cyclegan", data="photos", unrolled=1)
    with pytest.raises(ValueError, match="unrolled goes with the optimizers adam and sgd"):
        game_of("wgan", unrolled=1)


def test_learning_rates_fall_to_zero() -> None:
    game, _ = game_of("dcgan", lr=1.0, lr_d=2.0, lr_decay=0.5, steps=10)
    rates = []
    for step in range(10):
        game.prepare(step)
        rates.append((game.optimizer_g.param_groups[0]["lr"], game.optimizer_d.param_groups[0]["lr"]))
    assert [g for g, _ in rates] == pytest.approx([1.0] * 6 + [0.8, 0.6, 0.4, 0.2])
    assert all(d == pytest.approx(2 * g) for g, d in rates)


def test_style_mixing_mixes(monkeypatch: pytest.MonkeyPatch) -> None:
    game, batch = game_of("stylegan2", style_mixing=1.0)
    seen: list[dict[str, Any]] = []
    whole = type(game.gan.generator).forward

    def forward(self: Any, z: Any, labels: Any = None, **options: Any) -> Any:
        seen.append(options)
        return whole(self, z, labels, **options)

    monkeypatch.setattr(type(game.gan.generator), "forward", forward)
    game.critic_step(batch, 0)
    count = game.gan.generator.num_ws
    assert seen[0]["mixed_z"].shape == (4, 16) and int(seen[0]["crossover"].max()) < count and seen[0]["update_w_avg"]


def test_progressive_growing_passes_all_resolutions(tmp_path: Path) -> None:
    small = tiny("progan") | {"stddev_group": 2}
    del small["stage"], small["alpha"]
    result = train(settings(tmp_path, model="progan", set=small, steps=10))
    assert [row["resolution"] for row in result.losses] == [4, 4, 8, 8, 8, 8, 16, 16, 16, 16]
    alphas = [row["alpha"] for row in result.losses]
    assert alphas == [1, 1, 0.5, 1, 1, 1, 0.5, 1, 1, 1]
    gan = from_config("progan", channel_base=128, resolution=16, z_dim=8, channel_max=8, stage=1, alpha=0.25)
    growth = Growth([gan.generator, gan.discriminator], 10, grow=False)  # type: ignore[list-item]
    images = torch.rand(2, 3, 16, 16)
    half = nn.functional.avg_pool2d(images, 2)
    coarse = nn.functional.avg_pool2d(half, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(growth.shown(images), 0.75 * coarse + 0.25 * half)


# ---- parts ------------------------------------------------------------------------------------------------------------------
def test_ema_is_the_average_it_says() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = EMA(network, half_life=0.008, rampup=0.0)  # 8 images: a step of 8 forgets half
    before = [p.detach().clone() for p in network.parameters()]
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
        network[1].running_mean.add_(3.0)
    average.update(network, 8, 0)
    for p, old in zip(average.network.parameters(), before, strict=True):
        torch.testing.assert_close(p, old + 0.5)
    assert torch.equal(average.network[1].running_mean, network[1].running_mean)
    assert not average.network.training and not any(p.requires_grad for p in average.network.parameters())
    ramped = EMA(network, half_life=10.0, rampup=0.05)
    assert (
        ramped.beta(32, 0) == 0.0
        and ramped.beta(32, 640) == pytest.approx(0.5)
        and ramped.beta(32, 1e9) == pytest.approx(0.5 ** (32 / 1e4))
    )


def test_the_referee_speaks_once_when_the_discriminator_wins() -> None:
    referee = Referee()
    said = [referee.look({"step": float(i), "accuracy": 1.0}) for i in range(3 * WINDOW)]
    assert [i for i, line in enumerate(said) if line] == [WINDOW - 1]
    assert "the discriminator wins" in str(said[WINDOW - 1]) and "--r1" in str(said[WINDOW - 1])
    assert referee.look({"step": 0.0, "accuracy": 0.7}) is None
    assert any(referee.look({"step": float(i), "accuracy": 1.0}) for i in range(WINDOW))
    assert all(Referee().look({"step": float(i), "loss_d": 0.0}) is None for i in range(2 * WINDOW))


@pytest.mark.parametrize(
    ("name", "real", "fake", "share"),
    [
        ("nonsaturating", [1.0, -1.0], [-1.0, -2.0], 0.75),
        ("lsgan", [0.6, 0.4], [0.1, 0.9], 0.5),
        ("relativistic", [1.0, 3.0], [2.0, 2.0], 0.5),
    ],
)
def test_accuracy_is_the_share_told_apart(name: str, real: list[float], fake: list[float], share: float) -> None:
    found = steps.accuracy(adversarial(name), torch.tensor(real), torch.tensor(fake))
    assert found is not None and float(found) == share
    assert steps.accuracy(losses.adversarial("wasserstein"), torch.zeros(1), torch.zeros(1)) is None


def test_tables_survive_and_are_cut(tmp_path: Path) -> None:
    table = Table(tmp_path / "x.csv")
    table.write()
    assert not table.path.exists()
    table.add({"step": 1.0, "images": 4.0, "seconds": 0.5, "loss_d": 0.1})
    table.add({"step": 2.0, "images": 8.0, "seconds": 1.0, "loss_d": float("nan"), "r1": 1e-20})
    table.write()
    again = Table(tmp_path / "x.csv")
    again.read(up_to=1)
    assert again.rows == table.rows[:1]
    again = Table(tmp_path / "x.csv")
    again.read(up_to=2)
    assert again.rows[1]["r1"] == 1e-20 and math.isnan(again.rows[1]["loss_d"])
    assert draw(tmp_path / "c.png", again.rows, [{"step": 2.0, "frechet": 3.0}]) and (tmp_path / "c.png").stat().st_size > 1000
    assert not draw(tmp_path / "none.png", [], [])


def test_tensorboard_if_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            found.append((name, value, step))

        def close(self) -> None:
            found.append(("closed", 0.0, 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    board = Board(tmp_path, True)
    board.add("losses", {"step": 3.0, "images": 6.0, "seconds": 1.0, "loss_d": 0.5})
    board.close()
    assert found == [("losses/loss_d", 0.5, 3), ("closed", 0.0, 0)]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        Board(tmp_path, True)
    Board(tmp_path, False).add("losses", {"step": 1.0})


def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bar:
        """What tqdm has, as far as it is used."""

        def __init__(self, total: int, initial: int, **settings: Any) -> None:
            self.total, self.n = total, initial

        def update(self, steps: int) -> None:
            self.n += steps
            print(f"bar {self.n}/{self.total}", file=sys.stderr)

        def set_postfix_str(self, text: str, refresh: bool) -> None:
            assert text == "loss_d 0.25"

        def write(self, line: str, file: Any) -> None:
            print(line, file=file)

        def close(self) -> None:
            print("closed", file=sys.stderr)

    monkeypatch.setitem(sys.modules, "tqdm", SimpleNamespace(tqdm=Bar))
    said = []
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        progress = Progress(4, 1, True, "dcgan")
        progress.losses({"step": 2.0, "loss_d": 0.25})
        for done in (2, 3, 4):
            progress.step(done)
        progress.note("said")
        progress.close()
        said.append(capsys.readouterr().err.splitlines())
    assert said[0][0].startswith("dcgan: step 4/4, ") and said[0][0].endswith(": loss_d 0.25") and said[0][1:] == ["said"]
    assert said[1] == ["bar 2/4", "bar 3/4", "bar 4/4", "said", "closed"]
    silent = Progress(4, 0, False)
    silent.step(4)
    silent.note("nothing")
    assert capsys.readouterr().err == ""


def test_samples_leave_no_trace() -> None:
    data = open_data("photos", 32, 3, "paired", count=5)
    gan = from_config("pix2pix", **tiny("pix2pix"))
    sampler = Sampler(data, 0, 2, torch.device("cpu"))
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in gan.generator.state_dict().items()}
    first, columns = sampler.grid(gan.generator, 9)
    second, _ = sampler.grid(gan.generator, 9)
    assert first.shape == (9, 3, 32, 32) and columns == 3 and torch.equal(first, second)
    torch.testing.assert_close(first[2], data.images([0]).images[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, weights[k]) for k, v in gan.generator.state_dict().items())


def test_a_grid_of_classes_has_a_column_for_each() -> None:
    gan = from_config("cgan", **{**tiny("cgan"), "num_classes": 3})
    images, columns = Sampler(open_data("digits", 16, 1), 0, 4, torch.device("cpu")).grid(gan.generator, 10)
    assert columns == 3 and len(images) == 9
