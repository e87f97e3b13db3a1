"""The project's own lint of its language: no phrase of a short list, and no class name with two definitions."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

INSTEAD = {
    r"(there|where)(of|to|upon|from)|hitherto|henceforth|lest|anew|albeit|whilst|forthwith": "an ordinary word",
    r"aforementioned|in_(the_event|case)_that|inasmuch_as|notwithstanding": "this, if, because, although",
    r"in_order_to|so_as_to|due_to_the_fact_that": "to, because",
    r"subsequent(ly)?_to": "after",
    r"utili[sz]e[sd]?|leverage[sd]?|commence[sd]?|facilitate[sd]?|endeavou?r": "use, start, help, try",
    r"simply|obviously|of_course|needless_to_say|as_it_were|so_to_speak": "nothing: leave it out",
    r"nobody|somebody|whoever|anybody|whomever": "the user, the process, the name of the thing",
    r"who(se_turn|_(waits|asks|comes|wants|has_been_asked))": "the name of the thing that waits or requests",
    r"again_and_again|time_and_again|over_and_over": "repeatedly, at each step",
    r"(un)?heed(s|ed|ing)?|mind(s|ed)_that": "ignores, respects, handles",
    r"tells?_(of|apart)|told_(of|apart)|is_told|are_told|was_told": "reports, states, distinguishes",
    r"(go|goes|went|come|comes|came|ride|rides)_along": "is included, joins, accompanies",
    r"(makes?|made)_up_for|(held|holds?)_against": "compensates, compares with",
    r"of_(its|their|one's|his|her)_own": "separate, its own …",
    r"so_(many|much)_(that|as)|ever_so|none_the_(less|wiser)": "a number, nevertheless",
    r"asks?_nothing_of|asked_of|asks?_of": "requested from",
    r"is_no_(concern|matter|business)_of|knows_nothing_of": "does not use, does not import",
    r"there_(stands|stood|lies|lay)|stands?_(there|here)": "is, contains",
}
"""What this project does not write, as regular expressions with _ for a space, and what it writes instead."""

PHRASES = {
    re.compile(rf"\b({pattern.replace('_', ' ')})\b", re.IGNORECASE): better for pattern, better in INSTEAD.items()
}
PYTHON = sorted(file for folder in ("gen_ray", "pipelines", "tests") for file in (ROOT / folder).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in ("configs", "gen_ray", "pipelines", "tests")
                for page in (ROOT / folder).rglob("*.md"))])  # fmt: skip
TEXTS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def prose_of_python(source: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line of comments and of strings with a space: docstrings and messages."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in TEXTS and " " in token.string:
            yield from enumerate(token.string.splitlines(), token.start[0])


def prose_of_markdown(source: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line outside code blocks."""
    code = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line


def complaints(lines: Iterator[tuple[int, str]]) -> list[str]:
    """Return a complaint for each phrase of the list."""
    return [
        f"{number}: '{found[0]}': write {better}"
        for number, line in lines
        for phrase, better in PHRASES.items()
        for found in [phrase.search(line)]
        if found
    ]


@pytest.mark.parametrize("kind", ["python", "markdown"])
def test_texts_use_plain_words(kind: str) -> None:
    files, prose = (PYTHON, prose_of_python) if kind == "python" else (PAGES, prose_of_markdown)
    assert files
    found = [
        f"{file.relative_to(ROOT)}:{complaint}"
        for file in files
        if file != Path(__file__)
        for complaint in complaints(prose(file.read_text(encoding="utf-8")))
    ]
    assert not found, "\n" + "\n".join(found)


def test_no_class_name_is_defined_twice() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for file in PYTHON:
        if file.relative_to(ROOT).parts[0] != "tests":
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert found and {name: places for name, places in found.items() if len(places) > 1} == {}


def test_phrases_are_found_in_comments_docstrings_messages_and_pages() -> None:
    source = (
        '"""Ends it\nin order to wait."""\nx = 1  # obviously one\nraise E(f"prefer to utilise {x}")\ny = "simply"\n'
    )
    assert [complaint.partition(":")[0] for complaint in complaints(prose_of_python(source))] == ["2", "3", "4"]
    page = "Of course it runs\n```bash\nsimply\n```\nOrdinary words.\n"
    assert [complaint.partition(":")[0] for complaint in complaints(prose_of_markdown(page))] == ["1"]
