"""Simple charts as SVG: lines, points, bars, histograms, and matrices of counts.

What is drawn came from anybody: numbers are checked, and texts are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mlflow_wandb_plugin.targets.mlflow.files.pages import text

Point: TypeAlias = tuple[float, float]

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 60, 620, 16, 280
COLOURS = ("#2374bb", "#d1495b", "#3a7d44", "#8a5a9e", "#c77d0a", "#12807d", "#7a6a58", "#4d5a66")
MOST_POINTS = 2_000
"""Points of one line that are drawn."""
MOST_SERIES = 20
MOST_BARS = 100
MOST_CLASSES = 60
BINS = 20


def number(value: Any) -> float | None:
    """Return a finite number; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None  # an integer beyond any double


def lines(series: Mapping[str, Sequence[Point]], names: Sequence[str] = ("", "")) -> str:
    """Draw lines, given as points by name; ``names`` are those of the axes."""
    return _plane(series, names, joined=True)


def points(series: Mapping[str, Sequence[Point]], names: Sequence[str] = ("", "")) -> str:
    """Draw points, as `lines`."""
    return _plane(series, names, joined=False)


def bars(values: Sequence[tuple[str, float]]) -> str:
    """Draw a bar for each label."""
    shown = values[:MOST_BARS]
    low, high = min([0.0, *(v for _, v in shown)]), max([0.0, *(v for _, v in shown)])
    each = (RIGHT - LEFT) / max(1, len(shown))
    parts = []
    for place, (label, value) in enumerate(shown):
        top, base = sorted((_place(value, low, high), _place(0.0, low, high)))
        left = LEFT + place * each
        parts.append(
            f'<rect x="{left + each / 10:.1f}" y="{top:.1f}" width="{each * 0.8:.1f}" '
            f'height="{base - top:.1f}" fill="{COLOURS[0]}">'
            f"<title>{text(label)}: {value:.6g}</title></rect>"
            f'<text x="{left + each / 2:.1f}" y="{BOTTOM + 14}" font-size="10" '
            f'text-anchor="middle">{text(label[:12])}</text>'
        )
    return _svg("".join(parts) + _axis(low, high)) + _rest(len(values), len(shown), "bars")


def histogram(values: Sequence[float]) -> str:
    """Draw how often values are in each of `BINS` ranges."""
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    width = (high - low) / BINS
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - low) / width)) if width > 0 else 0] += 1
    return bars([(f"{low + i * width:.4g}", float(n)) for i, n in enumerate(counts)])


def matrix(counts: Mapping[tuple[str, str], float]) -> str:
    """Draw a matrix of counts by (actual, predicted), such as a confusion matrix, as a table."""
    rows = list(dict.fromkeys(actual for actual, _ in counts))[:MOST_CLASSES]
    columns = list(dict.fromkeys(predicted for _, predicted in counts))[:MOST_CLASSES]
    most = max([1.0, *counts.values()])
    head = "".join(f"<th>{text(name)}</th>" for name in columns)
    body = []
    for row in rows:
        cells = [counts.get((row, column), 0.0) for column in columns]
        drawn = "".join(
            f'<td style="background:rgba(35,116,187,{max(0.0, cell) / most * 0.7:.2f})">'
            f"{cell:.6g}</td>"
            for cell in cells
        )
        body.append(f"<tr><th>{text(row)}</th>{drawn}</tr>")
    corner = "<th>actual \\ predicted</th>"
    return f"<table><tr>{corner}{head}</tr>{''.join(body)}</table>"


def _plane(series: Mapping[str, Sequence[Point]], names: Sequence[str], joined: bool) -> str:
    shown = dict(list(series.items())[:MOST_SERIES])
    xs = [x for one in shown.values() for x, _ in one] or [0.0]
    ys = [y for one in shown.values() for _, y in one] or [0.0]
    low, high = min(ys), max(ys)
    parts = [_axis(low, high, min(xs), max(xs), names)]
    for place, (name, all_of_it) in enumerate(shown.items()):
        colour = COLOURS[place % len(COLOURS)]
        step = max(1, math.ceil(len(all_of_it) / MOST_POINTS))
        spots = [(_across(x, min(xs), max(xs)), _place(y, low, high)) for x, y in all_of_it[::step]]
        if joined:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        else:
            dots = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in spots)
            parts.append(f'<g fill="{colour}">{"".join(dots)}</g>')
        if name:
            parts.append(
                f'<text x="{LEFT + 8}" y="{TOP + 14 * (place + 1)}" font-size="12" '
                f'fill="{colour}">{text(name[:60])}</text>'
            )
    return _svg("".join(parts)) + _rest(len(series), len(shown), "lines")


def _axis(
    low: float, high: float, first: float | None = None, last: float = 0.0,
    names: Sequence[str] = ("", ""),
) -> str:  # fmt: skip
    """The axes, with the numbers at their ends; ``first`` and ``last`` are of the lower axis."""
    marks = [
        f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#5f7281"/>',
        _mark(LEFT - 4, TOP + 8, "end", f"{high:.6g}"),
        _mark(LEFT - 4, BOTTOM, "end", f"{low:.6g}"),
        _mark(LEFT, TOP - 4, "start", names[1]),
        _mark((LEFT + RIGHT) / 2, BOTTOM + 30, "middle", names[0]),
    ]
    if first is not None:
        marks.append(_mark(LEFT, BOTTOM + 14, "start", f"{first:.6g}"))
        marks.append(_mark(RIGHT, BOTTOM + 14, "end", f"{last:.6g}"))
    return "".join(marks)


def _mark(x: float, y: float, anchor: str, label: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="11" text-anchor="{anchor}">{text(label)}</text>'


def _place(value: float, low: float, high: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * _share(value, low, high)


def _across(value: float, low: float, high: float) -> float:
    return LEFT + (RIGHT - LEFT) * _share(value, low, high)


def _share(value: float, low: float, high: float) -> float:
    """Where ``value`` is between two bounds, from 0 to 1; the middle where they are one."""
    if high <= low:
        return 0.5
    # Halves, because the difference of two doubles may be infinite.
    return (value / 2 - low / 2) / (high / 2 - low / 2)


def _svg(inside: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">{inside}</svg>'


def _rest(all_of_them: int, shown: int, what: str) -> str:
    if all_of_them == shown:
        return ""
    return f"<p>{shown:,} of {all_of_them:,} {what} are drawn.</p>"
