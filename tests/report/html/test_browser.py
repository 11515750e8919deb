"""The HTML report in a real browser: it opens from disk, sorts, filters, zooms and slides.

It needs the extra `browser` and a Chromium: Debian's `chromium`, or the one that the variable
HARNESS_CHROMIUM names. Where one is missing the tests are skipped, unless HARNESS_BROWSER=required.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
from made_runs import Made, made_run, run_in

from harness.report.html.report import write_report
from harness.store.run_folder import read_results

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)


def browser_problem() -> str:
    """Return why there is no browser here; empty where there is one."""
    try:
        import playwright.sync_api  # noqa: F401 (whether it is here)
    except ImportError:
        return "the extra `browser` is not installed"
    return "" if chromium() else "no Chromium is installed"


def chromium() -> str:
    """Return the path of a Chromium; empty where there is none."""
    named = os.environ.get("HARNESS_CHROMIUM", "")
    return named or next(filter(None, map(shutil.which, NAMES)), "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that loads nothing by itself."""
    problem = browser_problem()
    if problem and os.environ.get("HARNESS_BROWSER") == "required":
        pytest.fail(f"HARNESS_BROWSER=required, but {problem}")
    if problem:
        pytest.skip(problem)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with pictures, and names that would be markup."""
    image = np.linspace(0, 1, 3 * 64 * 48, dtype=np.float32).reshape(1, 64, 48, 3)
    moved = image.copy()
    moved[0, 50, 10] = 1 - moved[0, 50, 10]
    cases = [
        Made("moved", {"image": moved}, {"image": image}),
        Made("nearly", {"image": image + np.float32(1e-4)}, {"image": image}),
        Made("same", {"image": image}, {"image": image}),
    ]
    hostile = "<img src=x onerror=document.title='owned'>"
    others = [builders.outcome("error", name="broken", message=hostile, log=hostile)]
    made = made_run(tmp_path_factory.mktemp("browser") / "run", cases, others=others)
    write_report([run_in(made)], made / "report.html")
    return made


class Opened:
    """The report in a page of the browser, and what the page complained of."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())


@pytest.fixture
def opened(browser: Any, run: Path) -> Iterator[Opened]:
    """The report, opened from disk; at the end it must have loaded nothing and complained never."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    report = Opened(page, run / "report.html")
    yield report
    page.close()
    assert report.complaints == []
    loaded = [url for url in report.requests if not url.startswith("data:")]
    assert loaded == [(run / "report.html").as_uri()]


def listed(page: Any) -> list[str]:
    """Return the cases that the table shows, in its order."""
    rows = page.locator("#case-list tbody tr:visible th a")
    return [text.partition("[")[0] for text in rows.all_inner_texts()]


def test_it_opens_and_every_picture_is_there(opened: Opened):
    """Nothing of what a message holds has become part of the page."""
    page = opened.page
    assert "4 cases" in page.title()
    page.evaluate("document.getElementById('open-all').click()")
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(widths) >= 7
    assert min(widths) > 0


def test_its_numbers_are_those_of_the_results(opened: Opened, run: Path):
    """As the browser reads them, not as the file has them."""
    headings = opened.page.locator("#case-list thead th").all_inner_texts()
    l_inf = headings.index("L-inf") + 1
    for outcome in read_results(run).outcomes:
        if not outcome.outputs:
            continue
        row = opened.page.locator("#case-list tr", has_text=outcome.case)
        cell = row.locator(f":nth-child({l_inf})").first
        shown = cell.evaluate("(cell) => Number(cell.dataset.number)")
        assert shown == outcome.outputs["image"].l_inf


def test_a_click_on_a_heading_sorts_by_numbers(opened: Opened):
    """Ascending, then descending; what has no number stands at the end of the former."""
    heading = opened.page.locator("#case-list thead th", has_text="L-inf")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert listed(opened.page) == ["same", "nearly", "moved", "broken"]
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert [each for each in listed(opened.page) if each != "broken"] == ["moved", "nearly", "same"]


def test_words_and_verdicts_filter_the_table_and_the_details(opened: Opened):
    """And the page says how many are left."""
    page = opened.page
    page.fill("#filter-words", "MOV")
    assert listed(page) == ["moved"]
    assert page.locator("details.case:visible").count() == 1
    assert page.inner_text("#filter-count") == "1 case shown"
    page.fill("#filter-words", "")
    page.select_option("#filter-verdict", "drifted")
    assert sorted(listed(page)) == ["moved", "nearly"]


def test_the_slider_lays_the_baseline_over_this_run(opened: Opened):
    """By keyboard too."""
    pictures = opened.page.locator(".pictures").first
    slider = pictures.locator(".slider")
    slider.focus()
    for _ in range(30):
        opened.page.keyboard.press("ArrowRight")
    canvas = pictures.locator(".pane").nth(1).locator(".canvas")
    assert canvas.evaluate("(each) => each.style.getPropertyValue('--at')") == "30%"
    clip = canvas.locator("img.over").evaluate("(each) => getComputedStyle(each).clipPath")
    assert clip.replace("0px", "0") == "inset(0 0 0 30%)"
    sources = canvas.locator("img").evaluate_all("(all) => all.map((each) => each.src)")
    panes = pictures.locator(".pane")
    assert sources[0] == panes.nth(0).locator("img").get_attribute("src")
    assert sources[0] != sources[1]


def test_the_zoom_enlarges_all_panes_and_finds_the_largest_difference(opened: Opened):
    """The marked place comes into view in every pane."""
    pictures = opened.page.locator(".pictures").first
    image = pictures.locator("img").first
    before = image.bounding_box()["width"]
    pictures.locator(".find").click()
    assert image.bounding_box()["width"] == pytest.approx(4 * before)
    for index in range(3):
        view = pictures.locator(".view").nth(index)
        inside, mark = view.bounding_box(), view.locator(".mark").bounding_box()
        assert inside["x"] <= mark["x"] <= inside["x"] + inside["width"]
        assert inside["y"] <= mark["y"] <= inside["y"] + inside["height"]


def test_the_switch_changes_between_dark_and_light(opened: Opened):
    """Beside the preference of the system."""
    colour = "getComputedStyle(document.body).backgroundColor"
    light = opened.page.evaluate(colour)
    opened.page.click("#theme")
    dark = opened.page.evaluate(colour)
    assert light == "rgb(255, 255, 255)"
    assert dark != light


def test_a_link_opens_the_case_that_it_leads_to(opened: Opened):
    """A case that passes is folded."""
    details = opened.page.locator("details.case", has_text="same[")
    assert details.get_attribute("open") is None
    opened.page.locator("#case-list a", has_text="same[").click()
    opened.page.wait_for_function("document.querySelector(location.hash).open")


def test_without_javascript_the_substance_is_there(browser: Any, run: Path):
    """Verdicts, numbers and pictures; what needs a script is not shown."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((run / "report.html").as_uri())
    assert page.locator(".banner:visible").count() == 1
    assert page.locator("#case-list tbody tr:visible").count() == 4
    assert page.locator(".pane img:visible").count() >= 6
    assert page.locator(".js-only:visible").count() == 0
    context.close()
