"""Text files are UTF-8 on every machine, for any locale."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted(file for folder in ("gen_ray", "pipelines") for file in (ROOT / folder).rglob("*.py"))
TEXT = {"read_text", "write_text"}
OPENS = {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile"}


def follows_the_locale(call: ast.Call) -> bool:
    """Return whether a call reads or writes text without a stated encoding."""
    given = {word.arg: word.value for word in call.keywords}
    if "encoding" in given:
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in TEXT:
        return True
    if name in OPENS:
        modes = [node.value for node in [*call.args, given.get("mode")] if isinstance(node, ast.Constant)]
        modes = [mode for mode in modes if isinstance(mode, str) and re.fullmatch(r"[rwax+bt]{1,3}", mode)]
        plain = isinstance(call.func, ast.Name) and name == "open" and not modes
        return plain or any("b" not in mode for mode in modes)
    flags = [given.get(word) for word in ("text", "universal_newlines")]
    return any(isinstance(flag, ast.Constant) and flag.value is True for flag in flags)


def faults(source: str) -> Iterator[int]:
    """Yield the lines of calls that depend on the locale."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and follows_the_locale(node):
            yield node.lineno


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_text_has_a_named_encoding(file: Path) -> None:
    assert list(faults(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "is_fault"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("open(path)", True),
        ("path.open('a')", True),
        ("os.fdopen(handle, 'w')", True),
        ("subprocess.run(words, text=True)", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.open('rb')", False),
        ("open(path, mode='xb')", False),
        ("archive.open(member)", False),
        ("subprocess.run(words, text=True, encoding='utf-8')", False),
    ],
)
def test_calls_that_depend_on_the_locale_are_found(source: str, is_fault: bool) -> None:
    assert bool(list(faults(source))) == is_fault
