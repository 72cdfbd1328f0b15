"""The report as an HTML page: nothing of a run is markup, and curves are compared."""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.backfill import html
from mlflow_wandb_plugin.backfill.curves import POINTS_A_CURVE, Curve, Curves, compared
from mlflow_wandb_plugin.backfill.decide import Decision
from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.heading import Heading
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.plan import PlannedRun
from mlflow_wandb_plugin.backfill.report_files import write_report
from mlflow_wandb_plugin.core.model import FileRef, Key, Selection, Series, Size, UnreadableRange
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.plugins import open_target
from tests.backfill.fakes import MemorySource, run_info

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&"


class Elements(HTMLParser):
    """The elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def watched(points: list[tuple[int, float]], key: Key = ("loss",), run_id: str = "r1") -> Curves:
    """Curves that have seen one series."""
    curves = Curves()
    steps, values = [step for step, _ in points], [value for _, value in points]
    list(curves.watch(run_id, [Series(key, steps, steps, values)]))
    return curves


def drawn(page: str) -> dict[str, Any]:
    """The data that the page draws."""
    (text,) = re.findall(r'id="curves">(.*?)</script>', page)
    found: dict[str, Any] = json.loads(text)
    return found


def hostile_page() -> str:
    run = run_info(HOSTILE, name=HOSTILE, url=f"https://w.example/{HOSTILE}")
    outcome = Outcome(run, "new", "failed", HOSTILE, HOSTILE, "1", HOSTILE, "javascript:alert(3)",
                      losses={HOSTILE: 1},
                      unreadable=(UnreadableRange(HOSTILE, 0, 1, HOSTILE, HOSTILE),))  # fmt: skip
    curves = watched([(0, 1.0), (1, 2.0)], (HOSTILE,), HOSTILE)
    heading = Heading((HOSTILE,), HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, None, HOSTILE)
    reasons = {HOSTILE: [HOSTILE]}
    return html.page([outcome], curves, lambda *_: [(0, 1.0)], heading, [HOSTILE], reasons)


def test_nothing_of_a_run_is_markup() -> None:
    """Names, units, reasons, links and keys with tags in them add no element and no handler."""
    page = hostile_page()
    plain = html.page([Outcome(run_info("r"), "new", "failed")], Curves(), lambda *_: [])
    elements = Elements(page)
    assert {tag for tag, _ in elements.found} - {tag for tag, _ in Elements(plain).found} <= {
        "a", "details", "summary", "small", "h2", "ul", "li",
    }  # fmt: skip
    assert len(elements.of("script")) == 3
    assert not elements.of("img")
    for _, attributes in elements.found:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert [link["href"] for link in elements.of("a")] == [f"https://w.example/{HOSTILE}"]
    assert drawn(page)["0"][0]["key"] == HOSTILE


def test_a_plan_of_hostile_runs_is_no_markup_either() -> None:
    """The same for the page of a plan."""
    planned = PlannedRun(run_info(HOSTILE, name=HOSTILE, state=HOSTILE),
                         Decision("new", "refuse", HOSTILE), Size(), HOSTILE)  # fmt: skip
    elements = Elements(html.plan_page([planned], Heading(target=HOSTILE)))
    assert len(elements.of("script")) == 3
    assert not elements.of("img")


def test_the_policy_allows_the_page_s_own_script_and_style_alone() -> None:
    """No network, no other script: the policy has the digests of what the page contains."""
    page = hostile_page()
    (policy,) = (
        str(meta["content"])
        for meta in Elements(page).of("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.S)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert rules == {
        "default-src": "'none'", "base-uri": "'none'", "form-action": "'none'",
        "style-src": digest(style), "script-src": digest(script),
    }  # fmt: skip
    assert not re.search(r"(src|href)=\"(?!https://w\.example)", page)


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_page_has_what_it_is_about() -> None:
    """Source, target, date, versions, totals, links to both homes, and what was lost and why."""
    run = run_info("a", url="https://wandb.example/e/p/runs/a")
    link = "http://mlflow.example/#/experiments/1/runs/m1?workflowType=machine_learning"
    outcome = Outcome(run, "new", "migrated", "", "m1", "1", "digits", link, 5,
                      {"file_missing": 2}, (UnreadableRange("x.wandb", 5, 7, "torn"),))  # fmt: skip
    heading = Heading(("./wandb",), "http://mlflow.example", "2026-01-02 03:04:05 UTC",
                      {"mlflow": "3.1"})  # fmt: skip
    page = html.page([outcome], Curves(), lambda *_: [], heading, ["e/p: report weekly"])
    text = markup.unescape(re.sub(r"<[^>]*>", " ", page))
    wanted = (
        "./wandb", "http://mlflow.example", "2026-01-02 03:04:05 UTC", "mlflow 3.1", "digits",
        "e/p: report weekly", "a file that the log names is gone",
        "7 bytes at byte 5 unreadable (torn)", "new: the target does not have it",
    )  # fmt: skip
    for words in wanted:
        assert words in text
    assert [one["href"] for one in Elements(page).of("a")] == [run.url, link]


@pytest.mark.parametrize("count", [1, 2 * POINTS_A_CURVE, 2 * POINTS_A_CURVE + 1, 12_345])
def test_a_curve_of_any_length_is_compared_at_its_points(count: int) -> None:
    """The points that are kept are compared with those at the same place of the whole series."""
    points = [(3 * number, number / 7) for number in range(count)]
    curve = Curve()
    for start in range(0, count, 1000):
        part = points[start : start + 1000]
        curve.add([step for step, _ in part], [value for _, value in part])
    assert (curve.count, curve.last, len(curve.steps) <= 2 * POINTS_A_CURVE) == (
        count, (count - 1) / 7, True,
    )  # fmt: skip
    kept = list(zip(curve.steps, curve.values, strict=True))
    assert kept == points[:: curve.stride]
    assert len(kept) > min(count, POINTS_A_CURVE) - 1
    assert compared(curve, points) == (True, True)
    moved = [(step + 1, value) for step, value in points]
    assert compared(curve, moved) == (True, False)
    assert not compared(curve, [(step, value + 1) for step, value in points]).equal
    assert not compared(curve, points[:-1]).equal


def test_values_that_are_no_finite_numbers_are_the_same_in_both_homes() -> None:
    """NaN is NaN, and MLflow's databases keep infinity as the largest double."""
    curve = Curve()
    curve.add([0, 1, 2], [math.nan, math.inf, -math.inf])
    most = 1.7976931348623157e308
    assert compared(curve, [(0, math.nan), (1, most), (2, -most)]).equal
    assert not compared(curve, [(0, 0.0), (1, most), (2, -most)]).equal


POINTS = [(0, 1.0), (1, 0.5), (2, 0.25)]


@pytest.mark.parametrize(
    ("there", "action", "together", "note"),
    [
        (POINTS, "migrated", True, None),
        ([(0, 1.0), (1, 0.5), (2, 0.3)], "migrated", False, "the two differ"),
        (POINTS[:2], "migrated", False, "the two differ"),
        ([(-1, 9.0), *POINTS], "migrated", False, "the two differ"),
        ([(-1, 9.0), *POINTS], "repaired", True, None),
        ([(10, 1.0), (20, 0.5), (30, 0.25)], "migrated", False, "equal values at other steps"),
        ([], "migrated", None, None),
    ],
)
def test_curves_that_differ_are_drawn_apart(
    there: list[tuple[int, float]], action: str, together: bool | None, note: str | None
) -> None:
    """Equal ones are drawn together; a repaired run has points from before in the target."""
    outcome = Outcome(run_info("r1"), "new", action, mlflow_run_id="m")
    page = html.page([outcome], watched(POINTS), lambda run_id, key: there)
    (one,) = drawn(page)["0"]
    assert (one.get("together"), one.get("note")) == (together, note)
    assert one["source"] == {"n": 3, "last": 0.25, "x": [0, 1, 2], "y": [1.0, 0.5, 0.25]}


def test_a_curve_ends_with_its_last_point() -> None:
    """Also where every n-th point is kept."""
    points = [(number, float(number)) for number in range(1000)]
    outcome = Outcome(run_info("r1"), "new", "migrated", mlflow_run_id="m")
    (one,) = drawn(html.page([outcome], watched(points), lambda *_: []))["0"]
    assert (one["source"]["x"][-1], one["source"]["y"][-1], one["source"]["n"]) == (
        999,
        999.0,
        1000,
    )


def test_why_something_was_lost_is_on_the_page(fresh_store: str, tmp_path: Path) -> None:
    """As the run's own list in MLflow has it: here a file that is gone."""
    run = run_info("r1")
    source = MemorySource({"r1": [FileRef("<b>.txt", tmp_path / "gone.txt"), run]})
    target = open_target(fresh_store, TargetOptions())
    outcomes = list(backfill(source, target, Selection()))
    assert [outcome.losses for outcome in outcomes] == [{"file_missing": 1}]
    write_report(tmp_path / "report.html", outcomes, Curves(), target, Heading())
    page = (tmp_path / "report.html").read_text()
    (why,) = re.findall(r"<summary>why</summary><small>(.*?)</small>", page)
    assert why.endswith(": no readable file gone.txt")
    assert "<b>" not in why
