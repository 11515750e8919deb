"""Draws charts as SVG that stands in a page, follows its colours, and needs no JavaScript.

matplotlib draws them. It is loaded by the first chart, and by nothing else of the harness. The
colours of a chart are those of the page's style sheet (`--ink`, `--line`, `--series-1` and so on),
so that one chart serves the dark and the light page. Series differ in marker and dash too, never in
colour alone.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that matplotlib draws in, and the colours of the style sheet that replace them.
_INK, _LINE = "#010203", "#010204"
_SERIES = ("#010301", "#010302", "#010303", "#010304", "#010305", "#010306")
_STYLED = {_INK: "var(--ink)", _LINE: "var(--line)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES, 1)
}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
_MOST_MARKED = 80  # points of a series; a longer one is a line without markers
_MOST_TICKS = 14  # names along the x-axis
_SMALLEST = 1e-320  # a chart with a logarithmic axis shows nothing below
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "svg.hashsalt": "harness",  # equal charts give equal bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
# Metadata, and a style that would hold for the whole page.
_NOT_DRAWN = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
_UNUSED_ID = re.compile(r'<g id="[^"]*">')
_FONT = re.compile(r"font-family: [^;\"]*;?")
_SIZE = re.compile(r'(<svg [^>]*?)width="[^"]*" height="[^"]*" ')


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: What the legend calls it.
        x: The places of its points.
        y: Their values. NaN leaves a gap. On a logarithmic axis a value of zero is drawn at the
            lower edge.
        is_bound: Whether it is a limit and not a measurement: a thin line without markers.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    is_bound: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line in a chart, such as an upgrade, with its name."""

    x: float
    name: str


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: Read out in place of the drawing, so a whole phrase.
        series: At most six.
        x_label: What the x-axis counts.
        y_label: What the y-axis measures, with its unit.
        log: Whether the y-axis is logarithmic.
        x_names: The names of the places 0, 1, 2 and so on; empty where x is a number. Some are left
            out where they do not fit.
        marks: Vertical lines.
        width: In inches, of which the page makes 96 pixels.
        height: Likewise.
    """

    title: str
    series: Sequence[Series]
    x_label: str
    y_label: str
    log: bool = True
    x_names: Sequence[str] = ()
    marks: Sequence[Mark] = ()
    width: float = 8.0
    height: float = 3.0


def draw(chart: Chart) -> Markup:
    """Return a chart as an `<svg>` element."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):  # type: ignore[arg-type] # its keys differ by release
        figure = Figure(figsize=(chart.width, chart.height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        _draw_series(axes, chart)
        _draw_axes(axes, chart)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _for_a_page(written.getvalue(), chart.title)


def _draw_series(axes: Axes, chart: Chart) -> None:
    floor = _floor(chart) * 1.2  # inside the axis, so that it is seen
    for index, series in enumerate(chart.series):
        values = [floor if chart.log and value <= 0 else value for value in series.y]
        marked = not series.is_bound and len(values) <= _MOST_MARKED
        axes.plot(
            list(series.x),
            values,
            label=_plain(series.name),
            color=_SERIES[index % len(_SERIES)],
            linestyle=_DASHES[index % len(_DASHES)],
            linewidth=1.0 if series.is_bound else 1.6,
            marker=_MARKERS[index % len(_MARKERS)] if marked else "",
            markersize=4,
        )
    for mark in chart.marks:
        axes.axvline(mark.x, color=_INK, linewidth=1.0, linestyle=":")
        axes.annotate(
            _plain(mark.name), (mark.x, 1.0), xycoords=("data", "axes fraction"), fontsize=8
        )


def _draw_axes(axes: Axes, chart: Chart) -> None:
    if chart.log:
        axes.set_yscale("log")
        if any(value <= 0 for series in chart.series for value in series.y):
            axes.set_ylim(bottom=_floor(chart))
    axes.grid(axis="y", linewidth=0.5)
    axes.set_xlabel(_plain(chart.x_label))
    axes.set_ylabel(_plain(chart.y_label))
    if chart.x_names:
        every = math.ceil(len(chart.x_names) / _MOST_TICKS)
        places = range(0, len(chart.x_names), every)
        names = [_plain(chart.x_names[place]) for place in places]
        axes.set_xticks(list(places), names, rotation=30, ha="right")
    if chart.series:
        axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))


def _floor(chart: Chart) -> float:
    """Return where a logarithmic axis shows zero: a tenth of the smallest value."""
    positive = [value for series in chart.series for value in series.y if value > _SMALLEST]
    return min(positive, default=1.0) / 10


def _plain(text: str) -> str:
    """Return a text in which matplotlib finds no formula, which it writes between dollar signs."""
    return text.replace("$", r"\$")


def _for_a_page(drawn: str, title: str) -> Markup:
    """Return what matplotlib drew as an element of a page: named, in its colours and fonts."""
    svg = _NOT_DRAWN.sub("", _PROLOGUE.sub("", drawn, count=1))
    svg = _FONT.sub("", _UNUSED_ID.sub("<g>", svg))
    for colour, styled in _STYLED.items():
        svg = svg.replace(colour, styled)
    svg = _SIZE.sub(r"\1", svg, count=1)
    opening = f'<svg role="img" aria-label="{escape(title)}" class="chart" '
    return Markup(svg.replace("<svg ", opening, 1))  # noqa: S704 (matplotlib escapes its texts)
