"""W&B's custom charts (`wandb.plot`) and Plotly figures, as pages for MLflow's UI.

A custom chart is a table in a row, and the name of a chart definition in the run's config. W&B's
own definitions are drawn in a simple form; of another one, and of what cannot be drawn, the page
has the table. The files and the values are in the run as they were.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import RowObjects, RunInfo
from mlflow_wandb_plugin.mapping import documents, to_mlflow
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.targets.mlflow.client import RefusedError
from mlflow_wandb_plugin.targets.mlflow.files import drawings
from mlflow_wandb_plugin.targets.mlflow.files.drawings import Point, number
from mlflow_wandb_plugin.targets.mlflow.files.pages import page, text
from mlflow_wandb_plugin.targets.mlflow.files.samples import Samples
from mlflow_wandb_plugin.targets.mlflow.files.uploads import Uploads

FOLDER = "charts"
TABLE_TYPE, PLOTLY_TYPE = "table-file", "plotly-file"
MOST_STEPS = 16
"""Steps of one chart that are shown."""
MOST_KEYS = 500
MOST_BYTES = 20_000_000
"""Of the file of one table or figure that is drawn."""
MOST_ROWS, MOST_COLUMNS, CELL = 200, 40, 200
"""Rows, columns and characters of a cell where a table is shown."""


class Charts:
    """Collects the tables and figures of one run's rows, and uploads the pages of its charts."""

    def __init__(self, uploads: Uploads, local_files: Mapping[str, Path]) -> None:
        self._uploads = uploads
        self._local_files = local_files
        self._rewrites: Counter[str] = uploads.losses.rewrites
        self._samples: dict[tuple[str, str], Samples[tuple[int, str]]] = {}

    def clear(self) -> None:
        """Begin without the charts of earlier sessions."""
        self._samples.clear()

    def add_row(self, row: RowObjects) -> None:
        """Take the tables and figures of a row, each once."""
        for key, value in row.values.items():
            if not isinstance(value, Mapping):
                continue
            kind, path = str(value.get("_type")), value.get("path")
            name = kind, ".".join(key)
            if kind not in (TABLE_TYPE, PLOTLY_TYPE) or not isinstance(path, str):
                continue
            if name in self._samples or len(self._samples) < MOST_KEYS:
                self._samples.setdefault(name, Samples(MOST_STEPS)).add((row.step, path))
            else:
                self._rewrites["chart_not_shown"] += 1

    def upload(self, info: RunInfo) -> None:
        """Upload the pages of all charts; call it when the config and all files are there."""
        for key, panel in sorted(_panels(info).items()):
            samples = next(
                (self._samples[TABLE_TYPE, name] for name in panel.table_keys(key)
                 if (TABLE_TYPE, name) in self._samples),
                None,
            )  # fmt: skip
            if samples is not None:
                self._upload(key, panel.title or key, samples, panel.draw)
        for (kind, key), samples in sorted(self._samples.items()):
            if kind == PLOTLY_TYPE:
                self._upload(key, key, samples, draw_figure)

    def _upload(
        self, key: str, title: str, samples: Samples[tuple[int, str]], draw: Callable[[Any], str]
    ) -> None:
        drawn: list[tuple[int, str]] = []
        for step, path in samples.all():
            # Whatever is wrong with a table or figure: its file and its value are written anyway.
            try:
                drawn.append((step, draw(json.loads(self._read(path)))))
            except Exception:
                self._rewrites["media_not_shown"] += 1
        if drawn:
            target = f"{FOLDER}/{safe_path(f'{key}.html')}"
            self._uploads.write_lines(target, [_page(title, drawn, samples.number)])

    def _read(self, path: str) -> str:
        """Read a file of the run; an earlier session has uploaded it if it is not here."""
        local = self._local_files.get(path)
        if local is None:
            return self._uploads.download(f"{documents.FILES_DIR}/{safe_path(path)}")
        if local.stat().st_size > MOST_BYTES:
            raise RefusedError("too large to be drawn", "TOO_LARGE")
        return local.read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Panel:
    """How W&B shows a table as a chart.

    Attributes:
        definition: name of the chart's definition.
        fields: columns of the table by what they are in the chart.
        texts: titles.
    """

    definition: str
    fields: Mapping[str, str]
    texts: Mapping[str, str]
    table_key: str

    @property
    def title(self) -> str:
        return self.texts.get("title", "")

    def table_keys(self, key: str) -> tuple[str, ...]:
        """Keys of rows that may have the table, the best one first."""
        return (self.table_key, f"{key}_table", f"Custom Chart Tables/{key}_table", key)

    def draw(self, table: Any) -> str:
        """Return the chart of a table as HTML; the table where it cannot be drawn."""
        columns = [str(name) for name in table["columns"]]
        rows = [row for row in table["data"] if isinstance(row, list)]
        name = self.definition.rpartition("/")[0] if "/v" in self.definition else self.definition
        draw = _PRESETS.get(name)
        if draw is not None:
            with contextlib.suppress(KeyError, ValueError, IndexError, ZeroDivisionError):
                return draw(self, _Columns(columns, rows))
        return table_html(columns, rows)


class _Columns:
    """The columns of a table by name."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._places = {name: place for place, name in enumerate(columns)}
        self._rows = rows

    def column(self, panel: Panel, field: str) -> list[Any]:
        """The column that is ``field`` in a chart; KeyError if there is none."""
        place = self._places[panel.fields.get(field) or field]
        return [row[place] if place < len(row) else None for row in self._rows]


def _series(panel: Panel, table: _Columns, x: str, y: str, by: str) -> dict[str, list[Point]]:
    """Points by the text of a column, if the table has it."""
    try:
        names = [str(name) for name in table.column(panel, by)]
    except KeyError:
        names = []
    found: dict[str, list[Point]] = {}
    pairs = zip(table.column(panel, x), table.column(panel, y), strict=True)
    for place, pair in enumerate(pairs):
        across, up = number(pair[0]), number(pair[1])
        if across is not None and up is not None:
            found.setdefault(names[place] if names else "", []).append((across, up))
    return found


def _lines(panel: Panel, table: _Columns) -> str:
    series = _series(panel, table, "x", "y", "stroke")
    return drawings.lines(series, (panel.fields.get("x", ""), panel.fields.get("y", "")))


def _line_series(panel: Panel, table: _Columns) -> str:
    series = _series(panel, table, "step", "lineVal", "lineKey")
    return drawings.lines(series, (panel.texts.get("xname", ""), ""))


def _curve(panel: Panel, table: _Columns) -> str:
    names = panel.texts.get("x-axis-title", ""), panel.texts.get("y-axis-title", "")
    return drawings.lines(_series(panel, table, "x", "y", "class"), names)


def _scatter(panel: Panel, table: _Columns) -> str:
    series = _series(panel, table, "x", "y", "")
    return drawings.points(series, (panel.fields.get("x", ""), panel.fields.get("y", "")))


def _bars(panel: Panel, table: _Columns) -> str:
    pairs = zip(table.column(panel, "label"), table.column(panel, "value"), strict=True)
    numbers = [(str(label), number(value)) for label, value in pairs]
    return drawings.bars([(label, value) for label, value in numbers if value is not None])


def _histogram(panel: Panel, table: _Columns) -> str:
    found = [number(value) for value in table.column(panel, "value")]
    return drawings.histogram([value for value in found if value is not None])


def _confusion(panel: Panel, table: _Columns) -> str:
    columns = (table.column(panel, name) for name in ("Actual", "Predicted", "nPredictions"))
    counts = {
        (str(actual), str(predicted)): number(count) or 0.0
        for actual, predicted, count in zip(*columns, strict=True)
    }
    return drawings.matrix(counts)


_PRESETS: Mapping[str, Callable[[Panel, _Columns], str]] = {
    "wandb/line": _lines,
    "wandb/lineseries": _line_series,
    "wandb/area-under-curve": _curve,
    "wandb/scatter": _scatter,
    "wandb/bar": _bars,
    "wandb/histogram": _histogram,
    "wandb/confusion_matrix": _confusion,
}
"""How W&B's own chart definitions are drawn, whichever their version."""


def table_html(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return the first rows of a table as HTML."""
    head = "".join(f"<th>{text(name[:CELL])}</th>" for name in columns[:MOST_COLUMNS])
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row[:MOST_COLUMNS]) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    shown = min(len(rows), MOST_ROWS)
    note = "" if shown == len(rows) else f"<p>{shown:,} of {len(rows):,} rows are shown.</p>"
    return f"<table><tr>{head}</tr>{body}</table>{note}"


def _cell(value: Any) -> str:
    shown = value if isinstance(value, str) else documents.canonical_json(value)
    return text(shown[:CELL])


def draw_figure(figure: Any) -> str:
    """Return a Plotly figure as HTML: each of its traces that has a simple form."""
    parts = [_trace(trace) for trace in figure["data"]]
    drawn = [part for part in parts if part]
    if len(drawn) < len(parts):
        kept = "its file below wandb/files is what was logged"
        drawn.append(
            f"<p>{len(parts) - len(drawn)} of its traces cannot be drawn here: {kept}.</p>"
        )
    return "".join(drawn)


def _trace(trace: Mapping[str, Any]) -> str:
    kind, name = str(trace.get("type") or "scatter"), str(trace.get("name") or "")
    ys = _array(trace.get("y"))
    xs = _array(trace.get("x")) or list(range(len(ys)))
    if kind in ("scatter", "scattergl") and ys:
        pairs = [(number(x), number(y)) for x, y in zip(xs, ys, strict=False)]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        mode = str(trace.get("mode") or "lines")
        return (drawings.lines if "lines" in mode else drawings.points)({name: known})
    if kind == "bar" and ys:
        numbers = [(str(x), number(y)) for x, y in zip(xs, ys, strict=False)]
        return drawings.bars([(x, y) for x, y in numbers if y is not None])
    if kind == "histogram" and xs:
        values = [number(x) for x in xs]
        return drawings.histogram([value for value in values if value is not None])
    if kind == "heatmap" and isinstance(trace.get("z"), list):
        rows = [_array(row) for row in trace["z"]]
        up = ys or list(range(len(rows)))
        across = xs or list(range(max(map(len, rows), default=0)))
        return drawings.matrix({
            (str(label), str(column)): number(value) or 0.0
            for label, row in zip(up, rows, strict=False)
            for column, value in zip(across, row, strict=False)
        })  # fmt: skip
    return ""


def _array(value: Any) -> list[Any]:
    """The values of an array, which Plotly may write as bytes in base64."""
    if isinstance(value, Mapping) and "bdata" in value:
        import numpy as np

        kind = np.dtype(str(value.get("dtype")))
        if kind.kind not in "iuf" or value.get("shape") is not None:
            return []
        return list(np.frombuffer(base64.b64decode(str(value["bdata"])), kind).tolist())
    return list(value) if isinstance(value, list) else []


def _panels(info: RunInfo) -> dict[str, Panel]:
    """The custom charts of a run by key, as its config describes them."""
    internal = info.config.get(to_mlflow.INTERNAL_CONFIG_KEY)
    listed = internal.get("visualize") if isinstance(internal, Mapping) else None
    panels = {}
    for key, found in (listed if isinstance(listed, Mapping) else {}).items():
        config = found.get("panel_config") if isinstance(found, Mapping) else None
        if isinstance(config, Mapping):
            panels[str(key)] = Panel(
                str(config.get("panelDefId") or ""),
                _texts(config.get("fieldSettings")),
                _texts(config.get("stringSettings")),
                _table_key(config.get("userQuery")),
            )
    return panels


def _table_key(query: Any) -> str:
    """The key of the table that a chart's query asks for."""
    with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError):
        for field in query["queryFields"][0]["fields"]:
            for argument in field.get("args", ()):
                if argument.get("name") == "tableKey":
                    return str(argument["value"])
    return ""


def _texts(value: Any) -> Mapping[str, str]:
    known = value.items() if isinstance(value, Mapping) else ()
    return {str(key): one for key, one in known if isinstance(one, str)}


def _page(title: str, drawn: Sequence[tuple[int, str]], number_of_steps: int) -> str:
    some = "" if len(drawn) == number_of_steps else f" {len(drawn)} of {number_of_steps:,} steps."
    slider = '<p><input type="range" id="slider" min="0" value="0"> <output id="step"></output></p>'
    sections = "".join(f"<section>{inside}</section>" for _, inside in drawn)
    note = "Drawn from the run's files below wandb/files." + some
    data = {"steps": [step for step, _ in drawn]}
    return page(title, f"{slider}{sections}<p>{text(note)}</p>", data, SCRIPT)


SCRIPT = """
"use strict";
const steps = JSON.parse(document.getElementById("data").textContent).steps;
const slider = document.getElementById("slider"), parts = document.querySelectorAll("section");
function show(index) {
  parts.forEach((part, place) => { part.hidden = place !== index; });
  document.getElementById("step").textContent = "step " + steps[index];
}
slider.max = steps.length - 1;
slider.value = steps.length - 1;
slider.hidden = steps.length < 2;
slider.addEventListener("input", () => show(Number(slider.value)));
show(steps.length - 1);
"""
