"""Histograms by step are pages that MLflow's artifact viewer shows."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.core.model import Checkpoint, RowObjects
from tests.support.mlflow_state import read_runs
from tests.targets.mlflow.writing import downloaded, end, opened, run_info, the_run


class Page(HTMLParser):
    """Reads a page: its elements, and the JSON in the one called ``data``."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.title = ""
        self.addresses: list[str] = []
        self._inside: list[str] = []
        self._json = ""
        self.feed(text)
        self.data = json.loads(self._json)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside.append("data" if ("id", "data") in attrs else tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] == "data":
            self._json += data
        if self._inside and self._inside[-1] == "title":
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self._inside.append("")


OURS = {
    "html", "head", "meta", "title", "style", "body", "h1", "p", "input", "output", "svg",
    "canvas", "script",
}  # fmt: skip


def histogram(*counts: int) -> dict[str, Any]:
    """Bins of one width from 0 to 10."""
    edges = [10 * number / len(counts) for number in range(len(counts) + 1)]
    return {"_type": "histogram", "values": list(counts), "bins": edges}


def row(step: int, **values: Any) -> RowObjects:
    named = {(key.replace("__", "/"),): value for key, value in values.items()}
    return RowObjects(step, 1_000 * step, named)


def page_of(uri: str, folder: Path, path: str) -> Page:
    text = downloaded(uri, the_run(uri), path, folder).read_text(encoding="utf-8")
    return Page(text)


def test_a_key_has_one_page_with_its_steps(fresh_store: str, tmp_path: Path) -> None:
    """The counts and edges of each step, in the folder of the key; nothing is loaded."""
    info = run_info()
    with opened(fresh_store, info) as writer:
        writer.add(row(0, gradients__conv=histogram(1, 2), loss=None))
        writer.add(row(5, gradients__conv=histogram(3, 0), other=histogram(7)))
        uneven = {"_type": "histogram", "values": [1, 2], "bins": [0, 1, 100]}
        writer.add(row(6, gradients__conv=uneven))
        end(writer, info)
    run = the_run(fresh_store, tmp_path / "all")
    pages = [path for path in run.artifacts if path.startswith("histograms/")]
    assert sorted(pages) == ["histograms/gradients/conv.html", "histograms/other.html"]
    page = page_of(fresh_store, tmp_path, "histograms/gradients/conv.html")
    assert page.title == "gradients/conv"
    assert page.data["steps"] == [
        {"step": 0, "edges": [0, 10], "counts": [1, 2]},
        {"step": 5, "edges": [0, 10], "counts": [3, 0]},
        {"step": 6, "edges": [0, 1, 100], "counts": [1, 2]},
    ]
    assert set(page.tags) == OURS
    assert page.addresses == []
    assert json.loads(run.tags["mlflow.wandb.rewrites"]) == {}


def test_the_form_of_an_export_is_the_same_page(fresh_store: str, tmp_path: Path) -> None:
    """W&B's server may give the first edge and a width instead of all edges."""
    packed = {"_type": "histogram", "values": [4, 5, 6, 7]}
    packed["packedBins"] = {"min": 0, "size": 2.5, "count": 4}  # type: ignore[assignment]
    info = run_info()
    with opened(fresh_store, info) as writer:
        writer.add(row(0, a=histogram(4, 5, 6, 7), b=packed))
        end(writer, info)
    pages = [page_of(fresh_store, tmp_path, f"histograms/{key}.html") for key in "ab"]
    assert pages[0].data == pages[1].data


def test_of_many_steps_some_are_shown_and_always_the_last(fresh_store: str, tmp_path: Path) -> None:
    """A page has at most 129 of 1,000 steps; a run that was continued has the same page."""
    texts = []
    for run_id, kill in (("whole", 0), ("continued", 700)):
        info = run_info(run_id=run_id, project=run_id)
        with opened(fresh_store, info) as writer:
            for step in range(kill or 1000):
                writer.add(row(step, h=histogram(step, 1)))
            if kill:
                writer.checkpoint(Checkpoint("seg", kill, rows_too=True))
            else:
                end(writer, info)
        if kill:
            with opened(fresh_store, info) as writer:
                for step in range(650, 1000):
                    writer.add(row(step, h=histogram(step, 1)))
                end(writer, info)
        run = read_runs(fresh_store)[run_id]
        (tmp_path / run_id).mkdir()
        path = downloaded(fresh_store, run, "histograms/h.html", tmp_path / run_id)
        texts.append(path.read_text())
    steps = [one["step"] for one in Page(texts[0]).data["steps"]]
    assert 64 < len(steps) <= 129
    assert (steps[0], steps[-1]) == (0, 999)
    assert all(one % 8 == 0 for one in steps[:-1])
    assert "of 1,000 steps" in texts[0]
    assert texts[0] == texts[1]


def test_a_hostile_key_is_text(fresh_store: str, tmp_path: Path) -> None:
    """Markup in a key or in a value is not part of the page."""
    key = "</title></script><script>alert(1)</script><img src=x onerror=alert(2)>"
    value = {**histogram(1), "more": "</script><script>alert(3)</script>"}
    info = run_info()
    with opened(fresh_store, info) as writer:
        writer.add(RowObjects(0, 0, {(key,): value}))
        end(writer, info)
    run = the_run(fresh_store, tmp_path / "all")
    (path,) = [path for path in run.artifacts if path.startswith("histograms/")]
    page = page_of(fresh_store, tmp_path, path)
    assert set(page.tags) == OURS
    assert page.tags.count("script") == 2
    assert page.title == key


@pytest.mark.parametrize(
    "value",
    [
        {"_type": "histogram"},
        {"_type": "histogram", "values": [1], "bins": [0]},
        {"_type": "histogram", "values": ["1"], "bins": [0, 1]},
        {"_type": "histogram", "values": [1], "bins": [0, float("inf")]},
        {"_type": "histogram", "values": [10**400], "bins": [0, 1]},
        {"_type": "histogram", "values": [1] * 2000, "bins": list(range(2001))},
        {"_type": "histogram", "values": [1], "packedBins": {"min": "x", "size": 1}},
    ],
)
def test_what_is_no_histogram_is_counted(
    fresh_store: str, tmp_path: Path, value: dict[str, Any]
) -> None:
    """It has no page; its value is in the history document."""
    info = run_info()
    with opened(fresh_store, info) as writer:
        writer.add(row(0, h=value))
        end(writer, info)
    run = the_run(fresh_store, tmp_path / "all")
    assert json.loads(run.tags["mlflow.wandb.rewrites"]) == {"media_not_shown": 1}
    assert "wandb/history.jsonl" in run.artifacts
    assert not [path for path in run.artifacts if path.startswith("histograms/")]
