"""Tables on terminals of any width: figures and ids are never cut off, and text is not taken for markup."""

import re

import pytest

from gen_ray.tracking.comparison import tables
from gen_ray.tracking.runs import TrackedRun
from gen_ray.tracking.store import Store
from pipelines.tables import show_table
from tests.conftest import CommandResult
from tests.test_comparison import run

HEADER = ["run", "family", "bits/dim", "Fréchet", "sampler", "story"]
LINES = [
    ["digits-vae-20260101-120000", "vae", "1.932 ± 0.021", "10.42", "ancestral:eta=0.5, 1000 nefs", "finished"],
    ["a" * 64 + "-20260101-120000", "score_sde", "11.812 ± 0.123", "123456.78", "ddim", "failed: " + "long words " * 9],
]
IDS_AND_FIGURES = [cell for line in LINES for cell in (line[0], line[2], line[3])]
PIPE = 0


@pytest.fixture(params=[12, 40, 80, 120, 300, PIPE])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the width of the terminal in columns; 0 for a pipe."""
    if request.param != PIPE:
        monkeypatch.setenv("COLUMNS", str(request.param))
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    return int(request.param)


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("dispensable", [(), ("sampler", "family")])
def test_every_id_and_figure_is_complete_at_any_width(
    width: int, dispensable: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    show_table("runs", HEADER, LINES, prose=("story",), dispensable=dispensable)
    out = printed(capsys)
    assert all(cell in out for cell in IDS_AND_FIGURES) and "…" not in out
    if width >= 120 and dispensable:
        assert max(map(len, out.splitlines())) <= width, "a table that fits is not wider than the terminal"
    if width == PIPE:
        assert all(word in out for word in HEADER)


def test_columns_are_left_out_in_their_order_and_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    needed = sum(len(cell) + 3 for cell in LINES[0][:5]) + 1
    order, left_out = ("sampler", "family", "Fréchet"), ""
    for columns in range(needed, 50, -1):
        monkeypatch.setenv("COLUMNS", str(columns))
        show_table("", HEADER[:5], [LINES[0][:5]], dispensable=order)
        out = printed(capsys)
        assert max(map(len, out.splitlines()[:-1])) <= columns and LINES[0][0] in out
        now = out.partition("left out because the terminal has ")[2].partition(": ")[2].strip()
        assert now.startswith(left_out) and (not now or tuple(now.split(", ")) == order[: now.count(",") + 1])
        left_out = now
    assert left_out == "sampler, family, Fréchet"


def test_compare_fits_eighty_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    runs = [run("digits-score-sde-20260101-120000", 1.8915, distance=1.25, kind="iwae-100")]
    [table] = tables(runs, "eval/bits_per_dim")
    show_table(table.title, table.header, table.lines, dispensable=table.dispensable)
    lines = printed(capsys).splitlines()[1:]
    assert max(map(len, lines[:-1])) <= 80
    assert all(word in "\n".join(lines) for word in (runs[0].run_id, "1.891 ± 0.010", "1.25", "vae", "left out"))


MARKUP = ["[/x]", "[red]a", "[link=file:///etc]b[/link]", "[bold", "\\[x]", ":smile:", "[[]]", "[/]"]


@pytest.mark.parametrize("text", MARKUP)
def test_text_that_looks_like_markup_is_printed_unchanged(
    text: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    show_table(
        f"title {text}", ["run", f"key {text}", "error"], [[f"n{text}", text, f"failed: {text}"]], prose=("error",)
    )
    out = printed(capsys)
    assert f"title {text}" in out and f"n{text}" in out and out.count(text) >= 3


@pytest.mark.parametrize("text", MARKUP[:2])
def test_compare_supports_any_name_of_a_run(
    text: str, gen_ray: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "bracketed"
    store = Store.of(None, "brackets", root)
    made = TrackedRun(
        store, f"a{text}", name=text, params={"data.source": text, "family.name": text}, tags={"sampler": text}
    )
    made.log({"eval/bits_per_dim": 1 / 3}, 1)
    made.close("FINISHED")
    plain, as_csv, as_json = (
        _output(gen_ray, "compare", "brackets", "--storage", root, *more) for more in ([], ["--csv"], ["--json"])
    )
    assert f"a{text}" in plain.out and f"{1 / 3}" in as_csv.out and f"{1 / 3}" in as_json.out
    assert as_csv.out.startswith("table,run,") and as_json.out.startswith("[") and "MLflow UI" not in as_csv.out
    both = gen_ray("compare", "brackets", "--storage", root, "--csv", "--json")  # type: ignore[operator]
    assert both.code == 2 and "one of them" in both.fault


def _output(gen_ray: object, *words: object) -> CommandResult:
    result: CommandResult = gen_ray(*words)  # type: ignore[operator]
    assert result.code == 0, result
    return result
