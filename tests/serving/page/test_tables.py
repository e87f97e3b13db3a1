"""The Row tab of a table's model with the real server: edit, empty, impute with intervals, bits of each cell."""

import asyncio
import json
import re
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from playwright.sync_api import Locator, Page, expect

from gen_ray.engine.inference import artifact
from gen_ray.serving.api import build
from gen_ray.serving.local_service import LocalModelService
from gen_ray.serving.settings import ApiSettings
from gen_ray.tracking.sources import FolderSource
from tests import tabular_joint
from tests.serving.loopback import listening
from tests.serving.page.conftest import OpenPage
from tests.serving.test_tables import SPEC, table_model

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a model, and one in which a missing letter is a category."""
    folder, services = tmp_path_factory.mktemp("page"), {}
    for name, spec in (("joint", SPEC), ("gaps", tabular_joint.with_missing_letters())):
        artifact.write(folder / name, table_model("random_order", spec))
        services[name] = LocalModelService(name, FolderSource(folder / name), device=torch.device("cpu"))
        run(services[name].open())
    with listening(build(services, ApiSettings(hosts=("127.0.0.1",))), timeout_graceful_shutdown=1) as port:
        yield f"http://127.0.0.1:{port}"
    for service in services.values():
        run(service.close())


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in another thread, because Playwright runs an event loop in this one."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, work).result()


def line(page: Page, column: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=column))


def click(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def values(page: Page) -> dict[str, str]:
    return {column.name: page.get_by_label(column.name, exact=True).evaluate("e => e.value") for column in SPEC.columns}


def test_a_row_is_sampled_emptied_and_imputed_with_an_interval(open_page: OpenPage) -> None:
    page = open_page("model=joint&seed=3")
    expect(page.get_by_role("tab")).to_have_text([re.compile("Row"), re.compile("Sample"), re.compile("Compare")])
    expect(page.locator("#model-summary")).to_contain_text("joint · 3 columns")
    click(page, "Sample a row")
    expect(page.get_by_label("number", exact=True)).not_to_have_value("")
    sampled = values(page)
    click(page, "Empty number")
    click(page, "Empty letter")
    assert values(page) == {**sampled, "number": "", "letter": "(empty)"}
    click(page, "Impute")
    expect(page.get_by_role("status")).to_have_text("Done: exact marginals.")
    expect(line(page, "number").locator(".imputed")).to_have_text(re.compile(r"^\d \(\d … \d\)$"))
    expect(line(page, "letter").locator(".imputed")).to_have_text(re.compile(r"^\w \(\d+ %\)$"))
    expect(line(page, "truth").locator(".imputed")).to_be_empty()
    click(page, "Fill in a completion")
    filled = values(page)
    assert filled["truth"] == sampled["truth"] and filled["number"] != "" and filled["letter"] != "(empty)"
    click(page, "Impute")
    expect(page.get_by_role("alert").filter(has_text="No cell is empty")).to_be_visible()


def test_the_bits_of_cells_shade_the_unusual_one(open_page: OpenPage) -> None:
    page = open_page("model=joint&tab=row")
    page.get_by_label("number", exact=True).fill("5")
    page.get_by_label("truth", exact=True).select_option("true")
    click(page, "Bits of each cell")
    expect(page.get_by_role("status")).to_contain_text("bits for the row")
    shades = {
        name: float(line(page, name).evaluate("e => e.style.getPropertyValue('--unusual')"))
        for name in ("number", "truth", "letter")
    }
    bits = {name: line(page, name).locator(".bits").inner_text() for name in shades}
    assert bits["letter"] == "" and float(bits["number"]) > 0 and shades["letter"] == 0
    page.get_by_label("number", exact=True).fill("0")
    expect(line(page, "number").locator(".bits")).to_be_empty()


def test_the_row_can_be_edited_with_the_keyboard_and_values_outside_the_range_are_sent(open_page: OpenPage) -> None:
    page = open_page("model=joint&tab=row")
    requests: list[dict[str, object]] = []
    page.on(
        "request", lambda request: request.method == "POST" and requests.append(json.loads(request.post_data or ""))
    )
    page.get_by_label("number", exact=True).focus()
    page.keyboard.type("77")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the button that empties the number
    assert values(page)["number"] == ""
    page.get_by_label("number", exact=True).fill("77")
    page.get_by_label("Number of completions").press("Enter")
    expect(page.get_by_role("status")).to_have_text("Done: exact marginals.")
    assert requests[-1]["rows"] == [{"number": 77}]


def test_an_empty_cell_is_not_the_category_of_missing_values(open_page: OpenPage) -> None:
    page = open_page("model=gaps&tab=row")
    requests: list[dict[str, object]] = []
    page.on(
        "request", lambda request: request.method == "POST" and requests.append(json.loads(request.post_data or ""))
    )
    letter = page.get_by_label("letter", exact=True)
    assert letter.locator("option").all_inner_texts() == ["(empty)", "(missing)", "a"]
    click(page, "Impute")
    expect(line(page, "letter").locator(".imputed")).not_to_be_empty()
    letter.select_option("(missing)")
    click(page, "Impute")
    expect(page.get_by_role("status")).to_have_text("Done: exact marginals.")
    expect(line(page, "letter").locator(".imputed")).to_be_empty()
    assert [request["rows"] for request in requests] == [[{}], [{"letter": None}]]


def test_sampled_rows_are_listed_saved_and_opened_for_editing(open_page: OpenPage) -> None:
    page = open_page("model=joint&tab=sample&seed=4&n=3")
    click(page, "Sample")
    page.get_by_text("Done.").wait_for()
    expect(page.locator("dl")).to_have_count(3)
    click(page, "Sample 2")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save all as CSV").click()
    text = saved.value.path().read_text()
    assert text.splitlines()[0] == "number,truth,letter" and len(text.splitlines()) == 4
    page.locator(".actions").get_by_role("button", name="Impute").click()
    expect(page.get_by_role("tab", name="Row")).to_have_attribute("aria-selected", "true")
    number, truth, letter = text.splitlines()[2].split(",")
    assert values(page) == {"number": number, "truth": truth, "letter": letter}


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (38123.4, [25012.3, 61002.2], "38000"),
        (1994.5, [1990.2, 1999.9], "1994.5"),
        (0.0123456, [0.001, 50], "0.012"),
        (0, [0, 50], "0"),
        (0, [-1e300, 1e300], "0"),
        (123456.789, [123456.788, 123456.791], "123456.789"),
        (1e300, [1e300, 1.0001e300], "1e+300"),
        (1e-300, [0, 1e300], "1e-300"),
        (1.5, [0.5, None], "1.5"),
        (-0.5, [-0.5, -0.5], "-0.5"),
        (38123.4, None, "38123.4"),
        (12345678.9, None, "12345679"),
        (0.1 + 0.2, None, "0.3"),
        (2**60, ["-inf", 5], "1152921504606847000"),
        (1.25e-9, None, "1.25e-9"),
        ("inf", None, "inf"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_justifies(
    open_page: OpenPage, value: object, interval: list[float] | None, text: str
) -> None:
    page = open_page("model=joint")
    script = "async (given) => (await import('/format.js')).shownValue(...given)"
    column, last = {"type": "number"}, [] if interval is None else [interval]
    assert page.evaluate(script, [value, column, *last]) == text


def test_measured_numbers_are_written_out(open_page: OpenPage) -> None:
    script = "async (values) => { const { formatValue } = await import('/format.js'); return values.map(formatValue); }"
    shown = open_page("model=joint").evaluate(script, [38123.4, 1234, 0.00012345, 0, 2.0, 1.5e12, 1e-9])
    assert shown == ["38,100", "1,230", "0.000123", "0", "2", "1.50e+12", "1.00e-9"]


def test_on_a_phone_the_row_is_usable(open_page: OpenPage) -> None:
    page = open_page("model=joint&tab=row", viewport={"width": 375, "height": 700})
    click(page, "Impute")
    expect(page.get_by_role("status")).to_have_text("Done: exact marginals.")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
