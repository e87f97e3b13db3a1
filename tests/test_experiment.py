"""Experiment configuration: resolved form and overrides; errors are one line that names the remedy."""

import random
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gen_ray import families
from gen_ray.cluster.serving.args import ServingApplication
from gen_ray.configuration.base import Config
from gen_ray.configuration.overrides import merge
from gen_ray.configuration.yaml12 import read
from gen_ray.datasets.prepare import prepare
from gen_ray.dataspec import DataSpec
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment, load, parse
from gen_ray.maths.sde import VE, VP, SubVP
from gen_ray.serving.settings import ApiSettings
from gen_ray.sweeps.axes import SearchAxis
from gen_ray.sweeps.config import SweepConfig
from tests import tabular_joint
from tests.conftest import ROOT

NO_EXPERIMENTS = {"overlays", "sweeps", "serve", "cluster"}
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if not NO_EXPERIMENTS & set(p.parts))
OVERLAYS = sorted((ROOT / "configs" / "overlays").glob("*.yaml"))
DIGITS = DataSpec(name="digits", kind="image", shape=(1, 8, 8), levels=17)
SPECS = {
    "digits": DIGITS,
    "fashion_mnist": DataSpec(name="fashion_mnist", kind="image", shape=(1, 28, 28), levels=256),
    "cifar10": DataSpec(name="cifar10", kind="image", shape=(3, 32, 32), levels=256),
    "text": DataSpec(name="text", kind="tokens", shape=(128,), levels=65),
    **dict.fromkeys(["parquet", "wine"], tabular_joint.spec()),
}
VAE, DDPM = {"name": "a", "family": "vae"}, {"name": "a", "family": "ddpm"}


def changed(raw: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy of raw with the value at a dotted key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    copy = parse(raw).resolved()
    merge(copy, value)
    return copy


def fault(raw: dict[str, Any]) -> str:
    """Return the error line of a bad configuration."""
    with pytest.raises(UserError) as caught:
        parse(raw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- resolved form and overrides ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", CONFIGS, ids=lambda p: p.stem)
def test_a_shipped_config_loads_and_equals_its_resolved_form(file: Path, tmp_path: Path) -> None:
    experiment = load(file)
    (tmp_path / "resolved.yaml").write_text(yaml.safe_dump(experiment.resolved(), sort_keys=False))
    again = load(tmp_path / "resolved.yaml")
    assert again == experiment and again.flat() == experiment.flat()
    spec = SPECS[experiment.data.source.partition(":")[0]]
    assert experiment.model(spec).spec == spec


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.stem)
def test_a_shipped_overlay_suits_some_config_and_takes_precedence(overlay: Path) -> None:
    changes = read(overlay)
    fits = 0
    for file in CONFIGS:
        try:
            resolved = load(file, [str(overlay)]).resolved()
        except UserError:
            continue
        merged = yaml.safe_load(yaml.safe_dump(resolved))
        merge(merged, changes)
        fits += merged == resolved
    assert fits


def test_flat_names_cover_every_leaf_and_work_as_overrides() -> None:
    experiment = load(CONFIGS[0])
    words = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in experiment.flat().items()]
    assert all(not isinstance(value, dict) for value in experiment.flat().values())
    assert load(CONFIGS[0], words) == experiment


@given(
    epochs=st.integers(1, 10**6),
    seed=st.integers(0, 2**63 - 1),
    rate=st.floats(1e-12, 9.9),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
)
def test_any_valid_values_survive_yaml_unchanged(epochs: int, seed: int, rate: float, name: str) -> None:
    training = {"epochs": epochs, "seed": seed, "learning_rate": rate}
    experiment = parse({"name": name, "family": "vae", "training": training})
    assert parse(yaml.safe_load(yaml.safe_dump(experiment.resolved()))) == experiment
    assert (experiment.training.epochs, experiment.training.seed, experiment.name) == (epochs, seed, name)


def test_overrides_apply_below_a_shorthand(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: a\nfamily: {name: ddpm, schedule: cosine}\n")
    family = load(file, ["family.schedule.s=0.01", "family.net.width=16"]).resolved()["family"]
    assert (family["schedule"]["name"], family["schedule"]["s"]) == ("cosine", 0.01)
    assert (family["net"]["name"], family["net"]["width"]) == ("unet", 16)
    file.write_text("name: a\nfamily: ddpm\n")
    assert load(file, ["family.schedule=linear"]).resolved()["family"]["schedule"]["name"] == "linear"


def test_an_overlay_with_another_component_drops_the_settings_of_the_first() -> None:
    raw = {"name": "a", "family": {"name": "ddpm", "net": {"name": "unet", "width": 32, "blocks": 2}}}
    merge(raw, {"family": {"net": {"name": "mlp", "depth": 2}}})
    assert raw["family"]["net"] == {"name": "mlp", "depth": 2}
    merge(raw, {"family": {"net": {"depth": 3}}})
    assert parse(raw).resolved()["family"]["net"]["depth"] == 3


def test_relative_paths_become_absolute_on_reading() -> None:
    experiment = parse({**VAE, "storage": {"root": "here"}, "data": {"root": "~/there"}})
    assert experiment.storage.root == Path.cwd() / "here" and experiment.data.root == Path.home() / "there"


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [VAE, DDPM], ids=["vae", "ddpm"])
def test_a_misspelt_key_is_named_with_its_path_and_the_nearest_key_at_every_level(family: dict[str, Any]) -> None:
    dice = random.Random(0)
    levels = 0

    def walk(node: dict[str, Any], path: list[str]) -> None:
        nonlocal levels
        levels += 1
        candidates = [key for key in node if len(key) > 4]
        for key in dice.sample(candidates, min(3, len(candidates))):
            wrong = key[:-2] + key[-1] + "q"
            message = fault(changed(family, ".".join([*path, wrong]), 1))
            assert message.startswith(".".join([*path, wrong]) + ": ") and "no such key" in message
            assert "did you mean '" in message
        for key, below in node.items():
            if isinstance(below, dict):
                walk(below, [*path, key])

    walk(parse(family).resolved(), [])
    assert levels >= 10


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("training.epochs", "many", ["integer", "'many'"]),
        ("training.epochs", 1.5, ["integer", "1.5"]),
        ("training.learning_rate", [1], ["number"]),
        ("training.learning_rate", float("nan"), ["finite"]),
        ("training.learning_rate", float("inf"), ["finite"]),
        ("training", 5, ["5"]),
        ("data.source", 7, ["string", "7"]),
        ("storage.root", 5, ["path", "5"]),
        ("data.root", [1], ["path"]),
        ("name", 5, ["string", "5"]),
        ("family.steps", "x", ["integer", "'x'"]),
        ("family.net.width", None, ["integer"]),
        ("scaling.use_gpu", "maybe", ["maybe"]),
    ],
)
def test_a_wrong_type_is_named(key: str, value: Any, words: list[str]) -> None:
    message = fault(changed(DDPM, key, value))
    assert message.startswith(f"{key}") and all(word in message for word in words)


TYPES: list[tuple[str, Any, str]] = [
    ("training", 5, "training: must be a section such as {key: value}, got 5"),
    ("training.betas", [0.9, "x"], "training.betas.1: must be a number, got 'x'"),
    ("training.betas", [1, 2, 3], "training.betas: must have at most 2 items, has 3, got [1, 2, 3]"),
    ("training.epochs", True, "training.epochs: must be a number, got true"),
    ("scaling.num_workers", "x", "scaling.num_workers: must be an integer, or a list, got 'x'"),
    ("scaling.num_workers", 0, "scaling.num_workers: must be greater than or equal to 1, got 0"),
    ("scaling.num_workers", [1, "x"], "scaling.num_workers.1: must be an integer, got 'x'"),
    ("scaling.cpus_per_worker", "x", "scaling.cpus_per_worker: must be an integer, or 'auto', got 'x'"),
    ("scaling.use_gpu", "x", "scaling.use_gpu: must be true or false, or 'auto', got 'x'"),
    (
        "scaling",
        {"num_workers": 2, "gpus_per_worker": 0.5},
        "scaling: gpus_per_worker=0.5: must be 1 where num_workers",
    ),
    ("family.net", 5, "family.net: must be a name, or a section such as {name: …}, got 5"),
    ("family.net.name", "x", "family.net.name: known: dit, mlp, unet, got 'x'"),
    ("family.net.widht", 5, "family.net.widht: family.net has "),
    ("tracking.uri", 5, "tracking.uri: must be a string, got 5; write it in quotes"),
    ("storage.root", ["x"], "storage.root: must be a path or URI, got ['x']; write it in quotes"),
    ("data.root", "~no-such-user/x", "data.root: ~no-such-user is the home of an unknown user"),
    ("data.on_bad_row", "skip", "data.on_bad_row: must be stop, or skip:N"),
    ("name", "a b", "name: must be 1 to 64 letters, digits, '.', '_' and '-'"),
]


@pytest.mark.parametrize(("key", "value", "line"), TYPES, ids=[f"{key}={value}" for key, value, _ in TYPES])
def test_an_error_shows_the_keys_that_were_written_and_no_names_of_types(key: str, value: Any, line: str) -> None:
    assert fault(changed(DDPM, key, value)).startswith(line)


INTERNAL = re.compile(
    r"\b(constrained|instance of|pydantic|class|Input|tuple|dict|dictionary|NoneType|function)\b|_type"
)


@pytest.mark.parametrize("family", ["vae", "ddpm", "score_sde", "discrete"])
@pytest.mark.parametrize("value", [5, "x", [1], {"x": 1}, None, True, 1.5, []], ids=repr)
def test_no_value_of_any_key_is_answered_with_names_of_types(family: str, value: Any) -> None:
    raw = parse({"name": "a", "family": family}).resolved()
    message = list[str]()
    for key in map(".".join, paths(raw)):
        try:
            parse(changed(raw, key, value))
        except UserError as error:
            message.append(str(error))
    assert message
    for line in message:
        assert not INTERNAL.search(line.partition(", got ")[0]), line


def paths(node: dict[str, Any], *above: str) -> Iterator[list[str]]:
    """Yield the keys that lead to every section and value."""
    for key, below in node.items():
        yield [*above, key]
        if isinstance(below, dict):
            yield from paths(below, *above, key)


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("training.epochs", 0, "greater than or equal to 1"),
        ("training.ema_decay", 1, "less than 1"),
        ("scaling.hang_seconds", 1e300, "less than or equal to 10000000"),
        ("scaling.priority", 1e-320, "greater than or equal to 0.000001"),
        ("training.learning_rate", -1, "greater than 0"),
        ("training.learning_rate", 1e6, "less than 10"),
        ("training.seed", 2**63, "less than 9223372036854775808"),
        ("training.decay", "cosin", "'cosine'"),
        ("training.precision", "float16", "'bfloat16'"),
        ("data.batch_size", -4, "greater than or equal to 1"),
        ("data.on_bad_row", "skip:many", "skip"),
        ("data.cache", "disk", "'stream'"),
        ("scaling.num_workers", 0, "greater than or equal to 1"),
        ("scaling.cpus_per_worker", 0, "greater than or equal to 1"),
        ("family.steps", 1, "greater than or equal to 2"),
        ("family.net.width", 15, "16"),
        ("family.schedule.s", 2, "less than or equal to 1"),
        ("family.schedule.name", "cosin", "'cosine'"),
        ("family.predict", "score", "'eps'"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(key: str, value: Any, bound: str) -> None:
    message = fault(changed(DDPM, key, value))
    assert message.startswith(key.removesuffix(".name")) and bound in message and repr(value) in message


@pytest.mark.parametrize(
    ("raw", "key", "value", "words"),
    [
        (VAE, "family.schedule", "cosine", ["family.schedule", "no such key"]),
        (DDPM, "family.latent_dim", 2, ["family.latent_dim", "no such key"]),
        (DDPM, "family.vlb_weight", 0.1, ["vlb_weight has no effect without variance=learned"]),
        (VAE, "family.binarise", "static", ["binarise has no effect"]),
        (VAE, "family.likelihood", "bernoulli", ["needs binarise"]),
        (
            VAE,
            "data.batch_size",
            33,
            ["data.batch_size=33", "scaling.num_workers × training.gradient_accumulation_steps = 2"],
        ),
    ],
)
def test_an_option_without_effect_is_refused(raw: dict[str, Any], key: str, value: Any, words: list[str]) -> None:
    lanes = {"scaling": {"num_workers": 2}} if key == "data.batch_size" else {}
    message = fault(changed({**raw, **lanes}, key, value))
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("raw", "key", "value", "words"),
    [
        (VAE, "evaluation.steps", 50, ["evaluation.steps", "no effect for vae"]),
        (VAE, "evaluation.sampler", "ddim", ["evaluation.sampler", "'ddim'", "mean"]),
        (DDPM, "evaluation.sampler", "dim", ["evaluation.sampler", "did you mean 'ddim'"]),
        (DDPM, "evaluation.sampler", "ddim:eta=2", ["evaluation.sampler ddim", "[0, 1]"]),
        (DDPM, "evaluation.sampler", "ancestral:eta=1", ["evaluation.sampler ancestral", "'eta'"]),
        (DDPM, "evaluation.steps", 5000, ["evaluation.steps", "1 … 1000"]),
    ],
)
def test_an_evaluation_that_the_family_lacks_is_refused_before_training(
    raw: dict[str, Any], key: str, value: Any, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        parse(changed(raw, key, value)).model(DIGITS)
    assert all(word in str(caught.value) for word in words)


def test_a_family_is_required_and_an_unknown_one_gets_the_nearest_name() -> None:
    assert "family.name: is required; known: ddpm, discrete, score_sde, vae" in fault({"name": "a"})
    assert "did you mean 'ddpm'" in fault({"name": "a", "family": "ddpn"})
    assert "family.name" in fault({"name": "a", "family": [1]}) and "name: is required" in fault({"family": "vae"})


BAD_NAMES = ["..", ".hidden", "a/b", "a\\b", "a\0b", "a\n", "a\nb", "", "-a", "ä", "a b", "a" * 65, "../../etc/passwd"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
@pytest.mark.parametrize("key", ["name", "tracking.experiment"])
def test_a_name_that_could_leave_its_folder_is_refused(key: str, name: str) -> None:
    assert fault(changed(VAE, key, name)).startswith(f"{key}: ")


@given(st.text(st.sampled_from([*string.ascii_letters[:3], "/", ".", "\0", "\n", "-", " ", "\\"]), max_size=6))
def test_a_name_that_is_accepted_is_one_path_component(name: str) -> None:
    try:
        accepted = parse({"name": name, "family": "vae"}).name
    except UserError:
        return
    assert Path("/root/runs", accepted).parent == Path("/root/runs") and accepted not in (".", "..")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nfamily: [vae\n", [":3", "expected"]),
        ("name: a\n\tfamily: vae\n", [":2", "cannot start any token"]),
        ("name: a\nfamily: vae\nname: b\n", [":1", "'name' occurs twice"]),
        ("name: a\nfamily: {name: vae, latent_dim: 2, latent_dim: 3}\n", [":2", "'latent_dim' occurs twice"]),
        ("name: &n a\nfamily: *n\n", [":2", "aliases are not allowed"]),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", [":2", "aliases are not allowed"]),
        ("name: !!python/name:os.system\n", [":1", "could not determine a constructor"]),
        ("", ["holds no settings"]),
        ("- a\n", ["holds no settings"]),
        ("name: a\n--- \nname: b\n", ["another document"]),
        ("name: \x00\n", ["not allowed"]),
        ("name: " + "[" * 5000, ["nested too deeply"]),
        ("name: a\nfamily: vae\n? [1, 2]\n: 3\n", [":3"]),
    ],
    ids=lambda v: v[:20].encode("unicode_escape").decode() if isinstance(v, str) else "",
)
def test_an_error_in_the_yaml_is_reported_with_file_and_line(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load(file)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_no_yaml_runs_code(tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "evil.yaml"
    call = f"!!python/object/apply:os.system ['touch {canary}']"
    file.write_text(f"name: {call}\nfamily: vae\n")
    with pytest.raises(UserError, match=r"evil\.yaml:1"):
        load(file)
    file.write_text("name: a\nfamily: vae\n")
    with pytest.raises(UserError, match=r"^name: "):
        load(file, [f"name={call}"])
    assert not canary.exists()


def test_files_that_are_not_configs_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: is not UTF-8"):
        load(tmp_path / "latin.yaml")
    with pytest.raises(UserError, match=r"nope\.yaml: No such file"):
        load(tmp_path / "nope.yaml")
    with pytest.raises(UserError, match=f"^nope.yaml: No such file or directory below {Path.cwd()}; .*full path"):
        load(Path("nope.yaml"))
    with pytest.raises(UserError, match="Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs", ["'training.epochs'", "key=value"]),
        ("=3", ["'=3'", "key=value"]),
        ("", ["key=value"]),
        ("training.seed.x=3", ["training.seed.x", "seed is a single value"]),
        ("training.epochs=*a", ["training.epochs", "'*a'"]),
        ("training.epochs={a: 1, a: 2}", ["training.epochs"]),
        ("training..epochs=3", ["key=value"]),
        ("traning.epochs=3", ["traning", "did you mean 'training'"]),
        ("overlay.yaml", ["overlay.yaml: No such file"]),
        ("training.epochs=" + "[" * 5000, ["training.epochs"]),
    ],
)
def test_a_bad_override_is_refused_in_one_line(tmp_path: Path, override: str, words: list[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: a\nfamily: vae\ntraining: {seed: 1}\n")
    with pytest.raises(UserError) as caught:
        load(file, [override])
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_a_configuration_is_immutable() -> None:
    experiment: Experiment = parse(VAE)
    with pytest.raises(ValueError, match="frozen"):
        experiment.name = "b"  # type: ignore[misc]


# ---- limits of numbers -----------------------------------------------------------------------------------------


def numbers(hint: Any, limits: list[Any]) -> Iterator[list[Any]]:
    """Yield the limits of each number in a type hint."""
    if hint in (int, float):
        yield [limit for item in limits for limit in getattr(item, "metadata", [item])]
    for part in get_args(hint):
        yield from numbers(part, [*limits, *getattr(hint, "__metadata__", ())])


def below(hint: Any) -> Iterator[type[Config]]:
    """Yield the configs in a type hint and the configs of their keys."""
    if isinstance(hint, type) and issubclass(hint, Config):
        yield hint
        for field in hint.model_fields.values():
            yield from below(field.annotation)
    for part in get_args(hint):
        yield from below(part)


FAMILIES = [families.find(name).Config for name in families.names()]
SECTIONS = {
    config for top in (Experiment, SweepConfig, ServingApplication, ApiSettings, *FAMILIES) for config in below(top)
}
FREE = {SearchAxis, VP, VE, SubVP}
"""Configs that check their numbers together."""


@pytest.mark.parametrize("config", sorted(SECTIONS - FREE, key=lambda config: config.__name__))
def test_a_number_has_a_lower_and_an_upper_limit(config: type[Config]) -> None:
    """A very large number could make a run hang, or exhaust the memory after its start."""
    for key, field in config.model_fields.items():
        for limits in numbers(field.annotation, list(field.metadata)):
            for names in (("ge", "gt"), ("le", "lt")):
                assert any(getattr(limit, name, None) is not None for limit in limits for name in names), key


LARGE = ["data.batch_size", "training.ema_snapshots", "training.epochs", "evaluation.samples", "evaluation.effort"]


@pytest.mark.parametrize("key", [*LARGE, "evaluation.likelihood_rows", "evaluation.neighbours", "scaling.num_workers"])
def test_a_number_beyond_its_limit_is_refused_in_one_line(key: str) -> None:
    line = fault(changed(VAE, key, 10**9))
    assert line.startswith(f"{key}: must be ") and "less than or equal to" in line and "1000000000" in line


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("value", [-1, 1.0, 2.0])
def test_betas_have_the_range_of_momenta(index: int, value: float) -> None:
    betas = [0.9, 0.999]
    betas[index] = value
    assert fault(changed(VAE, "training.betas", betas)).startswith(f"training.betas.{index}: must be ")


@pytest.mark.parametrize("key", ["storage.root", "data.root", "data.source", "tracking.uri"])
def test_a_null_byte_is_refused(key: str) -> None:
    line = fault(changed(VAE, key, "a\0b"))
    assert line.startswith(f"{key}: ") and "null byte" in line and "\0" not in line


@pytest.mark.parametrize("value", [10**400, "x" * 1000, [1] * 1000], ids=["integer", "text", "list"])
def test_a_long_value_is_shortened(value: Any) -> None:
    line = fault(changed(VAE, "training.epochs", value))
    assert line.startswith("training.epochs: must be ") and len(line) < 300 and "characters)" in line


@pytest.mark.parametrize("number", ["1" * 400, "0x" + "f" * 5000, "-" + "9" * 400])
def test_an_integer_of_hundreds_of_digits_is_refused(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.yaml").write_text(f"name: a\nfamily: vae\ntraining: {{epochs: {number}}}\n")
    with pytest.raises(UserError, match=r"a\.yaml:3: '.{20,45}' cannot be read as int$"):
        load(tmp_path / "a.yaml")


@pytest.mark.parametrize("root", ["http://x/y", "s3://b/c"])
def test_data_folders_are_on_this_machine(root: str) -> None:
    assert f"data.root: {root}: must be a path of this machine" in fault(changed(VAE, "data.root", root))
    with pytest.raises(UserError, match=f"^{root}: must be a path of this machine"):
        prepare(f"image_folder:{root}", out=Path("out"))


@pytest.mark.parametrize("root", ["://", "http://", "http://a/b", "memory://a", "zip://", "s3://", "s3:///a", "S3://a"])
def test_a_uri_of_an_unknown_store_is_refused(root: str) -> None:
    assert f"storage.root: {root}: must be a folder or s3://BUCKET/PREFIX" in fault(changed(VAE, "storage.root", root))
