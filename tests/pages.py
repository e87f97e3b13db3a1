"""The README pages of the project, and the commands and configurations that they show."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

FOLDERS = ("configs", "gen_ray", "pipelines", "tests")
FILES = sorted(
    [ROOT / "README.md", *(page for folder in FOLDERS for page in (ROOT / folder).rglob("README.md"))],
    key=lambda page: (len(page.parts), page),
)


@dataclass(frozen=True)
class Page:
    """A page: its path relative to the root, and its text."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Return the path as the identifier of a test."""
        return self.path.as_posix()

    def blocks(self, language: str) -> list[str]:
        """Return the code blocks of a language."""
        return re.findall(rf"^```{language}\n(.*?)^```", self.text, flags=re.DOTALL | re.MULTILINE)

    @property
    def prose(self) -> str:
        """Return the text without its code blocks."""
        return re.sub(r"^```.*?^```", "", self.text, flags=re.DOTALL | re.MULTILINE)


PAGES = [Page(file.relative_to(ROOT), file.read_text()) for file in FILES]
README = PAGES[0]


def commands(lines: list[str]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Yield the variables and words of every gen-ray command in lines of a shell."""
    for line in lines:
        command = shlex.split(line)[-1] if line.startswith("ray exec") else line
        for part in command.split("&&"):
            words = shlex.split(part.partition(" > ")[0], comments=True)
            count = next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), 0)
            variables = dict(word.replace("$KEY", "k" * 32).split("=", 1) for word in words[:count])
            if words[count : count + 1] == ["gen-ray"] and words[count + 1 : count + 2] not in ([], ["VERB"]):
                yield variables, words[count + 1 :]


def printed(page: Page) -> list[tuple[dict[str, str], list[str]]]:
    """Return the variables and words of the commands in a page's blocks of a shell."""
    return list(commands("\n".join(page.blocks("bash")).replace("\\\n", " ").splitlines()))


def quoted(page: Page) -> list[tuple[dict[str, str], list[str]]]:
    """Return the commands within a page's sentences."""
    return list(commands(re.findall(r"`((?:gen-ray|python -m pipelines\.)[^`]*)`", page.prose.replace("\n", " "))))
