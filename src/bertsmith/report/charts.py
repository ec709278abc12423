"""Line charts as inline SVG. Colours come from the page's style sheet, so that they follow light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Literal
from xml.etree.ElementTree import Element

from bertsmith.report.html import add
from bertsmith.report.steps import Point

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 10, 40
"""Units of the drawing, about pixels on a phone; it grows with the page."""

TICKS = 5


@dataclass(frozen=True, slots=True)
class Series:
    """What is drawn in one colour."""

    name: str
    """For the legend; none when empty."""

    points: list[Point]
    """With rising x. Of a level, one, whose x means nothing."""

    kind: Literal["line", "faint", "measured", "level"] = "line"
    """A line; one in the background; one with a dot at each point; a dashed line across. One point alone is a dot."""

    colour: int = 0
    """Number of a colour of the style sheet, 0 to 7."""


def add_chart(
    parent: Element,
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    from_zero: bool = False,
    percent: bool = False,
) -> None:
    """Draw a chart with its legend; nothing where there is no point.

    Args:
        parent: Where to.
        title: What is drawn, with its unit.
        series: Drawn in their order.
        x_label: What is counted along x, from 0.
        from_zero: The y axis begins at 0.
        percent: Values are shares.
    """
    drawn = [each for each in series if each.points]
    if not any(each.kind != "level" for each in drawn):
        return
    figure = add(parent, "figure")
    add(figure, "figcaption", title)
    svg = add(figure, "svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    ys = [y for each in drawn for _, y in each.points]
    x_ticks = ticks(0, max(x for each in drawn if each.kind != "level" for x, _ in each.points), whole=True)
    y_ticks = ticks(0 if from_zero else min(ys), max(ys))
    frame = _Frame(max(x_ticks[-1], 1), y_ticks[0], y_ticks[-1])
    _add_axes(svg, frame, (x_ticks, y_ticks), x_label, percent)
    for each in drawn:
        _add_series(svg, frame, each)
    legend = add(figure, "ul", class_="legend")
    for each in drawn:
        if each.name:
            add(add(legend, "li", class_=f"c{each.colour} {each.kind}"), "span", each.name)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Values to places in the drawing."""

    x_end: float
    y_start: float
    y_end: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_end

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.y_start) / (self.y_end - self.y_start)


def _add_axes(svg: Element, frame: _Frame, both: tuple[list[float], list[float]], x_label: str, percent: bool) -> None:
    x_ticks, y_ticks = both
    for value, text in zip(y_ticks, labels(y_ticks, percent=percent), strict=True):
        y = f"{frame.y(value):.1f}"
        add(svg, "line", x1=str(LEFT), x2=str(WIDTH - RIGHT), y1=y, y2=y, class_="grid")
        add(svg, "text", text, x=str(LEFT - 6), y=y, text_anchor="end", dominant_baseline="middle")
    for value, text in zip(x_ticks, labels(x_ticks), strict=True):
        add(svg, "text", text, x=f"{frame.x(value):.1f}", y=str(HEIGHT - BOTTOM + 15), text_anchor="middle")
    add(svg, "text", x_label, x=str((WIDTH + LEFT) // 2), y=str(HEIGHT - 4), text_anchor="middle", class_="label")


def _add_series(svg: Element, frame: _Frame, series: Series) -> None:
    group = add(svg, "g", class_=f"c{series.colour} {series.kind}")
    if series.kind == "level":
        level = f"{frame.y(series.points[0][1]):.1f}"
        add(group, "line", x1=str(LEFT), x2=str(WIDTH - RIGHT), y1=level, y2=level)
        return
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    add(group, "polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places))
    has_dots = series.kind == "measured" or len(places) == 1  # a line of one point could not be seen
    for (x, y), point in zip(places, series.points, strict=True) if has_dots else ():
        dot = add(group, "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3")
        add(dot, "title", f"{short(point[0])}: {point[1]:.4g}")


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round values at equal distances that enclose an interval, about `TICKS` of them."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # equal, but for rounding
        high = low + (abs(low) or 1.0)
    rough = (high - low) / TICKS
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    step = max(1.0, round(step)) if whole else step
    return [number * step for number in range(floor(low / step + 1e-9), ceil(high / step - 1e-9) + 1)]


def labels(values: Sequence[float], *, percent: bool = False) -> list[str]:
    """Ticks as text, with as many digits as their distance needs."""
    digits = floor(log10(max(map(abs, values)))) - floor(log10(values[1] - values[0])) + 2
    if percent:
        return [f"{100 * value:.{max(3, digits)}g}%" for value in values]
    return [short(value, max(3, digits)) for value in values]


def short(value: float, digits: int = 3) -> str:
    """A number with few digits: 1.5M, 12k, 0.25, 3e-5."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.{max(4, digits)}g}{letter}"
    return f"{value:.{digits}g}"
