"""Outcomes and plans for people and for programs."""

from __future__ import annotations

import io
import json

from rich.console import Console
from rich.table import Table

from mlflow_wandb_plugin.backfill import html, report
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.decide import Decision
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.plan import PlannedRun
from mlflow_wandb_plugin.core.model import Size, UnreadableRange
from mlflow_wandb_plugin.core.protocols import WriteMethod
from tests.backfill.fakes import run_info

OUTCOMES = [
    Outcome(run_info("a"), "new", "migrated", mlflow_run_id="m1", points=12_345,
            losses={"file_missing": 2}, unreadable=(UnreadableRange("x.wandb", 5, 7, "torn"),)),
    Outcome(run_info("b"), "dual-written", "skipped", "dual-written and complete", "m2"),
    Outcome(run_info("c"), "existing", "skipped", "migrated before and complete", "m3"),
    Outcome(run_info("d", name="[red]bold[/red]"), "new", "failed", "MLflow [is] down"),
]  # fmt: skip


def drawn(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_one_line_says_it_all() -> None:
    """Migrated, skipped by reason, failed; repaired only where there are any."""
    line = report.one_line(OUTCOMES)
    assert line == "1 migrated, 1 skipped as dual-written, 1 skipped as existing, 1 failed"
    assert report.one_line([]) == "0 migrated, 0 skipped"


def test_the_table_shows_names_as_they_are() -> None:
    """A run's name is text, whatever markup it looks like; losses and damage are told."""
    text = drawn(report.as_table(OUTCOMES))
    assert "[red]bold[/red]" in text
    assert "MLflow [is] down" in text
    assert "12,345" in text
    assert "lost: 2 file_missing" in text
    assert "7 bytes at byte 5" in text


def test_the_json_holds_everything() -> None:
    """And is JSON."""
    found = json.loads(json.dumps(report.as_json(OUTCOMES)))
    assert found["counts"] == {"migrated": 1, "repaired": 0, "skipped": 2, "failed": 1}
    first = found["runs"][0]
    assert (first["run_id"], first["mlflow_run_id"], first["points"]) == ("a", "m1", 12_345)
    assert first["losses"] == {"file_missing": 2}
    assert first["damage"] == ["x.wandb: 7 bytes at byte 5 unreadable (torn)"]


def test_a_plan_has_totals() -> None:
    """What would move, and what is left alone."""
    planned = [
        PlannedRun(run_info("a"), Decision("new", "migrate"), Size(1000, 2000, 3)),
        PlannedRun(run_info("b"), Decision("existing", "skip", "done"), Size()),
    ]
    text = drawn(report.plan_as_table(planned))
    assert "1 to migrate" in text
    assert "2,000" in text
    found = report.plan_as_json(planned)
    assert found["totals"]["points"] == 1000
    assert [run["action"] for run in found["runs"]] == ["migrate", "skip"]


def test_plan_and_report_say_how_points_are_written() -> None:
    """The write path and its reason are in both documents and in the page."""
    method = WriteMethod("api", "the tables <differ>")
    wanted = {"path": "api", "reason": "the tables <differ>"}
    assert report.as_json(OUTCOMES, method)["write_path"] == wanted
    assert report.plan_as_json([], method)["write_path"] == wanted
    page = html.page(OUTCOMES, Curves(), lambda run_id, key: [], method)
    assert "write path: api (the tables &lt;differ&gt;)" in page
