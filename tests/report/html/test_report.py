"""The HTML report of runs: its structure, its escaping, and that its numbers are those of the run.

The file is parsed as HTML; `test_browser.py` opens it in a browser.
"""

from __future__ import annotations

import base64
import io
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import builders
import numpy as np
import pytest
from examples import DRIFT, DRIFTED, ERROR, OUTCOMES
from made_runs import Made, made_run, run_in

from harness.records import (
    AccuracyVerdict,
    ContractKind,
    ContractOutcome,
    ContractState,
    Outcome,
    Stage,
    StageAccuracy,
)
from harness.report import wording
from harness.report.html.report import html_report, write_report
from harness.report.html.tables import SIGNS
from harness.store.run_folder import explanation_file, read_results, write_results

VOID = {"meta", "link", "img", "input", "br"}
HOSTILE = "<script>alert(1)</script><b>&\"'\x1b[31m\u202e{{ 7 * 7 }}</style>"
SHOWN_HOSTILE = "<script>alert(1)</script><b>&\"'\\x1b[31m\\u202e{{ 7 * 7 }}</style>"


class Element:
    """An element of a page: its tag, its attributes, what is inside."""

    def __init__(self, tag: str, attributes: dict[str, str | None], parent: Element | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.contents: list[Element | str] = []

    @property
    def children(self) -> list[Element]:
        """The elements directly inside."""
        return [each for each in self.contents if isinstance(each, Element)]

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Return every element inside of this tag and with these attributes."""
        found = []
        for child in self.children:
            names = {name.rstrip("_"): value for name, value in attributes.items()}
            fits = all(child.attributes.get(name) == value for name, value in names.items())
            if (not tag or child.tag == tag) and fits:
                found.append(child)
            found += child.all(tag, **attributes)
        return found

    @property
    def whole_text(self) -> str:
        """All text inside."""
        parts = [each.whole_text if isinstance(each, Element) else each for each in self.contents]
        return "".join(parts)

    @property
    def text(self) -> str:
        """All text inside, the blanks at its ends left out."""
        return self.whole_text.strip()


class Reader(HTMLParser):
    """Reads a page into elements, and fails where a tag is not closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Element("", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), self.at)
        self.at.contents.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.at.contents.append(Element(tag, dict(attrs), self.at))

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.contents.append(data)


def parsed(text: str) -> Element:
    reader = Reader()
    reader.feed(text)
    assert reader.at is reader.root, f"<{reader.at.tag}> is not closed"
    return reader.root


def of_outcomes(folder: Path, outcomes: list[Outcome]) -> Element:
    write_results(folder, outcomes, builders.environment())
    return parsed(html_report([run_in(folder)]))


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A run of a moved image, moved latents, the same image, and one without a baseline."""
    image = np.linspace(0, 1, 3 * 24 * 16, dtype=np.float32).reshape(1, 24, 16, 3)
    moved = image.copy()
    moved[0, 20, 5] += 0.25
    latents = np.linspace(-3, 3, 4 * 8 * 8, dtype=np.float32).reshape(1, 4, 8, 8)
    cases = [
        Made("moved", {"image": moved}, {"image": image}),
        Made("latents", {"image": latents * 2}, {"image": latents}, "latent"),
        Made("same", {"image": image}, {"image": image}),
        Made("new", {"image": image}),
    ]
    return made_run(tmp_path / "run", cases)


def details_of(page: Element) -> dict[str, Element]:
    return {each.all("h3")[0].text: each for each in page.all("details", class_="case")}


def test_the_page_has_landmarks_headings_in_order_and_named_pictures(media: Path):
    """For a reader who does not see it."""
    page = parsed(html_report([run_in(media)]))
    assert page.all("html")[0].attributes["lang"] == "en"
    for landmark in ("header", "main", "footer"):
        assert len(page.all(landmark)) == 1
    headings = [each for each in page.all() if re.fullmatch("h[1-6]", each.tag)]
    levels = [int(each.tag[1]) for each in headings]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all("alt" in each.attributes for each in page.all("img"))
    assert all(each.attributes.get("aria-label") for each in page.all("svg"))
    for section in page.all("section"):
        assert page.all(id=section.attributes["aria-labelledby"] or "")
    for table in page.all("table"):
        assert table.all("caption")[0].text
        assert all(each.attributes.get("scope") for each in table.all("th"))
    for control in [*page.all("input"), *page.all("select")]:
        assert control.parent is not None
        assert control.parent.tag == "label"


def test_the_page_loads_nothing_and_its_anchors_are_there(media: Path):
    """It opens from a disk without a network, and no identifier is there twice."""
    text = html_report([run_in(media)])
    page = parsed(text)
    for each in page.all():
        for name in ("src", "href"):
            target = each.attributes.get(name) or "data:"
            assert target.startswith(("data:", "#")), target
    without_svg = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert not re.search(r"https?://|//\w+\.\w", re.sub(r"<script>.*?</script>", "", without_svg))
    identifiers = [each.attributes["id"] for each in page.all() if "id" in each.attributes]
    outside_svg = [each for each in identifiers if f'id="{each}"' in without_svg]
    assert len(outside_svg) == len(set(outside_svg))
    links = [each.attributes["href"] or "" for each in page.all("a")]
    assert {link[1:] for link in links} <= set(identifiers)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in (policy.attributes["content"] or "")


def test_the_summary_comes_first_with_what_was_not_verified(tmp_path: Path):
    """The verdict of the run, the counts, and every reason why something was not checked."""
    page = of_outcomes(tmp_path, OUTCOMES)
    first = page.all("section")[0]
    assert "fails" in first.text
    assert wording.summary(OUTCOMES) in first.text
    counts = {row.all("th")[0].text: row.all("td")[0].text for row in first.all("tr")[1:]}
    for verdict in {outcome.verdict for outcome in OUTCOMES}:
        expected = str(sum(each.verdict is verdict for each in OUTCOMES))
        assert counts[f"{SIGNS[verdict]} {verdict}"] == expected
    assert "no CUDA device: x[cuda-float32], y[cuda-float32]" in first.text


def test_variants_have_a_table_that_leads_to_their_cases(tmp_path: Path):
    """Each with its contract, its state, its drift, its accuracy, and what it costs."""
    held = ContractOutcome(
        ContractKind.IDENTICAL,
        "identical",
        "digits[cpu-float32]",
        ContractState.BROKEN,
        "other bits",
        outputs={"image": DRIFT},
        accuracy=(StageAccuracy(Stage("unet", 0), "sample", AccuracyVerdict.WORSE),),
        cost=builders.cost(1.5, "unknown"),
        peak_bytes_expected=1 << 20,
    )
    base = builders.outcome("identical", name="digits")
    variant = replace(base, case="digits[cpu-float32,sliced]", contract=held)
    page = of_outcomes(tmp_path, [base, variant])
    (section,) = page.all("section", **{"aria-labelledby": "variants"})
    (row,) = section.all("tr")[1:]
    cells = {
        heading.text: cell.text
        for heading, cell in zip(section.all("th", scope="col"), row.children, strict=True)
    }
    assert cells["variant"] == "digits[cpu-float32,sliced]"
    assert (cells["against"], cells["contract"]) == ("cpu-float32", "identical")
    assert cells["state"].endswith("broken")
    assert (cells["rel L2"], cells["accuracy"]) == (f"{DRIFT.rel_l2:.2e}", "worse")
    assert (cells["seconds"], cells["ratio"]) == ("1.500", "unknown")
    (link,) = row.all("a")
    (details,) = page.all(id=(link.attributes["href"] or "")[1:])
    assert "digits[cpu-float32,sliced]" in details.text
    assert "digits[cpu-float32,sliced]" in section.all("li")[0].text
    without = of_outcomes(tmp_path, [base])
    assert not without.all("section", **{"aria-labelledby": "variants"})


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [(("identical", "within"), "passes"), (("unverified",), "nothing verified")],
)
def test_a_run_that_passes_says_so_and_one_that_verified_nothing_does_not(
    tmp_path: Path, verdicts: tuple[str, ...], word: str
):
    """As the exit code does."""
    outcomes = [builders.outcome(verdict, name=verdict) for verdict in verdicts]
    assert word in of_outcomes(tmp_path, outcomes).all("div")[2].text


def numbers_of(outcome: Outcome) -> Iterator[float]:
    for drift in outcome.outputs.values():
        yield from (drift.l_inf, drift.rel_l2, drift.abs_sum, drift.abs_sum_expected)
        yield from (drift.worst_actual, drift.worst_expected, drift.differing)
    for check in outcome.checks:
        yield from (check.value, check.bound, check.margin)
    for each in (*outcome.free, *outcome.local):
        yield from (each.l_inf, each.rel_l2)
    for appearance in outcome.appearance:
        if appearance.pixels is not None:
            yield from (appearance.pixels.changed_percent, appearance.pixels.largest)
        if appearance.signal_to_noise is not None:
            yield appearance.signal_to_noise


def test_its_numbers_are_those_of_the_results_in_full_precision(media: Path):
    """Every drift, bound, margin and figure of appearance, case by case."""
    details = details_of(parsed(html_report([run_in(media)])))
    outcomes = read_results(media).outcomes
    assert set(details) == {outcome.case for outcome in outcomes}
    for outcome in outcomes:
        cells = details[outcome.case].all("td", class_="number")
        shown = {float(each.attributes["data-number"] or "") for each in cells}
        stated = [number for number in numbers_of(outcome) if not math.isnan(number)]
        assert stated or not outcome.outputs
        assert {float(number) for number in stated} <= shown
        assert outcome.message in details[outcome.case].text


def test_the_list_of_cases_holds_every_row_of_the_terminal(media: Path):
    """In the same words."""
    page = parsed(html_report([run_in(media)]))
    (listed,) = page.all("table", id="case-list")
    rows = {row.all("a")[0].text: row for row in listed.all("tbody")[0].all("tr")}
    for outcome in read_results(media).outcomes:
        cells = [each.text for each in rows[outcome.case].all("td")]
        row = list(wording.row(outcome)[1:])
        row[0] = f"{SIGNS[outcome.verdict]} {outcome.verdict}"
        assert cells == row


def test_pictures_are_there_for_what_moved_and_decode(media: Path):
    """Three of a moved output with the place marked, one of a new one, a thumbnail of a pass."""
    image_module = pytest.importorskip("PIL.Image")
    details = details_of(parsed(html_report([run_in(media)])))
    count = {case.split("[")[0]: len(each.all("img")) for case, each in details.items()}
    assert count == {"moved": count["moved"], "latents": 3, "same": 1, "new": 1}
    assert count["moved"] in (3, 4)  # the fourth is FLIP's, of the extra `images`
    for case in details.values():
        for each in case.all("img"):
            content = base64.b64decode((each.attributes["src"] or "").partition(",")[2])
            with image_module.open(io.BytesIO(content)) as found:
                found.load()
    (mark, *_) = details["moved[cpu-float32]"].all("span", class_="mark")
    left, top = re.findall(r"[\d.]+", mark.attributes["style"] or "")
    assert (float(left), float(top)) == pytest.approx((100 * 5.5 / 16, 100 * 20.5 / 24), abs=1e-3)


def test_markup_and_control_characters_are_shown_as_text(tmp_path: Path):
    """In a case, a message, a log, a path, a tag, a version, an output, an explanation."""
    hostile = replace(
        DRIFTED,
        case=HOSTILE,
        message=HOSTILE,
        log=HOSTILE,
        path=HOSTILE,
        tags=(HOSTILE,),
        outputs={HOSTILE: DRIFTED.outputs["image"]},
    )
    run = tmp_path / "<b>run"
    environment = builders.environment(
        versions={HOSTILE: HOSTILE}, hardware={"cpu": HOSTILE, "cores": 1}
    )
    write_results(run, [hostile, replace(ERROR, message="a\ud800b")], environment)
    write_report([run_in(run)], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = parsed(text)
    assert not page.all("b")
    assert [each.tag for each in page.all("script")] == ["script"]
    assert len(page.all("style")) == 1
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "49" not in page.all("title")[0].text
    details = details_of(page)
    assert SHOWN_HOSTILE in details
    assert details[SHOWN_HOSTILE].text.count(SHOWN_HOSTILE) >= 5
    assert "a\\ud800b" in page.text


def test_failures_are_grouped_by_cause_before_the_cases(tmp_path: Path):
    """One paragraph for all cases of one cause, with a link to each."""
    many = [replace(DRIFTED, case=f"s{n}[cpu-float32]", scenario=f"s{n}") for n in range(5)]
    page = of_outcomes(tmp_path, [*many, ERROR])
    sections = [each.attributes["aria-labelledby"] for each in page.all("section")]
    assert sections.index("causes") < sections.index("cases")
    causes = page.all("section")[sections.index("causes")]
    assert causes.all("h3")[0].text.startswith("5 drifted, ")
    assert [each.text for each in causes.all("ul")[0].all("a")] == [each.case for each in many]


def test_runs_of_several_machines_are_merged_into_one_matrix(tmp_path: Path):
    """A column for each run, its own verdict in each cell, and every case on its own."""
    runs = []
    for letter, verdict in (("a", "identical"), ("b", "within"), ("c", "drifted")):
        outcome = builders.outcome(verdict, device_kind=f"gpu-{letter}")
        runs.append(tmp_path / letter)
        hardware = {"cpu": "Xeon", "cores": 2, "gpu": {"name": f"GPU {letter}"}}
        write_results(runs[-1], [outcome], builders.environment(letter, hardware=hardware))
    page = parsed(html_report([run_in(run) for run in runs]))
    section = next(
        each for each in page.all("section") if each.attributes["aria-labelledby"] == "matrix"
    )
    headings = [each.text for each in section.all("thead")[0].all("th")]
    assert [heading.split("\n") for heading in headings[1:]] == [
        [f"GPU {letter}", f"cpu-{letter}", "cpu-float32", f"run {letter}"] for letter in "abc"
    ]
    (row,) = section.all("tbody")[0].all("tr")
    assert [each.text for each in row.all("td")] == [
        "= identical", "\N{ALMOST EQUAL TO} within", "\N{MULTIPLICATION SIGN} drifted",
    ]  # fmt: skip
    assert len(page.all("details", class_="case")) == 3


def test_what_is_gone_or_replaced_is_said_and_the_report_is_written(media: Path):
    """The recording of one case, the baseline of another, and the arrays of a third."""
    recordings = media / "recordings"
    shutil.rmtree(recordings / "moved")
    (path,) = (media.parent / "baselines" / "latents").rglob("*.json")
    path.unlink()
    details = details_of(parsed(html_report([run_in(media)])))
    assert "The recording is gone" in details["moved[cpu-float32]"].text
    assert "The baseline is gone" in details["latents[cpu-float32]"].text
    assert len(details["latents[cpu-float32]"].all("img")) == 1
    (tensors,) = (recordings / "same").rglob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-4] + b"hurt")
    details = details_of(parsed(html_report([run_in(media)])))
    assert "is damaged" in details["same[cpu-float32]"].text


def test_arrays_of_a_later_recording_are_not_shown_for_this_run(media: Path):
    """A run into the same folder replaced them, or the baseline was accepted anew."""
    (baseline,) = (media.parent / "baselines" / "moved").rglob("*.json")
    again = np.zeros((1, 24, 16, 3), np.float32)
    made_run(media.parent / "later", [Made("moved", {"image": again}, {"image": again})])
    assert baseline.is_file()
    text = details_of(parsed(html_report([run_in(media)])))["moved[cpu-float32]"].text
    assert "The outputs of the baseline were replaced after this run" in text


def test_a_recording_outside_of_the_run_is_not_read(media: Path, tmp_path: Path):
    """The results of another machine may name any path."""
    results = read_results(media)
    outcomes = [replace(each, recording="../elsewhere") for each in results.outcomes]
    write_results(tmp_path / "other", outcomes, results.environment)
    page = parsed(html_report([run_in(tmp_path / "other")]))
    assert "a recording outside of the run's folder" in page.text
    assert not page.all("img")


def test_a_report_that_is_full_says_how_many_cases_have_no_pictures(media: Path):
    """Those that moved farthest come first."""
    page = parsed(html_report([run_in(media)], most_pictures=1))
    assert "2 cases are shown without pictures" in page.all("section")[0].text


def test_what_explain_said_is_shown(media: Path):
    """It is kept in the run's folder."""
    path = explanation_file(media, "moved[cpu-float32]")
    path.parent.mkdir()
    path.write_text("moved[cpu-float32]\n  stage:    unet#0", encoding="utf-8")
    details = details_of(parsed(html_report([run_in(media)])))
    assert "stage:    unet#0" in details["moved[cpu-float32]"].text
    assert "harness explain" in details["moved[cpu-float32]"].text


def test_equal_runs_give_equal_bytes_and_nothing_is_written_beside(media: Path):
    """The report can be compared, and neither the run nor the store is touched."""
    before = sorted(path for path in media.parent.rglob("*"))
    assert html_report([run_in(media)]) == html_report([run_in(media)])
    assert sorted(path for path in media.parent.rglob("*")) == before
