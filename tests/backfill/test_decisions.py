"""Against a real MLflow: whose a run is, what a plan touches, and how rivals agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.backfill import html
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.options import BackfillOptions, Job
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.plan import dual_experiment, plan
from mlflow_wandb_plugin.core.model import Checkpoint, RunInfo, Selection, flatten
from mlflow_wandb_plugin.core.protocols import TargetOptions, WritePath
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter
from tests.support.mlflow_state import read_runs
from tests.support.records import exit_record, history_record, run_record
from tests.targets.mlflow.writing import document


def local_run(
    folder: Path,
    run_id: str = "r1",
    steps: int = 6,
    exit_code: int = 0,
    text: str = "",
    times: int = 1_700_000_000_000,
    **fields: Any,
) -> None:
    """A finished run as wandb writes it, with `loss`, and perhaps a text, at each step."""
    place = folder / f"offline-run-20260101_000000-{run_id}"
    place.mkdir(parents=True)
    with LogWriter(place / f"run-{run_id}.wandb") as log:
        log.append(run_record(run_id, **fields).SerializeToString())
        for step in range(steps):
            row = {"loss": step * 1.5} | ({"text": text} if text else {})
            record = history_record(row, step, times / 1000 + step)
            log.append(record.SerializeToString())
        log.append(exit_record(exit_code).SerializeToString())


def carry(folder: Path, uri: str, **options: Any) -> Outcome:
    source = WandbDir(folder)
    chosen = BackfillOptions(**options)
    target = MlflowTarget(uri, Job("", options=chosen).target_options())
    (outcome,) = backfill(source, target, Selection(), chosen)
    return outcome


def composer_run(uri: str) -> str:
    """A run as MosaicML Composer dual-writes it: every second step, times of its own."""
    client = MlflowClient(uri)
    experiment = client.create_experiment("composer")
    run = client.create_run(experiment, run_name="llm")
    for step in (0, 2, 4):
        client.log_metric(run.info.run_id, "loss", step * 1.5, timestamp=5_000 + step, step=step)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def test_a_thinned_run_of_composer_gets_just_the_steps_it_lacks(
    tmp_path: Path, fresh_store: str
) -> None:
    """What it had keeps its times; its name and status stay; met again, it is skipped."""
    run_id = composer_run(fresh_store)
    local_run(tmp_path, config={"mlflow_run_id": run_id}, text="words")
    outcome = carry(tmp_path, fresh_store, adopt_dual=True)
    assert (outcome.action, outcome.mlflow_run_id) == ("repaired", run_id)
    (run,) = read_runs(fresh_store).values()
    assert run.points("loss") == [(step, step * 1.5) for step in range(6)]
    assert [at for _, at, step in run.metrics["loss"] if step % 2 == 0] == [5_000, 5_002, 5_004]
    assert (run.name, run.status) == ("llm", "FINISHED")
    lines = document(fresh_store, run, "wandb/history.jsonl", tmp_path)
    assert [(line["_step"], line["text"]) for line in lines] == [
        (step, "words") for step in range(6)
    ]
    outcome = carry(tmp_path, fresh_store)
    assert (outcome.action, outcome.verdict) == ("skipped", "dual-written")


@pytest.mark.parametrize("origin", ["", "dual", "backfill"])
@pytest.mark.parametrize("given", [False, True])
def test_a_config_cannot_choose_a_run_to_write(
    tmp_path: Path, fresh_store: str, given: bool, origin: str
) -> None:
    """A run that a log's config names stays as it is, unless it has the tags of the log's run; the
    log's run is migrated into one of its own, and the outcome says which flag there is."""
    client = MlflowClient(fresh_store)
    tags = {"wandb.run_id": "another", "mlflow.wandb.origin": origin} if origin else {}
    victim = client.create_run(client.create_experiment("production"), 5, tags, "champion")
    victim_id = victim.info.run_id
    client.log_metric(victim_id, "loss", 0.5, 5, 1)
    client.set_terminated(victim_id, "FINISHED", 9)
    before = client.get_run(victim_id).to_dictionary()
    config = {"mlflow_run_id": victim_id, "injected": "x", "mlflow_parent_run_id": victim_id}
    local_run(tmp_path, config=config | ({"mlflow_run_given": True} if given else {}))
    outcome = carry(tmp_path, fresh_store)
    assert outcome.action == "migrated"
    assert outcome.mlflow_run_id != victim_id
    assert "--adopt-dual" in outcome.reason
    assert client.get_run(victim_id).to_dictionary() == before
    assert len(client.get_metric_history(victim_id, "loss")) == 1


def test_trust_skips_by_the_marker_and_ignore_makes_a_run_of_its_own(
    tmp_path: Path, fresh_store: str
) -> None:
    """`--dual-written trust` and `ignore`; ignore twice does not make a third run."""
    run_id = composer_run(fresh_store)
    local_run(tmp_path, config={"mlflow_run_id": run_id})
    assert carry(tmp_path, fresh_store, dual_written="trust").action == "skipped"
    assert carry(tmp_path, fresh_store, dual_written="ignore").action == "migrated"
    outcome = carry(tmp_path, fresh_store, dual_written="ignore")
    assert (outcome.action, outcome.verdict) == ("skipped", "existing")
    points = MlflowClient(fresh_store).get_metric_history(run_id, "loss")
    assert len(points) == 3


def test_a_marker_that_leads_nowhere_is_said_and_the_run_migrated(
    tmp_path: Path, fresh_store: str
) -> None:
    """The MLflow run was deleted: a marker is no proof."""
    run_id = composer_run(fresh_store)
    MlflowClient(fresh_store).delete_run(run_id)
    local_run(tmp_path, config={"mlflow_run_id": run_id})
    outcome = carry(tmp_path, fresh_store)
    assert outcome.action == "migrated"
    assert run_id in outcome.reason


def test_a_run_of_export_wandb_to_mlflow_counts_as_existing(
    tmp_path: Path, fresh_store: str
) -> None:
    """It is left alone, or refused, or migrated beside; never written to."""
    client = MlflowClient(fresh_store)
    experiment = client.create_experiment("unit")
    tags = {"wandb_run_id": "r1", "wandb_migration_complete": "True"}
    old = client.create_run(experiment, tags=tags).info.run_id
    local_run(tmp_path)
    outcome = carry(tmp_path, fresh_store)
    assert (outcome.action, outcome.verdict) == ("skipped", "foreign")
    assert carry(tmp_path, fresh_store, existing="fail").action == "failed"
    assert carry(tmp_path, fresh_store, existing="update").action == "migrated"
    assert client.get_run(old).data.metrics == {}


@pytest.mark.parametrize("path", ["auto", "api"])
@pytest.mark.parametrize(
    "narrow", [{"include_metrics": ("^acc$",)}, {"exclude_metrics": ("loss", "text")}]
)
def test_a_narrowed_run_is_complete_for_its_selection_alone(
    tmp_path: Path, fresh_store: str, path: WritePath, narrow: dict[str, Any]
) -> None:
    """A backfill with the same selection skips it, a wider one completes it, and then every
    backfill skips it."""
    local_run(tmp_path, text="words")

    def again(**options: Any) -> tuple[str, str, str]:
        outcome = carry(tmp_path, fresh_store, write_path=path, **options)
        return outcome.action, outcome.verdict, outcome.reason

    assert again(**narrow)[:2] == ("migrated", "new")
    (run,) = read_runs(fresh_store).values()
    assert "loss" not in run.metrics
    assert json.loads(run.tags["mlflow.wandb.selection"])["artifacts"] is True
    assert again(**narrow)[:2] == ("skipped", "existing")
    other = again(include_metrics=("other",))
    assert other == (
        "repaired",
        "partial",
        "migrated before with other metrics or without artifacts",
    )
    assert again()[:2] == ("repaired", "partial")
    (run,) = read_runs(fresh_store).values()
    assert run.points("loss") == [(step, step * 1.5) for step in range(6)]
    lines = document(fresh_store, run, "wandb/history.jsonl", tmp_path)
    assert [(line["_step"], line["text"]) for line in lines] == [(n, "words") for n in range(6)]
    assert again()[:2] == again(**narrow)[:2] == ("skipped", "existing")


def test_a_narrowed_run_that_was_not_finished_is_read_from_its_beginning(
    tmp_path: Path, fresh_store: str
) -> None:
    """The position of a narrowed session says nothing of the metrics that it left out."""
    local_run(tmp_path)
    source, narrow = WandbDir(tmp_path), BackfillOptions(include_metrics=("other",))
    (info,) = source.runs(Selection())
    target = MlflowTarget(fresh_store, Job("", options=narrow).target_options())
    writer = target.open(info, "backfill", target.find(info))
    writer.checkpoint(Checkpoint(info.segments[0], 10**6))
    writer.close()
    assert carry(tmp_path, fresh_store).action == "repaired"
    (run,) = read_runs(fresh_store).values()
    assert run.points("loss") == [(step, step * 1.5) for step in range(6)]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"exclude_metrics": ("^m1$",)}, {"m2.max", "best"}),
        ({"include_metrics": ("^m1$",)}, {"m1.max"}),
        ({"exclude_metrics": (r"^m1\.max$",)}, {"m2.max", "best"}),
        ({"artifacts": False}, {"m1.max", "m2.max", "best"}),
    ],
)
def test_patterns_hold_for_the_summary_of_a_metric(options: dict[str, Any], kept: set[str]) -> None:
    """`m1.max` goes with `m1`, and with a pattern of its own."""
    summary = {"m1": {"max": 3.0}, "m2": {"max": 4.0}, "best": 1.0}
    (info,) = BackfillOptions(**options).wanted([RunInfo("r1", "p", summary=summary)])
    assert isinstance(info, RunInfo)
    assert {".".join(key) for key in flatten(info.summary)} == kept


def test_what_was_renamed_in_mlflow_is_found_and_keeps_its_name(
    tmp_path: Path, fresh_store: str
) -> None:
    """Runs go on in a renamed experiment; a renamed run is continued under its new name, and one
    that was renamed in W&B gets the name of W&B."""
    client = MlflowClient(fresh_store)
    for run_id in ("mlflow's", "wandb's"):
        local_run(tmp_path / "first", run_id, display_name="as logged")
    list(backfill(WandbDir(tmp_path / "first"), MlflowTarget(fresh_store), Selection()))
    runs = read_runs(fresh_store)
    experiment = client.get_experiment_by_name("unit").experiment_id
    client.rename_experiment(experiment, "it's renamed")
    client.update_run(runs["mlflow's"].run_id, name="chosen in MLflow")
    for run_id in ("mlflow's", "wandb's", "new"):
        local_run(tmp_path / "later", run_id, display_name="chosen in W&B")
    target = MlflowTarget(fresh_store)
    options = BackfillOptions(existing="update")
    list(backfill(WandbDir(tmp_path / "later"), target, Selection(), options))
    later = read_runs(fresh_store, experiments=[experiment])
    assert {run_id: run.name for run_id, run in later.items()} == {
        "mlflow's": "chosen in MLflow", "wandb's": "chosen in W&B", "new": "chosen in W&B",
    }  # fmt: skip
    assert later["mlflow's"].run_id == runs["mlflow's"].run_id
    assert {found.name for found in client.search_experiments()} == {"Default", "it's renamed"}


def test_a_plan_writes_nothing(tmp_path: Path, fresh_store: str) -> None:
    """Not even the experiment is created; points are counted all the same."""
    local_run(tmp_path, steps=7)
    source, target = WandbDir(tmp_path), MlflowTarget(fresh_store)
    (planned,) = plan(source, target, Selection(), BackfillOptions())
    assert (planned.decision.verdict, planned.size.points) == ("new", 7)
    assert [e.name for e in MlflowClient(fresh_store).search_experiments()] == ["Default"]


def test_two_backfills_that_create_one_run_at_once_settle_on_one(
    tmp_path: Path, fresh_store: str
) -> None:
    """Both looked, both found nothing: the later claim takes its own run back."""
    local_run(tmp_path)
    (info,) = WandbDir(tmp_path).runs(Selection())
    first, second = MlflowTarget(fresh_store), MlflowTarget(fresh_store)
    assert first.find(info) is None
    assert second.find(info) is None
    writers = [target.open(info, "backfill") for target in (first, second)]
    assert writers[0].run_id == writers[1].run_id
    for writer in writers:
        writer.close()
    assert list(read_runs(fresh_store)) == ["r1"]


def test_into_dual_experiment_finds_where_the_dual_runs_are(
    tmp_path: Path, fresh_store: str
) -> None:
    """New runs join the experiment of a dual-written one; without one it is said."""
    run_id = composer_run(fresh_store)
    local_run(tmp_path, "old", config={"mlflow_run_id": run_id})
    local_run(tmp_path, "new")
    source = WandbDir(tmp_path)
    target = MlflowTarget(fresh_store, TargetOptions(adopt_dual=True))
    experiment = dual_experiment(source, target, Selection())
    assert experiment == MlflowClient(fresh_store).get_run(run_id).info.experiment_id
    target = MlflowTarget(fresh_store, TargetOptions(experiment_id=experiment, adopt_dual=True))
    list(backfill(source, target, Selection()))
    runs = MlflowClient(fresh_store).search_runs([experiment])
    assert {run.data.tags["wandb.run_id"] for run in runs} == {"old", "new"}
    with pytest.raises(UsageError, match="no dual-written run"):
        dual_experiment(source, target, Selection(runs=("new",)))


def test_runs_of_a_named_group_have_one_parent(tmp_path: Path, fresh_store: str) -> None:
    """The config names the group; it makes a parent, and no param."""
    for run_id in ("a", "b"):
        local_run(tmp_path, run_id, config={"mlflow_parent_group": "pair"})
    list(backfill(WandbDir(tmp_path), MlflowTarget(fresh_store), Selection()))
    runs = read_runs(fresh_store)
    (parent,) = [run for run in runs.values() if "mlflow.wandb.parent_of_group" in run.tags]
    assert parent.name == "pair"
    assert [runs[run_id].tags["mlflow.parentRunId"] for run_id in ("a", "b")] == 2 * [parent.run_id]
    assert not runs["a"].params


@pytest.mark.parametrize("path", ["auto", "api"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("kind", ["sweep", "group"])
def test_a_parent_begins_and_ends_with_its_runs(
    tmp_path: Path, fresh_store: str, order: tuple[int, ...], kind: str, path: WritePath
) -> None:
    """Its runs are written in any order by several backfills, long after they ended; MLflow's own
    calls cannot change when a run began."""
    parts = {"sweep_id": "s1"} if kind == "sweep" else {"config": {"mlflow_parent_group": "g"}}
    starts = (1_600_000_000_000, 1_650_000_000_000, 1_690_000_000_000)
    for number in order:
        folder = tmp_path / str(number)
        local_run(folder, f"r{number}", start_ms=starts[number], times=starts[number], **parts)
        target = MlflowTarget(fresh_store, TargetOptions(write_path=path))
        list(backfill(WandbDir(folder), target, Selection()))
    runs = read_runs(fresh_store)
    (parent,) = [run for key, run in runs.items() if key not in ("r0", "r1", "r2")]
    assert [runs[f"r{n}"].start for n in range(3)] == list(starts)
    assert parent.end == runs["r2"].end == starts[2] + 5_000
    assert parent.start == (starts[0] if path == "auto" else starts[order[0]])
    assert parent.status == "FINISHED"


def test_a_run_is_nested_below_the_run_that_its_config_names(
    tmp_path: Path, fresh_store: str
) -> None:
    """A parent that exists is not made again."""
    local_run(tmp_path, "above")
    list(backfill(WandbDir(tmp_path), MlflowTarget(fresh_store), Selection()))
    above = read_runs(fresh_store)["above"].run_id
    local_run(tmp_path, "below", config={"mlflow_parent_run_id": above})
    list(backfill(WandbDir(tmp_path), MlflowTarget(fresh_store), Selection()))
    runs = read_runs(fresh_store)
    assert sorted(runs) == ["above", "below"]
    assert runs["below"].tags["mlflow.parentRunId"] == above


def test_a_secondary_process_leaves_it_to_the_primary_how_a_run_ended(
    tmp_path: Path, fresh_store: str
) -> None:
    """Its points arrive; the status and the time of the end are those of the primary."""
    local_run(tmp_path / "first", "r1")
    local_run(tmp_path / "second", "r1", exit_code=1)
    list(backfill(WandbDir(tmp_path / "first"), MlflowTarget(fresh_store), Selection()))
    before = read_runs(fresh_store)["r1"]
    target = MlflowTarget(fresh_store, secondary=lambda: True)
    source = WandbDir(tmp_path / "second")
    (info,) = source.runs(Selection())
    writer = target.open(info, "dual", target.find(info))
    replicate(source.read(info, writer.position), writer)
    writer.close()
    after = read_runs(fresh_store)["r1"]
    assert (after.status, after.end) == (before.status, before.end) == ("FINISHED", before.end)


def test_runs_of_a_sweep_have_one_parent(tmp_path: Path, fresh_store: str) -> None:
    """The sweep is a run of its own; its runs are nested under it."""
    for run_id in ("a", "b"):
        local_run(tmp_path, run_id, sweep_id="s1")
    list(backfill(WandbDir(tmp_path), MlflowTarget(fresh_store), Selection()))
    runs = read_runs(fresh_store)
    parents = {runs[run_id].tags["mlflow.parentRunId"] for run_id in ("a", "b")}
    (parent,) = [run for run in runs.values() if "wandb.sweep" in run.tags]
    assert parents == {parent.run_id}
    assert parent.name == "sweep s1"


def test_html_in_a_name_is_text_in_the_report() -> None:
    """Names come from a server: the page shows them, and runs nothing."""
    run = RunInfo("r1", "p", name="<script>alert(1)</script>")
    page = html.page([Outcome(run, "new", "migrated")], Curves(), lambda run_id, key: [])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
