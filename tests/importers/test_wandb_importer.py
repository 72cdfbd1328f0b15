"""`WandbImporter`: projects of one W&B server arrive in another one, and the files say so."""

from __future__ import annotations

import json
import logging
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.importers import ImportResult, Namespace, WandbImporter
from tests.importers.conftest import SOURCE_KEY, TARGET_KEY, rows
from tests.support.wandb_state import differing, project_of, project_state
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import run_python

pytestmark = pytest.mark.slow

FILES = ("artifact_errors", "artifact_successes", "run_errors", "run_successes")


@pytest.fixture
def importer(source: WandbServer, target: WandbServer) -> WandbImporter:
    return WandbImporter(source.url, SOURCE_KEY, target.url, TARGET_KEY)


def lines(name: str) -> list[dict[str, Any]]:
    """The lines of a file of results in the current folder."""
    return [json.loads(line) for line in Path(f"{name}.jsonl").read_text().splitlines()]


def actions(result: ImportResult) -> list[str]:
    return sorted(outcome.action for outcome in result.outcomes)


def place(project: str, entity: str = "tester", to: str = "", into: str = "") -> dict[str, str]:
    return {
        "src_entity": entity,
        "src_project": project,
        "dst_entity": into or entity,
        "dst_project": to or project,
    }


def equal(source: WandbServer, project: str, target: WandbServer, entity: str, name: str) -> bool:
    """Whether a project of the target holds what one of the source holds."""
    wanted = project_state(project_of(source, "tester", project))
    return differing(project_state(project_of(target, entity, name)), wanted) == []


ARTIFACTS = """
import wandb
for number in range(2):
    with wandb.init(project="arts", id=f"r{number}") as run:
        if number:
            run.use_artifact("weights:v0")
        made = wandb.Artifact("weights", "model")
        with made.new_file("w.txt") as file:
            file.write(f"weights {number}")
        run.log({"loss": number})
        run.log_artifact(made).wait()
"""


def test_runs_and_artifacts_arrive_and_reports_are_counted(
    importer: WandbImporter,
    source: WandbServer,
    target: WandbServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the project of the same name; a second import writes nothing, and no line again."""
    run_python(source, tmp_path / "client", textwrap.dedent(ARTIFACTS))
    source.project("arts").reports.extend(["one", "two"])
    namespaces = [Namespace("tester", "arts")]
    with caplog.at_level(logging.WARNING):
        result = importer.import_all(namespaces=iter(namespaces))
    assert (actions(result), result.reports) == (["migrated"] * 2, 2)
    assert "2 W&B reports" in caplog.text
    assert equal(source, "arts", target, "tester", "arts")
    runs = [{**place("arts"), "run_id": run} for run in ("r0", "r1")]
    versions = [
        {**place("arts"), "name": "weights", "version": number, "type": "model"}
        for number in range(2)
    ]
    for _ in range(2):
        assert sorted(lines("run_successes"), key=lambda line: line["run_id"]) == runs
        found = [line for line in lines("artifact_successes") if line["name"] == "weights"]
        assert sorted(found, key=lambda line: line["version"]) == versions
        assert (lines("run_errors"), lines("artifact_errors")) == ([], [])
        written = len(target.asked("UpsertBucket"))
        assert actions(importer.import_all(namespaces=namespaces)) == ["skipped"] * 2
        assert len(target.asked("UpsertBucket")) == written


def test_runs_first_and_artifacts_later(
    importer: WandbImporter, source: WandbServer, target: WandbServer, tmp_path: Path
) -> None:
    """`import_runs` leaves artifacts out, `import_artifact_sequences` completes the runs."""
    run_python(source, tmp_path / "client", textwrap.dedent(ARTIFACTS))
    namespaces = [Namespace("tester", "arts")]
    assert actions(importer.import_runs(namespaces=namespaces)) == ["migrated"] * 2
    assert not project_of(target, "tester", "arts").collections
    assert lines("artifact_successes") == []
    assert actions(importer.import_artifact_sequences(namespaces=namespaces)) == ["repaired"] * 2
    assert equal(source, "arts", target, "tester", "arts")
    assert actions(importer.import_runs(namespaces=namespaces)) == ["skipped"] * 2


def test_projects_are_remapped_each_and_others_keep_their_names(
    importer: WandbImporter, source: WandbServer, target: WandbServer
) -> None:
    """Two projects with a run of the same id go into two projects."""
    for project in ("one", "two"):
        source.add_run(project, "r1", display_name=f"of {project}", rows=rows(3))
    result = importer.import_all(
        namespaces=[Namespace("tester", "one"), Namespace("tester", "two")],
        remapping={Namespace("tester", "one"): Namespace("alice", "first")},
    )
    assert actions(result) == ["migrated"] * 2
    assert equal(source, "one", target, "alice", "first")
    assert equal(source, "two", target, "tester", "two")
    assert sorted(target.store.projects) == [("alice", "first"), ("tester", "two")]
    assert {**place("one", to="first", into="alice"), "run_id": "r1"} in lines("run_successes")


def test_without_namespaces_all_projects_of_the_keys_entity_are_imported(
    importer: WandbImporter, source: WandbServer, target: WandbServer
) -> None:
    """Those of another entity are not."""
    for project in ("one", "two"):
        source.add_run(project, f"run-{project}", rows=rows(2))
    source.add_run("theirs", "r1", entity="somebody")
    source.project("two").reports.append("a report")
    result = importer.import_all()
    assert (actions(result), result.reports) == (["migrated"] * 2, 1)
    assert sorted(target.store.projects) == [("tester", "one"), ("tester", "two")]


def test_complete_runs_are_written_again_and_partial_ones_filled(
    importer: WandbImporter, source: WandbServer, target: WandbServer
) -> None:
    """`incremental=False` writes complete runs, too."""
    namespaces = [Namespace("tester", "mine")]
    source.add_run("mine", "done", rows=rows(4))
    growing = source.add_run("mine", "growing", rows=rows(3), state="running")
    assert actions(importer.import_all(namespaces=namespaces)) == ["migrated"] * 2
    source.grow(growing, rows(6)[3:])
    growing.state, growing.exit_code = "finished", 0
    again = importer.import_all(namespaces=namespaces)
    assert {one.run.run_id: one.action for one in again.outcomes} == {
        "done": "skipped",
        "growing": "repaired",
    }
    assert equal(source, "mine", target, "tester", "mine")
    result = importer.import_all(namespaces=namespaces, incremental=False)
    assert actions(result) == ["repaired"] * 2
    assert equal(source, "mine", target, "tester", "mine")


def test_what_failed_is_in_the_file_of_errors_until_it_succeeds(
    importer: WandbImporter, source: WandbServer, target: WandbServer
) -> None:
    """A project that does not exist, and a run whose id somebody else's run has; others arrive."""
    for run in ("r1", "r2"):
        source.add_run("mine", run, rows=rows(2))
    target.add_run("mine", "r1", display_name="precious")
    namespaces = [Namespace("tester", "none"), Namespace("tester", "mine")]
    result = importer.import_all(namespaces=namespaces, reports=False)
    assert [one.run.run_id for one in result.failed] == ["r1", ""]
    errors = {line["run_id"]: line for line in lines("run_errors")}
    assert errors["r1"].items() >= place("mine").items()
    assert errors[""].items() >= place("none").items()
    [problem] = errors[""]["problems"]
    assert "no W&B project tester/none" in problem
    assert [line["run_id"] for line in lines("run_successes")] == ["r2"]
    assert project_of(target, "tester", "mine").runs["r1"].display_name == "precious"
    del project_of(target, "tester", "mine").runs["r1"]
    importer.import_all(namespaces=namespaces[1:], reports=False)
    assert lines("run_errors") == []
    assert sorted(line["run_id"] for line in lines("run_successes")) == ["r1", "r2"]
    assert equal(source, "mine", target, "tester", "mine")


def test_own_choice_of_runs(
    importer: WandbImporter, source: WandbServer, target: WandbServer
) -> None:
    """Collected runs may be filtered; `limit` ends both lists."""
    for project in ("one", "two"):
        for number in range(3):
            source.add_run(project, f"{project}{number}", rows=rows(1))
    namespaces = [Namespace("tester", "one"), Namespace("tester", "two")]
    collected = importer.collect_runs(namespaces=namespaces, limit=5)
    assert not source.requests
    chosen = [run for run in collected if run.display_name() != "one1"]
    assert [run.run_id() for run in chosen] == ["one0", "one2", "two0", "two1"]
    remapping = {Namespace("tester", "two"): Namespace("tester", "one")}
    assert len(importer.import_runs(chosen, remapping=remapping, parallel=False).outcomes) == 4
    assert sorted(project_of(target, "tester", "one").runs) == ["one0", "one2", "two0", "two1"]
    assert len(importer.import_runs(namespaces=namespaces, limit=2).outcomes) == 2
    with pytest.raises(TypeError, match="runs or namespaces"):
        importer.import_runs(chosen, namespaces=namespaces)


def test_each_key_is_for_its_own_server_and_in_no_text(
    importer: WandbImporter, source: WandbServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both servers refuse the other's key. Neither is in the environment, logs or files."""
    source.add_run("mine", "r1", rows=rows(2))
    before = dict(os.environ)
    with caplog.at_level(logging.DEBUG):
        result = importer.import_all(namespaces=[Namespace("tester", "mine")])
    assert actions(result) == ["migrated"]
    texts = [repr(importer), str(vars(importer)), repr(result), caplog.text]
    texts += [file.read_text() for file in folder.glob("*.jsonl")]
    assert len(texts) == 8
    changed = {name: value for name, value in os.environ.items() if before.get(name) != value}
    texts.append(str(changed))
    assert not any(key in text for text in texts for key in (SOURCE_KEY, TARGET_KEY))


def test_wrong_arguments_are_refused(importer: WandbImporter, target: WandbServer) -> None:
    """Before anything is asked or written."""
    with pytest.raises(TypeError):
        importer.import_all(everything=True)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="leave out history=False"):
        importer.import_runs(history=False)
    with pytest.raises(UsageError, match="names no project"):
        importer.import_all(
            namespaces=[], remapping={Namespace("a", "b"): Namespace("", "c")}, reports=False
        )
    with pytest.raises(UsageError, match="no API key"):
        WandbImporter(target.url, "", target.url, TARGET_KEY)
    with pytest.raises(UsageError, match="https://HOST"):
        WandbImporter("api.wandb.ai", "key", target.url, TARGET_KEY)
    with pytest.raises(UsageError, match="entity/project"):
        Namespace.from_path("project")
    assert Namespace.from_path("a/b") == Namespace("a", "b")
    assert not [name for name in FILES if Path(f"{name}.jsonl").exists()]
