"""W&B's custom charts and Plotly figures are pages that MLflow's artifact viewer shows."""

from __future__ import annotations

import base64
import json
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.core.model import Checkpoint, FileRef, RowObjects, RunInfo
from tests.support.mlflow_state import read_runs
from tests.targets.mlflow.writing import downloaded, end, opened, run_info, the_run

HOSTILE = "</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Reads a page: its elements, texts outside of scripts, and the points of lines."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.lines: list[int] = []
        self._last = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._last = tag
        if tag == "polyline":
            self.lines.append(len((dict(attrs)["points"] or "").split()))

    def handle_data(self, data: str) -> None:
        if self._last not in ("script", "style"):
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._last = ""


def panel(definition: str, fields: dict[str, str], **texts: str) -> dict[str, Any]:
    """The entry of a chart in a run's config, as wandb.plot writes it."""
    argument = {"name": "tableKey", "value": "chart_table"}
    query = {"queryFields": [{"name": "runSets", "fields": [{"name": "t", "args": [argument]}]}]}
    return {
        "panel_type": "Vega2",
        "panel_config": {
            "panelDefId": definition, "fieldSettings": fields, "stringSettings": texts,
            "userQuery": query,
        },
    }  # fmt: skip


def charted(definition: str, fields: dict[str, str], **texts: str) -> RunInfo:
    visualize = {"chart": panel(definition, fields, **texts)}
    return run_info(config={"_wandb": {"visualize": visualize}})


def table(folder: Path, name: str, columns: list[str], data: list[list[Any]]) -> FileRef:
    path = f"media/table/{name}.table.json"
    local = folder / f"{name}.json"
    local.write_text(json.dumps({"columns": columns, "data": data}))
    return FileRef(path, local)


def shown(uri: str, folder: Path, info: RunInfo, columns: list[str], data: list[list[Any]]) -> Page:
    file = table(folder, "t", columns, data)
    value = {"_type": "table-file", "path": file.path}
    with opened(uri, info) as writer:
        writer.add(file)
        writer.add(RowObjects(3, 5, {("chart_table",): value}))
        end(writer, info)
    text = downloaded(uri, the_run(uri), "charts/chart.html", folder).read_text(encoding="utf-8")
    return Page(text)


def test_a_confusion_matrix_has_its_counts(fresh_store: str, tmp_path: Path) -> None:
    """A row for each actual class, a column for each predicted one."""
    names = ("Actual", "Predicted", "nPredictions")
    info = charted("wandb/confusion_matrix/v1", {name: name for name in names}, title="Quality")
    data = [["cat", "cat", 7], ["cat", "dog", 1], ["dog", "cat", 0], ["dog", "dog", 4]]
    page = shown(fresh_store, tmp_path, info, list(names), data)
    assert "Quality" in page.texts
    cells = [text for text in page.texts if text in ("cat", "dog", "7", "1", "0", "4")]
    assert cells == ["cat", "dog", "cat", "7", "1", "dog", "0", "4"]


def test_curves_have_a_line_for_each_class(fresh_store: str, tmp_path: Path) -> None:
    """A ROC curve, with the names of its axes."""
    info = charted(
        "wandb/area-under-curve/v0", {"x": "fpr", "y": "tpr", "class": "class"},
        **{"title": "ROC", "x-axis-title": "False positive rate"},
    )  # fmt: skip
    data = [["a", 0, 0], ["a", 0.5, 1], ["a", 1, 1], ["b", 0, 0], ["b", 1, 1]]
    page = shown(fresh_store, tmp_path, info, ["class", "fpr", "tpr"], data)
    assert page.lines == [3, 2]
    assert {"a", "b", "ROC", "False positive rate"} <= set(page.texts)


@pytest.mark.parametrize(
    ("definition", "fields", "element", "number"),
    [
        ("wandb/line/v0", {"x": "x", "y": "y"}, "polyline", 1),
        ("wandb/scatter/v0", {"x": "x", "y": "y"}, "circle", 3),
        ("wandb/bar/v0", {"label": "x", "value": "y"}, "rect", 3),
        ("wandb/histogram/v0", {"value": "y"}, "rect", 20),
        ("somebody/else/v0", {"x": "x"}, "td", 6),
        ("wandb/line/v0", {"x": "no such column", "y": "y"}, "td", 6),
    ],
)
def test_each_kind_of_chart(
    fresh_store: str, tmp_path: Path, definition: str, fields: dict[str, str], element: str,
    number: int,
) -> None:  # fmt: skip
    """W&B's own definitions are drawn; the page of another one has the table."""
    info = charted(definition, fields)
    page = shown(fresh_store, tmp_path, info, ["x", "y"], [[0, 1], [1, 4], [2, 9]])
    assert page.tags.count(element) == number


def test_hostile_content_is_text(fresh_store: str, tmp_path: Path) -> None:
    """Markup in titles, columns and cells is no part of the page."""
    info = charted("a/definition", {}, title=HOSTILE)
    data = [[HOSTILE, {"a": HOSTILE}], [None, [HOSTILE]]]
    page = shown(fresh_store, tmp_path, info, [HOSTILE, "b"], data)
    assert "img" not in page.tags
    assert page.tags.count("script") == 2
    assert page.texts.count(HOSTILE) == 4  # both titles, the column, the first cell


def test_a_figure_is_drawn(fresh_store: str, tmp_path: Path) -> None:
    """The traces of a Plotly figure that have a simple form, also from bytes."""
    packed = {"dtype": "f8", "bdata": base64.b64encode(struct.pack("<3d", 1, 2, 3)).decode()}
    figure = {"data": [
        {"type": "scatter", "x": [0, 1], "y": [2, 3], "mode": "lines", "name": HOSTILE},
        {"type": "bar", "x": ["u", "v", "w"], "y": packed},
        {"type": "sunburst"},
    ]}  # fmt: skip
    local = tmp_path / "f.json"
    local.write_text(json.dumps(figure))
    value = {"_type": "plotly-file", "path": "media/plotly/f.plotly.json"}
    info = run_info()
    with opened(fresh_store, info) as writer:
        writer.add(FileRef(value["path"], local))
        writer.add(RowObjects(3, 5, {("fig",): value}))
        end(writer, info)
    text = downloaded(fresh_store, the_run(fresh_store), "charts/fig.html", tmp_path).read_text()
    page = Page(text)
    assert page.lines == [2]
    assert page.tags.count("rect") == 3
    assert any("1 of its traces cannot be drawn" in text for text in page.texts)
    assert "img" not in page.tags


def test_a_continued_run_has_the_same_page(fresh_store: str, tmp_path: Path) -> None:
    """Tables of an earlier session, whose files are no longer here, are drawn as well."""
    pages = []
    info = charted("wandb/line/v0", {"x": "x", "y": "y"})
    files = [table(tmp_path, f"t{n}", ["x", "y"], [[0, n], [1, n + 1]]) for n in range(3)]

    def add(writer: Any, number: int) -> None:
        writer.add(files[number])
        value = {"_type": "table-file", "path": files[number].path}
        writer.add(RowObjects(number, number, {("chart_table",): value}))

    for run_id in ("whole", "continued"):
        named = run_info(run_id=run_id, project=run_id, config=info.config)
        with opened(fresh_store, named) as writer:
            for number in range(3 if run_id == "whole" else 2):
                add(writer, number)
            if run_id == "whole":
                end(writer, named)
            else:
                writer.update(named)
                writer.checkpoint(Checkpoint("seg", 2, rows_too=True))
        if run_id == "continued":
            with opened(fresh_store, named) as writer:
                add(writer, 2)
                end(writer, named)
        place = tmp_path / run_id
        place.mkdir()
        run = read_runs(fresh_store)[run_id]
        pages.append(downloaded(fresh_store, run, "charts/chart.html", place).read_text())
    assert Page(pages[0]).lines == [2, 2, 2]
    assert pages[0] == pages[1]


def test_a_chart_without_its_table_is_counted(fresh_store: str, tmp_path: Path) -> None:
    """A file that is gone or damaged costs the chart alone."""
    info = charted("wandb/line/v0", {"x": "x", "y": "y"})
    value = {"_type": "table-file", "path": "media/gone.json"}
    with opened(fresh_store, info) as writer:
        writer.add(RowObjects(0, 0, {("chart_table",): value}))
        end(writer, info)
    run = the_run(fresh_store, tmp_path / "all")
    assert json.loads(run.tags["mlflow.wandb.rewrites"]) == {"media_not_shown": 2}
    assert not [path for path in run.artifacts if path.startswith("charts/")]
    assert run.tags["mlflow.wandb.state"] == "complete"
