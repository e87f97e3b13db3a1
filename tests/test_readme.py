"""The README: every named file, command, option and setting exists."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gen_ray.experiment import load
from gen_ray.sweeps import config as sweeps
from pipelines import cli
from tests.conftest import ROOT, Said
from tests.launching import carry_out, job

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
TEST_COMMAND = next((block for block in BLOCKS if block.rstrip().endswith("pytest")), None)


def commands(lines: list[str]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Yield the variables and words of every gen-ray command in lines of a shell."""
    for line in lines:
        said = shlex.split(line)[-1] if line.startswith("ray exec") else line
        for part in said.split("&&"):
            words = shlex.split(part.partition(" > ")[0], comments=True)
            count = next((place for place, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), 0)
            variables = dict(word.replace("$KEY", "k" * 32).split("=", 1) for word in words[:count])
            if words[count : count + 1] == ["gen-ray"] and words[count + 1 : count + 2] not in ([], ["VERB"]):
                yield variables, words[count + 1 :]


PRINTED = list(commands("\n".join(BLOCKS).replace("\\\n", " ").splitlines()))
SPOKEN = list(commands(re.findall(r"`((?:gen-ray|python -m pipelines\.)[^`]*)`", README.replace("\n", " "))))
COMMANDS = [words[words[0] == "submit" :] for _, words in (*PRINTED, *SPOKEN) if "VERB" not in words]


def test_two_commands_install_everything_before_demo_and_pytest() -> None:
    whole = [block for block in BLOCKS if "python3 -m venv" in block]
    assert sorted(block.rstrip().rsplit("&& ", 1)[-1] for block in whole) == ["gen-ray demo", "pytest"]


def test_ci_runs_the_test_command_as_printed() -> None:
    assert TEST_COMMAND is not None and TEST_COMMAND.rstrip() in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:50])
def test_every_command_and_option_exists(words: list[str], gen_ray: Callable[..., Said]) -> None:
    verb = words[:2] if words[0] in cli.GROUPS else words[:1]
    said = gen_ray(*verb, "--help")
    assert said.code == 0
    for word in words:
        if re.fullmatch(r"--?[a-z][a-z-]*", word):
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", said.out), word


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all lines, because some lines need the results of earlier ones."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize(
    ("variables", "words"),
    [it for it in PRINTED if it[1] not in (["demo"], ["schedule", "run"])],  # these two lack checks
    ids=lambda it: " ".join(it)[:50],
)
def test_every_command_passes_its_own_checks(variables: dict[str, str], words: list[str], home: Path) -> None:
    carry_out(words, variables, home)
    if inner := job(words):
        carry_out(inner, {**variables, "RAY_ADDRESS": "127.0.0.1:6379"}, home)


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


def test_every_named_setting_exists() -> None:
    known = {key for file in (ROOT / "configs" / "demo").glob("*.yaml") for key in load(file).flat()}
    sections = {key.rsplit(".", 1)[0] for key in known}
    named = set(
        re.findall(r"`((?:data|family|training|scaling|evaluation|storage|tracking)\.[a-z_.]+)(?:=[^`]*)?`", README)
    )
    assert not named - known - sections
