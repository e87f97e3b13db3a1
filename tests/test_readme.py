"""What the README names exists: files, verbs, options, settings."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gen_ray.experiment import load
from gen_ray.sweeps import config as sweeps
from pipelines import cli
from tests.conftest import ROOT, Said

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
TEST_COMMAND = next((block for block in BLOCKS if block.rstrip().endswith("pytest")), None)


def commands() -> Iterator[list[str]]:
    """Yield the words of every gen-ray command in code blocks and in running text."""
    spoken = re.findall(r"`((?:gen-ray|python -m pipelines\.)[^`]*)`", README.replace("\n", " "))
    for line in [*"\n".join(BLOCKS).replace("\\\n", " ").splitlines(), *spoken]:
        said = shlex.split(line)[-1] if line.startswith("ray exec") else line
        for part in said.split("&&"):
            words = shlex.split(part, comments=True)
            if words[:2] == ["gen-ray", "submit"]:  # whose words are another verb's
                words = words[:1] + words[2:]
            if words[:1] == ["gen-ray"] and words[1:2] not in ([], ["VERB"]):
                yield words[1:]


COMMANDS = list(commands())


def test_two_commands_set_everything_up_and_end_with_demo_and_pytest() -> None:
    whole = [block for block in BLOCKS if "python3 -m venv" in block]
    assert sorted(block.rstrip().rsplit("&& ", 1)[-1] for block in whole) == ["gen-ray demo", "pytest"]


def test_ci_runs_the_test_command_as_printed() -> None:
    assert TEST_COMMAND is not None and TEST_COMMAND.rstrip() in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:50])
def test_every_verb_and_option_exists(words: list[str], gen_ray: Callable[..., Said]) -> None:
    verb = words[:2] if words[0] in cli.GROUPS else words[:1]
    said = gen_ray(*verb, "--help")
    assert said.code == 0
    for word in words:
        if re.fullmatch(r"--?[a-z][a-z-]*", word):
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", said.out), word


@pytest.mark.parametrize(
    "words", [w for w in COMMANDS if {"train", "bench", "sweep", "schedule"} & set(w)], ids=lambda w: " ".join(w)[:50]
)
def test_every_training_command_describes_a_run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plain = [word for word in words if "=" in word or word.endswith((".yaml", ".yml"))]
    if plain and Path(plain[0]).suffix:
        read = sweeps.load if {"sweep", "schedule"} & set(words) else load
        read(Path(plain[0]), plain[1:])


def test_every_path_exists() -> None:
    named = set(re.findall(r"(?<![\w/.])((?:configs|gen_ray|pipelines|tests|\.ci)/[\w./-]*[\w/])", README))
    assert named and not [path for path in named if not (ROOT / path).exists()]


def test_every_setting_it_names_is_one() -> None:
    known = {key for file in (ROOT / "configs" / "demo").glob("*.yaml") for key in load(file).flat()}
    sections = {key.rsplit(".", 1)[0] for key in known}
    named = set(
        re.findall(r"`((?:data|family|training|scaling|evaluation|storage|tracking)\.[a-z_.]+)(?:=[^`]*)?`", README)
    )
    assert not named - known - sections
