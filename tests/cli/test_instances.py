"""The commands impute, score, latent and figure: their files, output and errors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gen_ray.datasets.prepare import SourceOptions, prepare
from gen_ray.datasets.random_rows import read_random_rows
from gen_ray.engine.inference import artifact, texts
from gen_ray.engine.plots import grids
from gen_ray.experiment import load, parse
from tests.conftest import ROOT, CommandResult

CONFIG = ROOT / "configs" / "demo" / "digits-vae.yaml"
NET = {"name": "tokens", "width": 16, "depth": 1, "heads": 2}
Run = Callable[..., CommandResult]


def untrained(root: Path, folder: Path, *overrides: str) -> Path:
    """Write the artifact of an untrained VAE of digits."""
    data = prepare("digits", out=root / "data")
    experiment = load(CONFIG, [f"storage.root={root}", "family.net.hidden=[8]", "evaluation.effort=3", *overrides])
    torch.manual_seed(0)
    family = experiment.model(data.spec)
    meta = artifact.describe(data.spec, data.fingerprint, run_id="vae-1", steps=0)
    net = family.build_net().eval()
    artifact.write(folder, artifact.Model(experiment=experiment, family=family, net=net, meta=meta))
    return folder


@dataclass(frozen=True)
class Bench:
    """A model, an image of its size, a mask with a missing lower half, and the folder of these files."""

    root: Path
    model: Path
    image: Path
    mask: Path
    stored: np.ndarray


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("bench")
    model = untrained(root, root / "model")
    x = torch.randint(17, (1, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    grids.write(root / "image.png", grids.rgb(x, levels=17)[0].permute(1, 2, 0).numpy())
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[4:] = 255
    grids.write(root / "mask.png", mask)
    return Bench(root, model, root / "image.png", root / "mask.png", x[0].numpy())


# ---- impute -------------------------------------------------------------------------------------------------------


def test_completions_keep_known_pixels_and_report_their_spread(gen_ray: Run, bench: Bench) -> None:
    out = bench.root / "c.npz"
    words = ["impute", bench.model, "--image", bench.image, "--mask", bench.mask, "-n", 5, "--out", out]
    result = gen_ray(*words, "--steps", 7, "--imputer", "gibbs", "--truth", bench.image)
    assert result.code == 0 and not result.err, result
    assert "32 of 64 values filled in 5 times, seed 0, nfe 7" in result.out and "(marginal-5, nfe 35)" in result.out
    assert "each missing scalar separately" in result.out
    arrays = np.load(out)
    assert (arrays["samples"][:, :, :4] == bench.stored[:, :4]).all() and (arrays["known"] == bench.stored).all()
    assert arrays["samples"].shape == (5, 1, 8, 8) and len(np.unique(arrays["samples"][:, :, 4:])) > 3
    assert (arrays["uncertainty"][:, :4] == 0).all() and (arrays["uncertainty"][:, 4:] > 0).all()
    assert (arrays["missing"] == (arrays["uncertainty"] > 0)).all()
    again = gen_ray(*words, "--steps", 7, "--imputer", "gibbs", "--seed", 1)
    assert again.code == 0 and (np.load(out)["samples"] != arrays["samples"]).any()


def test_the_figure_shows_input_completions_and_spread(gen_ray: Run, bench: Bench) -> None:
    out = bench.root / "c.png"
    words = ["impute", bench.model, "--image", bench.image, "--mask", bench.mask, "-n", 3, "--steps", 3, "--out", out]
    assert gen_ray(*words).code == 0
    picture = np.asarray(Image.open(out))
    assert picture.shape == (2 * (28 + 112 + 16), 16 + 4 * (112 + 16), 3)
    assert (picture[28 + 60, 16 + 10] == grids.MISSING_COLOUR).all() and not (
        picture[28 + 3, 16 + 10] == grids.MISSING_COLOUR
    ).all()
    assert (picture[28 : 28 + 112, 16 + 3 * 128 :] == 255).all(), "no truth, three tiles"
    assert gen_ray(*words, "--truth", bench.image).code == 0
    truth = np.repeat(np.repeat(grids.rgb(torch.from_numpy(bench.stored)[None], levels=17)[0, 0].numpy(), 14, 0), 14, 1)
    drawn = np.asarray(Image.open(out))[..., 0]
    assert (drawn[28 : 28 + 112, 16 + 128 : 16 + 128 + 112] == truth).all()
    for j in range(3):
        tile = drawn[156 + 28 : 156 + 28 + 112, 16 + 128 * j : 16 + 128 * j + 112]
        assert (tile[:56] == truth[:56]).all() and (tile[56:] != truth[56:]).any()


def test_a_mask_may_be_an_array(gen_ray: Run, bench: Bench) -> None:
    holes = np.zeros((8, 8), bool)
    holes[0, 0] = True
    np.savez(bench.root / "mask.npz", holes=holes)
    np.savez(bench.root / "image.npz", x=bench.stored)
    words = ["impute", bench.model, "--image", bench.root / "image.npz", "--mask", bench.root / "mask.npz"]
    result = gen_ray(*words, "-n", 2, "--steps", 2, "--out", bench.root / "a.npz")
    assert result.code == 0 and "1 of 64 values filled in 2 times" in result.out


def test_imputers_are_listed(gen_ray: Run, bench: Bench) -> None:
    result = gen_ray("impute", bench.model, "--list-imputers")
    rows = [line for line in result.out.splitlines() if line.startswith("│")]
    assert result.code == 0 and ["metropolis" in rows[0], "gibbs " in rows[1], len(rows)] == [True, True, 2]
    assert "Mattei & Frellsen 2018" in rows[0] and "Rezende et al. 2014" in rows[1]
    assert rows[0].split("│")[4:8] == ["           1 ", "   200 ", "        1 ", " 200 "]


@pytest.fixture(scope="module")
def odd(bench: Bench) -> Path:
    """Return a folder with files that do not suit the model."""
    root = bench.root / "odd"
    root.mkdir()
    small, black = np.full((5, 5, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    grids.write(root / "small.png", small)
    grids.write(root / "black.png", black)
    (root / "broken.png").write_bytes(b"not a picture")
    (root / "broken.npz").write_bytes(b"PK not an archive")
    (root / "x.jp2").write_bytes(b"")
    np.savez(root / "many.npz", samples=np.zeros((3, 1, 8, 8), np.uint8))
    np.savez(root / "high.npz", x=np.full((1, 8, 8), 17))
    np.savez(root / "half.npz", x=np.full((1, 8, 8), 0.5))
    np.savez(root / "two.npz", a=np.zeros(1), b=np.zeros(1))
    return root


@pytest.mark.parametrize(
    ("image", "mask", "expected"),
    [
        ("nowhere.png", None, "nowhere.png: no such file"),
        ("small.png", None, "is 5 x 5 pixels, the model's pictures are 8 x 8"),
        ("broken.png", None, "broken.png: not an image"),
        ("broken.npz", None, "broken.npz: cannot be read"),
        ("x.jp2", None, "read from .png"),
        ("many.npz", None, "holds 3 instances; one is needed"),
        ("high.npz", None, "whole numbers from 0 to 16"),
        ("half.npz", None, "whole numbers from 0 to 16"),
        ("two.npz", None, "holds a, b; give one array"),
        (None, "black.png", "black.png: nothing is missing"),
        (None, "small.png", "small.png: is 5 x 5 pixels"),
        (None, "many.npz", "holds 3 masks; give a file with one mask"),
    ],
)
def test_unsuitable_files_are_refused_in_one_line(
    gen_ray: Run, bench: Bench, odd: Path, image: str | None, mask: str | None, expected: str
) -> None:
    given = {"--image": odd / image if image else bench.image, "--mask": odd / mask if mask else bench.mask}
    result = gen_ray("impute", bench.model, *[word for pair in given.items() for word in pair])
    assert result.code == 2 and expected in result.fault


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--imputer", "gibs"], "imputer: there is no imputer 'gibs'; did you mean 'gibbs'"),
        (["--imputer", "gibbs:heat=2"], "imputer gibbs: there is no option 'heat'"),
        (["--steps", 10**7], "steps: imputer metropolis takes 1 …"),
        (["--out", "a.gif"], ".png"),
        (["--out", "nowhere/a.png"], "nowhere/a.png: cannot be written"),
        (["--text", "to b_"], "--text: needs a text model"),
        (["--truth", "nowhere.png"], "nowhere.png: no such file"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(gen_ray: Run, bench: Bench, words: list[object], expected: str) -> None:
    options = ["--image", bench.image, "--mask", bench.mask, *([] if "--steps" in words else ["--steps", 2])]
    result = gen_ray("impute", bench.model, *options, *words)
    assert result.code == 2 and expected in result.fault


def test_an_image_without_a_mask_is_refused(gen_ray: Run, bench: Bench) -> None:
    assert "give --image and --mask" in gen_ray("impute", bench.model, "--image", bench.image).fault


# ---- score --------------------------------------------------------------------------------------------------------


def test_every_instance_gets_its_bits_with_kind_and_error(gen_ray: Run, bench: Bench) -> None:
    out = bench.root / "scores.npz"
    np.savez(bench.root / "two-of-them.npz", samples=np.stack([bench.stored, 16 - bench.stored]))
    result = gen_ray("score", bench.model, bench.image, bench.root / "two-of-them.npz", "--out", out)
    assert result.code == 0 and result.out.count("iwae-3") == 4 and "two-of-them.npz[1]" in result.out, result
    arrays = np.load(out)
    assert arrays["bits_per_dim"].shape == arrays["standard_error"].shape == (3,)
    assert abs(arrays["bits_per_dim"][0] - arrays["bits_per_dim"][1]) < 5 * arrays["standard_error"][:2].sum()
    assert "(elbo)" in gen_ray("score", bench.model, bench.root / "two-of-them.npz", "--effort", 1).out


def test_a_source_is_scored_by_row_and_on_average(gen_ray: Run, bench: Bench, tmp_path: Path) -> None:
    options = ["--storage", bench.root, "-n", 30, "--rows", 2]
    own, named = gen_ray("score", bench.model, *options), gen_ray("score", bench.model, "--data", "digits", *options)
    assert own.code == 0 and own.out == named.out
    assert "digits test 1" in own.out and "… and 28 more" in own.out and "mean of 30: " in own.out
    rng = np.random.default_rng(0)
    for i in range(100):
        grids.write(tmp_path / f"{i}.png", rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    other = ["score", bench.model, "--data", f"image_folder:{tmp_path}", "--split", "train", *options]
    refused = gen_ray(*other)
    assert refused.code == 2 and "(3, 12, 10) of 256 levels" in refused.fault and "--resize" in refused.fault
    assert "mean of 30: " in gen_ray(*other, "--resize").out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["small.png"], "--resize"),
        (["black.png", "--data", "digits"], "--data: has no effect where files are given"),
        (["--data", "digit"], "did you mean 'digits'"),
        (["--split", "tset"], "did you mean 'test'"),
        (["black.png", "--out", "a.png"], ".npz"),
    ],
)
def test_a_wrong_score_command_is_refused_in_one_line(
    gen_ray: Run, bench: Bench, odd: Path, words: list[str], expected: str
) -> None:
    placed = [odd / word if word in ("small.png", "black.png") else word for word in words]
    result = gen_ray("score", bench.model, *placed, "--storage", bench.root)
    assert result.code == 2 and expected in result.fault


def test_images_and_sources_with_more_levels_are_treated_alike(gen_ray: Run, bench: Bench, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    source = ["--data", f"image_folder:{tmp_path}", "--split", "train", "--storage", bench.root, "-n", 3]
    for words in ([tmp_path / "0.png"], source):
        answer = gen_ray("score", bench.model, *words)
        assert answer.code == 0 and "256 levels are rounded to the nearest of the model's 17" in answer.err, answer


def test_resizing_makes_an_image_suitable(gen_ray: Run, bench: Bench, odd: Path) -> None:
    result = gen_ray("score", bench.model, odd / "small.png", "--resize")
    assert result.code == 0 and "small.png" in result.out.replace("\n", "")


# ---- latent and figure --------------------------------------------------------------------------------------------


def stored_rows(bench: Bench) -> torch.Tensor:
    """Return rows of the test split of digits in the order in which commands choose them."""
    return torch.from_numpy(read_random_rows(prepare("digits", out=bench.root / "data"), "test", 16)[0])


def test_features_reconstructions_and_interpolations_are_written(gen_ray: Run, bench: Bench, tmp_path: Path) -> None:
    options = ["--storage", bench.root, "-n", 4]
    result = gen_ray("latent", "encode", bench.model, *options, "--refine", 3, "--out", tmp_path / "f.npz")
    arrays = np.load(tmp_path / "f.npz")
    assert result.code == 0 and "amortisation gap: " in result.out, result
    assert arrays["mu"].shape == arrays["refined_log_var"].shape == (4, 8) and arrays["kl_nats"].shape == (4,)
    result = gen_ray("latent", "reconstruct", bench.model, *options, "--refine", 3, "--out", tmp_path / "r.png")
    drawn = np.asarray(Image.open(tmp_path / "r.png"))
    assert result.code == 0 and drawn.shape[0] == 3 * (28 + 56 + 16), "three captioned rows"
    x = stored_rows(bench)
    assert (drawn[28 : 28 + 56, 16 : 16 + 4 * 60 - 4] == grids.grid(x[:4], levels=17, columns=4)).all()
    result = gen_ray("latent", "interpolate", bench.model, *options, "--steps", 5, "--out", tmp_path / "i.png")
    drawn = np.asarray(Image.open(tmp_path / "i.png"))
    assert result.code == 0 and drawn.shape[0] == 28 + (3 * 60 - 4) + 16
    ends = grids.grid(x[:4], levels=17, columns=1)
    assert (drawn[28:-16, 16 : 16 + 56] == ends[:-60]).all() and (drawn[28:-16, -16 - 56 : -16] == ends[60:]).all()
    result = gen_ray("latent", "interpolate", bench.model, bench.image, "--out", tmp_path / "i.png")
    assert result.code == 2 and "an interpolation needs two" in result.fault


def test_only_a_latent_space_of_two_dimensions_is_mapped(gen_ray: Run, bench: Bench, tmp_path: Path) -> None:
    result = gen_ray("latent", "manifold", bench.model, "--out", tmp_path / "m.png")
    assert result.code == 2 and "latent_dim=2; this model has 8" in result.fault
    plane = untrained(bench.root, tmp_path / "plane", "family.latent_dim=2")
    assert gen_ray("latent", "manifold", plane, "--side", 3, "--out", tmp_path / "m.png").code == 0
    assert np.asarray(Image.open(tmp_path / "m.png")).shape[0] == 28 + 3 * 34 - 2 + 16


def test_one_command_trains_and_draws_every_latent_dimension(
    gen_ray: Run, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    from gen_ray.cluster.training.train import TrainOutcome
    from gen_ray.experiment import Experiment

    experiments: list[Experiment] = []

    def train(experiment: Experiment, **_: object) -> TrainOutcome:
        experiments.append(experiment)
        dim = experiment.family.latent_dim  # type: ignore[attr-defined]
        folder = untrained(bench.root, tmp_path / experiment.name, f"family.latent_dim={dim}")
        metrics = {"eval/bits_per_dim": 2.5}
        return TrainOutcome(run_id=experiment.name, artifact=folder, metrics=metrics, provenance={})

    monkeypatch.setattr("gen_ray.cluster.training.train.train", train)
    monkeypatch.setattr("gen_ray.cluster.nodes.connect.connected", lambda scaling: nullcontext())
    out = tmp_path / "figure.png"
    words = ["figure", "latent-dims", CONFIG, "training.epochs=3", "--out", out]
    result = gen_ray(*words, "--dims", "2 5")
    assert result.code == 0 and not result.err, result
    assert [(e.name, e.family.latent_dim, e.training.epochs) for e in experiments] == [  # type: ignore[attr-defined]
        ("digits-vae-z2", 2, 3),
        ("digits-vae-z5", 5, 3),
    ]
    assert np.asarray(Image.open(out)).shape[1] == 3 * 16 + 2 * (10 * 60 - 4)
    for dims in ("2,2", "", "two"):
        assert "--dims" in gen_ray(*words, "--dims", dims).fault
    ddpm = CONFIG.with_name("digits-ddpm.yaml")
    assert "family.latent_dim" in gen_ray("figure", "latent-dims", ddpm).fault


# ---- text ---------------------------------------------------------------------------------------------------------


def test_a_masked_text_is_parsed_and_decoded_again() -> None:
    from gen_ray.dataspec import DataSpec
    from gen_ray.engine.inference import instances

    spec = DataSpec(name="play", kind="tokens", shape=(8,), levels=5, alphabet=" beot")
    tokens, holes = instances.parse_masked_text("to b_", spec, "_")
    assert texts.decode_tokens(tokens[0][:4], spec) == "to b"
    assert holes[0].tolist() == [False] * 4 + [True] * 4
    for text, hole, field, shown in (
        ("to be or not", "_", "text", "12 characters"),
        ("to be to", "_", "text", "no hole"),
        ("to be", "b", "hole", "outside"),
        ("Xo b_", "_", "text", "'X', which does not occur"),
    ):
        with pytest.raises(instances.InstanceError, match=f"`{field}`: .*{shown}") as error:
            instances.parse_masked_text(text, spec, hole)
        assert error.value.field == field and "X" not in error.value.reason


def untrained_speaker(root: Path, kernel: str) -> Path:
    """Write the artifact of an untrained text model beside its training text."""
    (root / "play.txt").write_text("to be or not to be\n" * 100)
    source = f"text:{root / 'play.txt'}"
    data = prepare(source, out=root / "data", options=SourceOptions(length=12))
    settings = {"data": {"source": source, "options": {"length": 12}}, "storage": {"root": str(root)}}
    experiment = parse({"name": "play", "family": {"name": "discrete", "kernel": kernel, "net": NET}, **settings})
    family = experiment.model(data.spec)
    meta = artifact.describe(data.spec, data.fingerprint, run_id="play-1", steps=0)
    model = artifact.Model(experiment=experiment, family=family, net=family.build_net().eval(), meta=meta)
    artifact.write(root / "model", model)
    return root


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_speaker(tmp_path_factory.mktemp("speaker"), "absorbing")


def test_texts_are_sampled_as_text(
    gen_ray: Run, speaker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sample", speaker / "model", "-n", 3]
    result = gen_ray(*words, "--seed", 1)
    assert result.code == 0 and result.out.startswith("samples.txt: 3 samples, seed 1") and not result.err, result
    assert gen_ray(*words, "--seed", 1, "--out", "a.npz").code == 0
    spec = artifact.load(speaker / "model").spec
    parts = [
        f"----- {i}\n{texts.decode_tokens(x, spec)}\n"
        for i, x in enumerate(torch.from_numpy(np.load("a.npz")["samples"]))
    ]
    assert (tmp_path / "samples.txt").read_bytes().decode() == "".join(parts) and len(parts) == 3
    result = gen_ray(*words, "--out", "nowhere/a.txt")
    assert result.code == 2 and "nowhere/a.txt: cannot be written" in result.fault


def test_samples_are_written_only_to_suitable_files(
    gen_ray: Run, bench: Bench, speaker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for model, ending, expected in (
        (speaker / "model", ".png", "--out a.png: play holds tokens, its samples are written as .txt or .npz"),
        (bench.model, ".txt", "--out a.txt: digits holds image, its samples are written as .png or .npz"),
    ):
        result = gen_ray("sample", model, "-n", 2, "--out", f"a{ending}")
        assert result.code == 2 and expected in result.fault and not list(tmp_path.iterdir())
    result = gen_ray("sample", bench.model, "-n", 2)
    assert result.code == 0 and result.out.startswith("samples.png: ") and Image.open("samples.png").size[0] > 100


def test_a_text_is_completed_and_scored(gen_ray: Run, speaker: Path) -> None:
    out = speaker / "c.npz"
    words = ["impute", speaker / "model", "--text", "to b_ or", "-n", 3]
    (speaker / "truth.txt").write_text("to be or not")
    result = gen_ray(*words, "--truth", speaker / "truth.txt", "--out", out)
    assert (
        result.code == 0
        and "5 of 12 values filled in 3 times" in result.out
        and "(elbo-ct-masked, nfe 5)" in result.out
    ), result
    assert "the model's own" in result.out and not result.err
    spoken = result.out.split("completions: ")[0].strip("\n")
    assert spoken.startswith("to b") and np.load(out)["samples"].shape == (3, 12)
    assert np.load(out)["uncertainty"].shape == (12,) and np.load(out)["missing"].sum() == 5
    assert ".npz" in gen_ray(*words, "--out", speaker / "c.png").fault
    (speaker / "two.txt").write_text("to be or notto be or not")
    (speaker / "long.txt").write_text("to be or notto be or not to be")
    (speaker / "once.txt").write_text("to be or not\n")
    (speaker / "short.txt").write_text("to be")
    expected = "long.txt: 6 of 30 characters left out: fewer than a window of 12"
    result = gen_ray("score", speaker / "model", speaker / "two.txt", "--effort", 2)
    assert result.code == 0 and "two.txt[1]" in result.out and "mean of 2" in result.out, result
    assert not result.err
    result = gen_ray("score", speaker / "model", speaker / "long.txt", "--effort", 2)
    assert result.code == 0 and "mean of 2" in result.out and expected in result.err.replace("\n", ""), result
    result = gen_ray(*words, "--truth", speaker / "once.txt")
    assert result.code == 0 and "1 of 13 characters left out" in result.err
    result = gen_ray("score", speaker / "model", speaker / "short.txt")
    assert result.code == 2 and "short.txt: has 5 characters; play needs 12, the length of its examples" in result.fault
    result = gen_ray("score", speaker / "model", "--effort", 2, "-n", 3, "--storage", speaker)
    assert result.code == 0 and "mean of 3" in result.out, result
    result = gen_ray("latent", "encode", speaker / "model", "--storage", speaker)
    assert result.code == 2 and "discrete: has no latent space" in result.fault


def test_a_causal_imputer_reports_ignored_values(gen_ray: Run, speaker: Path, tmp_path: Path) -> None:
    causal = untrained_speaker(tmp_path, "order") / "model"
    for model, text, expected in (
        (causal, "to b_ or not", "7 known positions follow a missing one: "),
        (causal, "to be or ___", ""),
        (speaker / "model", "to b_ or not", ""),
    ):
        result = gen_ray("impute", model, "--text", text, "-n", 2)
        assert (
            result.code == 0 and expected in result.out and ("follow a missing one" in result.out) == bool(expected)
        ), result
    assert "kept but not used" in " ".join(gen_ray("impute", causal, "--list-imputers").out.split())
