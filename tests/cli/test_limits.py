"""Upper limits of numbers on the command line; a result that exceeds memory or disk is refused."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.models import OptionInfo

from gen_ray.bench.cluster import streaming
from gen_ray.engine.inference import memory
from gen_ray.errors import UserError
from pipelines import cli, submit
from tests.cli.test_instances import untrained
from tests.conftest import CommandResult

Run = Callable[..., CommandResult]
WIDTHS = {"sigma_rel", "more"}  # relative widths: power_ema.gamma_of refuses impossible ones
MIB = 2**20


def numbers() -> Iterator[tuple[str, OptionInfo]]:
    """Yield each option of type int or float with its command and name."""
    verbs: list[Any] = [*cli.VERBS, submit.submit]
    verbs += [command.callback for group, _ in cli.GROUPS.values() for command in group.registered_commands]
    for verb in verbs:
        for name, parameter in inspect.signature(verb).parameters.items():
            kind, *rest = get_args(parameter.annotation) or (None,)
            infos = [info for info in rest if isinstance(info, OptionInfo)]
            if infos and {int, float} & {kind, *get_args(kind), *(t for a in get_args(kind) for t in get_args(a))}:
                yield f"{verb.__module__}.{verb.__name__} {name}", infos[0]


def test_every_number_on_the_command_line_has_an_upper_limit() -> None:
    """A very large number could make a command hang, or exhaust the memory after minutes of work."""
    found = dict(numbers())
    assert len(found) > 60
    assert {key.split()[1] for key, option in found.items() if option.max is None} <= WIDTHS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits")
    return untrained(folder, folder / "model")


@pytest.mark.parametrize("words", [("sample", "-n"), ("score", "-n"), ("score", "--effort"), ("impute", "-n")])
def test_a_number_beyond_its_limit_is_refused_in_one_line(gen_ray: Run, words: tuple[str, str]) -> None:
    verb, option = words
    result = gen_ray(verb, "model", option, 10_000_000_000)
    assert result.code == 2 and f"'{option}'" in result.fault and "less than or equal to 1" in result.fault


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-n", 20_000), "-n 20,000 as .png: needs "),
        (("-n", 20_000), "ask for fewer, or write them with --out samples.npz"),
        (("-n", 500_000, "--out", "samples.npz"), "-n 500,000 as .npz: needs "),
    ],
)
def test_samples_that_do_not_fit_into_memory_are_refused_before_any_is_drawn(
    gen_ray: Run, model: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], expected: str
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 20 * MIB)
    chain = "gen_ray.engine.inference.generate.run_chain"
    monkeypatch.setattr(chain, lambda *_: pytest.fail("a network evaluation ran"))
    result = gen_ray("sample", model, *words)
    assert result.code == 2 and expected in result.fault and "0.0 GiB are available" in result.fault


def test_rows_completions_and_interpolations_that_exceed_memory_are_refused(
    gen_ray: Run, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = ("--storage", model.parent)
    assert gen_ray("sample", model, "-n", 2).code == 0
    monkeypatch.setattr(memory, "available", lambda: 50_000)
    result = gen_ray("score", model, *storage, "-n", 5000)
    assert result.code == 2 and " rows of digits: needs " in result.fault and "choose fewer with -n" in result.fault
    result = gen_ray("latent", "interpolate", model, *storage, "-n", 9, "--steps", 100)
    assert result.code == 2 and "800 images: needs " in result.fault and "ask for fewer steps" in result.fault


def test_a_stream_larger_than_the_disk_or_the_memory_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gen_ray.bench.cluster.streaming._write", lambda *_: pytest.fail("was called"))
    monkeypatch.setattr("gen_ray.bench.cluster.streaming.ray.is_initialized", lambda: False)
    with pytest.raises(UserError, match=r"`data_mb=9,000,000`: needs 27,000,000 MB in .* MB are free; ask for less"):
        streaming.stream_larger(data_mb=9_000_000, store_mb=80)
    with pytest.raises(UserError, match=r"`store_mb=9,000,000`: needs .* GiB of memory"):
        streaming.stream_larger(data_mb=100, store_mb=9_000_000)
