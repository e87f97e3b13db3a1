"""The README pages: every named file, link, command, option, setting and configuration exists."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gen_ray import experiment
from gen_ray.configuration import yaml12
from gen_ray.configuration.base import validated
from gen_ray.serving.api import build
from gen_ray.serving.errors import CODES
from gen_ray.serving.settings import ApiSettings
from gen_ray.serving.verbs import VERBS
from gen_ray.sweeps import config as sweeps
from gen_ray.sweeps import reference
from pipelines import cli
from tests.conftest import ROOT, CommandResult
from tests.launching import carry_out, job
from tests.pages import PAGES, README, Page, printed, quoted

TEST_COMMAND = next((block for block in README.blocks("bash") if block.rstrip().endswith("pytest")), None)
LONGEST = 250
"""The most lines of the README in the root; details are on the pages of the folders."""
LARGEST = 100_000
"""The most bytes of a picture."""


def distinct(found: list[tuple[dict[str, str], list[str]]]) -> list[tuple[dict[str, str], list[str]]]:
    """Return commands without repetitions, in their order."""
    return [it for i, it in enumerate(found) if it not in found[:i]]


PRINTED = distinct([it for page in PAGES for it in printed(page)])
QUOTED = distinct([it for page in PAGES for it in quoted(page)])
COMMANDS = [
    words[words[0] == "submit" and len(words) > 1 :]
    for _, words in distinct([({}, words) for _, words in (*PRINTED, *QUOTED)])
    if "VERB" not in words
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_two_commands_install_everything_before_demo_and_pytest() -> None:
    whole = [block for block in README.blocks("bash") if "python3 -m venv" in block]
    assert sorted(block.rstrip().rsplit("&& ", 1)[-1] for block in whole) == ["gen-ray demo", "pytest"]


def test_ci_runs_the_test_command_as_printed() -> None:
    assert TEST_COMMAND is not None and TEST_COMMAND.rstrip() in (ROOT / ".ci" / "run").read_text()


def test_the_readme_is_short() -> None:
    assert len(README.text.splitlines()) <= LONGEST


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:50])
def test_every_command_and_option_exists(words: list[str], gen_ray: Callable[..., CommandResult]) -> None:
    verb = words[:2] if words[0] in cli.GROUPS else words[:1]
    result = gen_ray(*verb, "--help")
    assert result.code == 0
    for word in words:
        if re.fullmatch(r"--?[a-z][a-z-]*", word):
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", result.out), word


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all lines, because some lines need the results of earlier ones."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.slow
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
        read = sweeps.load if {"sweep", "schedule"} & set(words) else experiment.load
        read(Path(plain[0]), plain[1:])


@each_page
def test_every_path_exists(page: Page) -> None:
    text = re.sub(r"^# gen_ray/\S+$", "", page.text, flags=re.MULTILINE)  # the files of examples, to be added
    named = set(re.findall(r"(?<![\w/.(-])((?:configs|gen_ray|pipelines|tests|\.ci)/[\w./-]*[\w/])", text))
    assert not [path for path in named if not (ROOT / path).exists()]


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page: Page) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / page.path.parent / path).resolve() if path else ROOT / page.path
        assert file.is_relative_to(ROOT) and file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
            assert heading in anchors, target
        if file.suffix == ".png":
            assert file.stat().st_size <= LARGEST, target


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [README]
    while waiting:
        page = waiting.pop()
        reached.add(page.path)
        links = {(ROOT / page.path.parent / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", page.text)}
        waiting += [other for other in PAGES if ROOT / other.path in links and other.path not in reached]
    assert reached == {page.path for page in PAGES}


def mappings(node: dict, prefix: str = "") -> set[str]:
    """Return the dotted names of the mappings in a mapping, also of empty ones."""
    nested = {f"{prefix}{key}": value for key, value in node.items() if isinstance(value, dict)}
    return {*nested, *(name for key, value in nested.items() for name in mappings(value, f"{key}."))}


@each_page
def test_every_named_setting_exists(page: Page) -> None:
    loaded = [experiment.load(file) for file in (ROOT / "configs" / "demo").glob("*.yaml")]
    known = {key for each in loaded for key in each.flat()}
    sections = {key.rsplit(".", 1)[0] for key in known} | {
        name for each in loaded for name in mappings(each.resolved())
    }
    named = set(
        re.findall(
            r"`((?:data|family|training|scaling|evaluation|storage|tracking)\.[a-z_.]+)(?:[=:][^`]*)?`", page.text
        )
    )
    assert not named - known - sections


def test_the_api_page_lists_every_route_field_and_error() -> None:
    [page] = [page for page in PAGES if page.path == Path("gen_ray/serving/README.md")]
    paths = build({}, ApiSettings()).openapi()["paths"]
    routes = {f"`{method.upper()} {path}`" for path, methods in paths.items() for method in methods}
    assert {route for route in routes if f"| {route} |" not in page.text} == set()
    fields = {field for verb in VERBS.values() for field in verb.body.model_fields}
    assert {field for field in fields if f"`{field}`" not in page.text} == set()
    assert not [status for status, (code, _) in CODES.items() if f"| {status} | `{code}` |" not in page.text]


def test_the_reference_of_keys_is_up_to_date() -> None:
    text = (ROOT / reference.PAGE).read_text()
    assert reference.page(text) == text, "run python -m gen_ray.sweeps.reference"


def test_every_key_has_a_meaning() -> None:
    rows = re.findall(r"^\| `([a-z_0-9]+)` \| (.*?) \|.*\| (.*) \|$", reference.reference(), flags=re.MULTILINE)
    assert len(rows) > 100
    assert not [key for key, _, meaning in rows if not meaning]


@each_page
def test_every_shown_configuration_is_valid(page: Page) -> None:
    for block in page.blocks("yaml"):
        raw = yaml12.parsed(block)
        if "space" in raw:
            validated(sweeps.SweepConfig, raw)
        else:
            experiment.parse(raw)


@each_page
def test_every_shown_program_compiles(page: Page) -> None:
    for block in page.blocks("python"):
        compile(block, page.name, "exec")


def test_yaml_blocks_are_found() -> None:
    assert any(yaml.safe_load(block) for page in PAGES for block in page.blocks("yaml"))
