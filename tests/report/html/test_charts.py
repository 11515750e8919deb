"""Charts as elements of a page: well-formed, named, without fixed colours, equal for equal data."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest

from harness.report.html.charts import Chart, Mark, Series, draw

SVG = "{http://www.w3.org/2000/svg}"
FREE = Series("free", (0, 1, 2), (1e-7, 1e-6, 1e-5))


def chart(*series: Series, **changes) -> Chart:
    return Chart("Drift over steps", series, "stage", "relative L2", **changes)


def texts(drawn: str) -> list[str]:
    return ["".join(each.itertext()) for each in ET.fromstring(drawn).iter(f"{SVG}text")]  # noqa: S314


def test_a_chart_is_a_named_element_that_takes_its_colours_from_the_page():
    """A screen reader reads its title, and one drawing serves the dark page and the light one."""
    bound = Series("bound", (0, 2), (1e-4, 1e-4), is_bound=True)
    drawn = draw(chart(FREE, bound, x_names=("a", "b", "c"), marks=[Mark(1, "torch 2.14")]))
    root = ET.fromstring(drawn)  # noqa: S314 (our own output)
    assert root.tag == f"{SVG}svg"
    assert (root.get("role"), root.get("aria-label")) == ("img", "Drift over steps")
    assert {"var(--ink)", "var(--line)", "var(--series-1)", "var(--series-2)"} <= {
        word for word in drawn.replace(";", " ").replace('"', " ").split() if "var(" in word
    }
    assert "#0103" not in drawn
    assert "<style" not in drawn
    assert "<metadata" not in drawn
    assert {"free", "bound", "a", "b", "c", "torch 2.14", "stage", "relative L2"} <= set(
        texts(drawn)
    )


def test_equal_data_give_equal_bytes():
    """No identifier or date of the moment is inside."""
    assert draw(chart(FREE)) == draw(chart(FREE))


def test_names_are_texts_whatever_they_hold():
    """Neither markup nor what matplotlib takes for a formula."""
    hostile = "<script>$x_1$ & \"'"
    drawn = draw(chart(Series(hostile, (0, 1), (1.0, 2.0)), x_names=(hostile, "b")))
    assert "<script>" not in drawn
    assert texts(drawn).count(hostile) == 2


@pytest.mark.parametrize("values", [(0.0, 0.0), (math.nan, math.nan), (0.0, 1e-300), ()])
def test_values_that_a_logarithmic_axis_cannot_show_are_no_error(values: tuple[float, ...]):
    """Zero stands at the lower edge, NaN leaves a gap, and a chart may be empty."""
    assert draw(chart(Series("free", range(len(values)), values))).startswith("<svg ")
