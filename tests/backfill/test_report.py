"""Outcomes and plans for people and for programs."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from rich.table import Table

from mlflow_wandb_plugin.backfill import html, report
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.decide import Decision
from mlflow_wandb_plugin.backfill.estimate import about, estimated_s
from mlflow_wandb_plugin.backfill.heading import Heading
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
    """Migrated, skipped by reason, failed, lost; repaired only where there are any. A damaged range
    is one loss, however long it is."""
    line = report.one_line(OUTCOMES)
    assert line == "1 migrated, 1 skipped as dual-written, 1 skipped as existing, 1 failed, 3 lost"
    assert report.one_line([]) == "0 migrated, 0 skipped, 0 lost"


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


PLANNED = [
    PlannedRun(run_info("a", started_ms=1_700_000_000_000), Decision("new", "migrate"),
               Size(1000, 2000, 3, 7), "digits"),
    PlannedRun(run_info("b", state="crashed"), Decision("existing", "skip", "done"), Size(), "old"),
]  # fmt: skip


def test_a_plan_has_totals_and_says_where_each_run_goes() -> None:
    """What would move and what is left alone, with experiment, state, start, files and time."""
    text = drawn(report.plan_as_table(PLANNED))
    for word in (
        "1 to migrate",
        "2,000 bytes",
        "digits",
        "crashed",
        "2023-11-14 22:13",
        "7 files",
        "3 API calls",
        "existing, skip: done",
    ):
        assert word in text
    found = report.plan_as_json(PLANNED)
    totals = {name: found["totals"][name] for name in ("runs", "to_migrate", "points", "files")}
    assert totals == {"runs": 2, "to_migrate": 1, "points": 1000, "files": 7}
    assert [run["action"] for run in found["runs"]] == ["migrate", "skip"]
    assert [run["experiment"] for run in found["runs"]] == ["digits", "old"]
    assert found["runs"][0]["started"] == "2023-11-14 22:13"
    line = report.plan_in_one_line(PLANNED, Heading())
    assert line == "1 of 2 runs to migrate: less than 10 seconds"


@pytest.mark.parametrize(
    ("size", "path", "words"),
    [
        (Size(3_000_000), "bulk", "about 60 seconds"),
        (Size(3_000_000), "api", "about 17 minutes"),
        (Size(10, 40_000_000_000), "bulk", "about 33 minutes"),
        (Size(10, 0, 72_000), "bulk", "about 2 hours"),
    ],
)
def test_the_time_of_a_plan_depends_on_what_is_slowest(size: Size, path: str, words: str) -> None:
    """Points by their write path, bytes of files, and requests to W&B."""
    planned = [PlannedRun(run_info("a"), Decision("new", "migrate"), size)]
    assert about(estimated_s(planned, path)) == words


def test_the_legend_explains_the_verdicts_that_occur() -> None:
    """In the order of the table in docs/cli.md, and no others."""
    lines = report.legend(["existing", "new", "existing"])
    assert [line.partition(":")[0] for line in lines] == ["new", "existing"]


def test_plan_and_report_say_how_points_are_written() -> None:
    """The write path and its reason are in both documents and in the page."""
    heading = Heading(method=WriteMethod("api", "the tables <differ>"))
    wanted = {"path": "api", "reason": "the tables <differ>"}
    assert report.as_json(OUTCOMES, heading)["write_path"] == wanted
    assert report.plan_as_json([], heading)["write_path"] == wanted
    page = html.page(OUTCOMES, Curves(), lambda run_id, key: [], heading)
    assert "write path: api (the tables &lt;differ&gt;)" in page


def test_plan_and_report_say_from_where_to_where_when_and_with_what() -> None:
    """In both documents; what is not known is left out. The report counts what was lost."""
    versions = {"mlflow": "3.1"}
    heading = Heading(("./wandb",), "sqlite:///x.db", "2026-01-02 03:04:05 UTC", versions)
    wanted = {
        "sources": ["./wandb"], "target": "sqlite:///x.db", "date": "2026-01-02 03:04:05 UTC",
        "versions": versions,
    }  # fmt: skip
    found = report.as_json(OUTCOMES, heading)
    assert wanted.items() <= found.items()
    assert (found["lost"], "viewer" in found) == (3, False)
    assert wanted.items() <= report.plan_as_json([], heading).items()
