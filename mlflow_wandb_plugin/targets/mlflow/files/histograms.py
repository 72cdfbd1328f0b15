"""Histograms by step, which `wandb.watch` logs of gradients, as pages for MLflow's UI.

A run may have a histogram for each of a hundred layers at each of ten thousand steps. So each key
has one page, with a slider over a bounded number of its steps; all values are in
``wandb/history.jsonl``. A page is made of that document's lines, in their order, so that a run that
is written again has the same pages.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from mlflow_wandb_plugin.core.model import RowObjects
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.targets.mlflow.files.pages import page, text
from mlflow_wandb_plugin.targets.mlflow.files.samples import Samples
from mlflow_wandb_plugin.targets.mlflow.files.uploads import Uploads

FOLDER = "histograms"
TYPE = "histogram"
MOST_STEPS = 128
"""Histograms of one key that are shown."""
MOST_KEYS = 500
"""Pages of a run."""
MOST_BINS = 1024
DIGITS = 6
"""Significant digits of what is shown."""


class Shown(NamedTuple):
    """One histogram: between each two of ``edges`` as many values as ``counts`` says."""

    step: int
    edges: Sequence[float]
    counts: Sequence[float]


class Histograms:
    """Collects the histograms of one run and uploads their pages."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._rewrites: Counter[str] = uploads.losses.rewrites
        self._samples: dict[str, Samples[Shown]] = {}
        self._changed: set[str] = set()

    def clear(self) -> None:
        """Begin without the histograms of earlier sessions."""
        self._samples.clear()
        self._changed.clear()

    def add_row(self, row: RowObjects) -> None:
        """Take the histograms of a row, each once."""
        for path, value in row.values.items():
            if isinstance(value, Mapping) and value.get("_type") == TYPE:
                self._add(".".join(path), row.step, value)

    def upload(self) -> None:
        """Upload the pages that have changed."""
        changed, self._changed = self._changed, set()
        for key in sorted(changed):
            target = f"{FOLDER}/{safe_path(f'{key}.html')}"
            self._uploads.write_lines(target, [render(key, self._samples[key])])

    def _add(self, key: str, step: int, value: Mapping[str, Any]) -> None:
        shown = read(step, value)
        if shown is None:
            self._rewrites["media_not_shown"] += 1
        elif key in self._samples or len(self._samples) < MOST_KEYS:
            self._samples.setdefault(key, Samples(MOST_STEPS)).add(shown)
            self._changed.add(key)
        else:
            self._rewrites["histogram_not_shown"] += 1


def read(step: int, value: Mapping[str, Any]) -> Shown | None:
    """Read a histogram of a history row, which has the edges of its bins, or the first edge and a
    width (``packedBins``); None if it is damaged or too large."""
    counts, edges, packed = value.get("values"), value.get("bins"), value.get("packedBins")
    if not _numbers(counts) or not 0 < len(counts) <= MOST_BINS:
        return None
    if isinstance(packed, Mapping):
        corner = [packed.get("min"), packed.get("size")]
        if not _numbers(corner):
            return None
        edges = [corner[0] + number * corner[1] for number in range(len(counts) + 1)]
    if not _numbers(edges) or len(edges) != len(counts) + 1:
        return None
    return Shown(step, _shortened(edges), tuple(map(_rounded, counts)))


def render(key: str, samples: Samples[Shown]) -> str:
    """Return the page of one key."""
    shown = samples.all()
    some = "" if len(shown) == samples.number else f"{len(shown):,} of "
    note = f"Histograms of {some}{samples.number:,} steps; wandb/history.jsonl has all of them."
    body = (
        f"<p>{text(note)}</p>"
        '<p><input type="range" id="slider" min="0" value="0"> <output id="step"></output></p>'
        '<svg id="bars" viewBox="0 0 640 260" width="640" role="img"></svg>'
        "<p>All of these steps, from left to right; darker where there are more values.</p>"
        '<canvas id="map" width="640" height="200"></canvas>'
    )
    steps = [{"step": one.step, "edges": one.edges, "counts": one.counts} for one in shown]
    return page(key, body, {"steps": steps}, SCRIPT)


def _numbers(values: Any) -> TypeGuard[Sequence[float]]:
    return isinstance(values, (list, tuple)) and all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and _is_finite(one)
        for one in values
    )


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False  # an integer beyond any double


def _rounded(number: float) -> float:
    return number if isinstance(number, int) else float(f"{number:.{DIGITS}g}")


def _shortened(edges: Sequence[float]) -> Sequence[float]:
    """The first and the last edge of bins of one width; all edges of others."""
    width = (edges[-1] - edges[0]) / (len(edges) - 1)
    even = all(
        abs(edge - edges[0] - number * width) <= abs(width) / 1000
        for number, edge in enumerate(edges)
    )
    return tuple(_rounded(float(edge)) for edge in ((edges[0], edges[-1]) if even else edges))


SCRIPT = """
"use strict";
const steps = JSON.parse(document.getElementById("data").textContent).steps;
const SVG = "http://www.w3.org/2000/svg";
const bars = document.getElementById("bars"), slider = document.getElementById("slider");
function edgesOf(one) {
  if (one.edges.length > 2) return one.edges;
  const [lo, hi] = one.edges, n = one.counts.length;
  return Array.from({length: n + 1}, (_, i) => lo + (hi - lo) * i / n);
}
function add(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  bars.appendChild(node);
  return node;
}
const lo = Math.min(...steps.map(one => one.edges[0]));
const hi = Math.max(...steps.map(one => one.edges[one.edges.length - 1]));
const most = Math.max(...steps.map(one => Math.max(...one.counts)), 1);
const y = value => 200 - 200 * (x(value) - 10) / 620;
const x = value => 10 + 620 * (hi > lo ? (value - lo) / (hi - lo) : 0.5);
function draw(index) {
  const one = steps[index], edges = edgesOf(one);
  bars.replaceChildren();
  one.counts.forEach((count, i) => {
    const height = 220 * count / most, left = x(edges[i]);
    const bar = add("rect", {x: left, y: 230 - height, height: height, fill: "#2374bb",
      width: Math.max(1, x(edges[i + 1]) - left)});
    const title = document.createElementNS(SVG, "title");
    title.textContent = edges[i] + " to " + edges[i + 1] + ": " + count;
    bar.appendChild(title);
  });
  add("line", {x1: 10, x2: 630, y1: 230, y2: 230, stroke: "#5f7281"});
  add("text", {x: 10, y: 250, "font-size": 12}, lo);
  add("text", {x: 630, y: 250, "font-size": 12, "text-anchor": "end"}, hi);
  document.getElementById("step").textContent = "step " + one.step;
}
const map = document.getElementById("map").getContext("2d"), width = 640 / steps.length;
steps.forEach((one, s) => {
  const edges = edgesOf(one), top = Math.max(...one.counts, 1);
  one.counts.forEach((count, i) => {
    const from = y(edges[i]), to = y(edges[i + 1]);
    map.fillStyle = "rgba(35, 116, 187, " + count / top + ")";
    map.fillRect(s * width, to, Math.ceil(width), Math.max(1, from - to));
  });
});
slider.max = steps.length - 1;
slider.value = steps.length - 1;
slider.addEventListener("input", () => draw(Number(slider.value)));
draw(steps.length - 1);
"""
