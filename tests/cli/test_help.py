"""The texts of --help: every option is described, in the words of the project, for the verb that has it."""

import re
from collections.abc import Iterator

import click
import pytest
from typer.main import get_command

from pipelines.cli import new_app

LEFTOVER = re.compile(r"\b(holes?|desk|seat|ticket|kitchen|menu|twin|lesson)\b", re.IGNORECASE)
"""Words that the project does not use."""


def commands(command: click.Command, name: str = "gen-ray") -> Iterator[tuple[str, click.Command]]:
    """Yield all verbs below a command, with their names."""
    for word, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {word}")
    if not hasattr(command, "commands"):
        yield name, command


VERBS = dict(commands(get_command(new_app())))


@pytest.mark.parametrize("name", VERBS)
def test_every_option_is_described(name: str) -> None:
    verb = VERBS[name]
    texts = {option: getattr(option, "help", None) for option in verb.params if option.name != "help"}
    assert verb.help and all(texts.values()), [option.name for option, text in texts.items() if not text]
    for text in (verb.help, *texts.values()):
        plain = text.replace("--hole", "")
        assert not LEFTOVER.search(plain), text
        others = [verb for verb in re.findall(r"gen-ray (\w+)", plain) if f"gen-ray {verb}" not in VERBS]
        assert not others, f"{text!r} names verbs that do not exist"


def test_an_option_of_files_is_described_only_where_it_exists() -> None:
    data = {name: next((o.help for o in verb.params if o.name == "data"), "") for name, verb in VERBS.items()}
    assert "a .csv or .parquet of rows" in data["gen-ray score"]
    assert all("rows" not in text for name, text in data.items() if name.startswith("gen-ray latent"))
