"""The real SDK and wandb-core log to the server."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from . import Run, WandbServer
from .clients import Client, Worker, run_python
from .compare import same

RICH = """
import math
from pathlib import Path
import wandb

run = wandb.init(
    project="online", id="rich", name="A rich run", group="g", job_type="train", notes="n",
    tags=["a", "b"], config={"lr": 0.1, "net": {"depth": 3}},
    settings=wandb.Settings(x_stats_sampling_interval=0.1),
)
for i in range(10):
    run.log({"loss": 1 / (i + 1), "odd": math.nan if i % 2 else math.inf, "word": f"w{i}"})
run.log({"hist": wandb.Histogram([1, 2, 3]), "table": wandb.Table(["x"], [[1]])})
print("said on the console")
run.summary["best"] = 0.5
Path("weights.bin").write_bytes(b"0123456789" * 10)
run.save("weights.bin", policy="now")
for version in range(2):
    artifact = wandb.Artifact("model", type="model", metadata={"version": version})
    artifact.add_file("weights.bin", name="deep/weights.bin")
    artifact.add_reference(Path("weights.bin").resolve().as_uri(), name="data")
    with artifact.new_file("card.txt") as card:
        card.write(f"version {version}")
    run.log_artifact(artifact, aliases=["best"]).wait()
run.alert("Careful", "something happened")
run.finish()

with wandb.init(project="online", id="user") as run:
    run.use_artifact("model:v0").download("model")
    assert Path("model/card.txt").read_text() == "version 0"

with wandb.init(project="online", id="rich", resume="must") as run:
    assert run.starting_step == 11, run.starting_step
    run.log({"loss": 7.0})

with wandb.init(project="online", id="failing") as run:
    run.log({"loss": 1.0})
    run.finish(exit_code=3)
"""


@pytest.fixture(scope="module")
def rich(server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with something of everything, logged online and resumed once."""
    run_python(server, tmp_path_factory.mktemp("rich"), RICH)
    return server.run("online/rich")


def test_what_a_run_says_about_itself_arrives(rich: Run) -> None:
    """Name, group, tags, notes and configuration are stored."""
    assert rich.display_name == "A rich run"
    assert (rich.group, rich.job_type, rich.notes) == ("g", "train", "n")
    assert rich.tags == ["a", "b"]
    assert rich.values == {"lr": 0.1, "net": {"depth": 3}}


def test_history_continues_after_a_resume(rich: Run) -> None:
    """The resumed run adds its rows after those it had, numbers JSON lacks included."""
    rows = [line.row for line in rich.history.live]
    assert [row["_step"] for row in rows] == list(range(12))
    assert rows[0]["odd"] == math.inf
    assert math.isnan(rows[1]["odd"])
    assert rows[10]["hist"]["_type"] == "histogram"
    assert rows[11]["loss"] == 7


def test_state_follows_the_file_stream(server: WandbServer, rich: Run) -> None:
    """A run is finished after exit code 0 and failed after any other."""
    assert rich.state == "finished"
    failing = server.run("online/failing")
    assert (failing.state, failing.exit_code) == ("failed", 3)


def test_summary_files_console_metrics_and_alerts_arrive(rich: Run) -> None:
    """The side channels of a run are stored too."""
    assert rich.summary["best"] == 0.5
    assert rich.files["weights.bin"].path.read_bytes() == b"0123456789" * 10
    assert "wandb-metadata.json" in rich.files
    assert any(name.startswith("media/table/") for name in rich.files)
    assert rich.marked_uploaded >= {"weights.bin", "wandb-metadata.json"}
    assert any(json.loads(line)["content"] == "said on the console" for line in rich.console)
    assert any("system." in line for line in rich.events)
    assert rich.alerts[0]["title"] == "Careful"


def test_artifacts_have_versions_aliases_and_lineage(server: WandbServer, rich: Run) -> None:
    """Each content is a version; aliases move; inputs and outputs are known from both ends."""
    latest = server.artifact("online/model")
    first = server.artifact("online/model:v0")
    assert latest is server.artifact("online/model:best")
    assert latest is server.artifact("online/model:v1")
    assert first.created_by is rich
    assert first.used_by == [server.run("online/user")]
    assert json.loads(latest.metadata or "") == {"version": 1}


def test_the_public_api_reads_what_was_logged(
    server: WandbServer, rich: Run, reader: Worker
) -> None:
    """Attributes, summary, system metrics, console, files and metadata come back."""
    seen = reader.call(
        """
        import wandb
        run = wandb.Api().run("online/rich")
        run.file("weights.bin").download("downloads")
        result = {
            "name": run.name, "config": run.config, "state": run.state, "tags": run.tags,
            "best": run.summary["best"], "user": run.user.username,
            "system": len(run.history(samples=10_000, stream="system", pandas=False)),
            "cpu": "system.proc.cpu.threads" in run.system_metrics,
            "console": [line.content for line in run.console_logs()],
            "tail": [line.content for line in run.console_logs(last=1)],
            "files": sorted(file.name for file in run.files(per_page=2)),
            "txt": [file.name for file in run.files(pattern="%.txt")],
            "bytes": open("downloads/weights.bin").read(),
            "metadata": run.metadata["python"],
            "last": run.lastHistoryStep,
        }
        """
    )
    assert seen["name"] == "A rich run"
    assert seen["config"] == {"lr": 0.1, "net": {"depth": 3}}
    assert (seen["state"], seen["tags"], seen["best"]) == ("finished", ["a", "b"], 0.5)
    assert seen["user"] == server.store.user.username
    assert seen["system"] == len(rich.events)
    assert seen["cpu"]
    assert "said on the console" in seen["console"]
    assert seen["tail"] == seen["console"][-1:]
    assert seen["files"] == sorted(rich.files)
    assert seen["txt"] == ["requirements.txt"]
    assert seen["bytes"] == "0123456789" * 10
    assert seen["metadata"].startswith("CPython")
    assert seen["last"] == 11


def test_the_public_api_reads_artifacts_and_lineage(rich: Run, reader: Worker) -> None:
    """An artifact is found from its name, its run and its project, and downloads whole."""
    seen = reader.call(
        """
        import wandb
        from pathlib import Path
        api = wandb.Api()
        artifact = api.artifact("online/model:best")
        folder = Path(artifact.download("artifact", skip_cache=True))
        result = {
            "aliases": sorted(artifact.aliases), "version": artifact.version,
            "metadata": artifact.metadata, "type": artifact.type, "size": artifact.size,
            "files": {str(p.relative_to(folder)): p.stat().st_size
                      for p in folder.rglob("*") if p.is_file()},
            "reference": artifact.manifest.entries["data"].ref,
            "maker": artifact.logged_by().id,
            "users": [run.id for run in api.artifact("online/model:v0").used_by()],
            "logged": [a.name for a in api.run("online/rich").logged_artifacts()],
            "used": [a.name for a in api.run("online/user").used_artifacts()],
            "types": [t.name for t in api.artifact_types("online")],
            "versions": [a.version for a in api.artifacts("model", "online/model")],
            "exists": [api.artifact_exists(f"online/model:{v}") for v in ("v7", "v1")],
        }
        """
    )
    assert (seen["aliases"], seen["version"]) == (["best", "latest"], "v1")
    assert (seen["metadata"], seen["type"]) == ({"version": 1}, "model")
    assert seen["files"] == {"deep/weights.bin": 100, "card.txt": 9, "data": 100}
    assert seen["size"] == 209
    assert seen["reference"].startswith("file://")
    assert (seen["maker"], seen["users"]) == ("rich", ["user"])
    assert {"model:v0", "model:v1"} <= set(seen["logged"])
    assert seen["used"] == ["model:v0"]
    assert "model" in seen["types"]
    assert seen["versions"] == ["v1", "v0"]
    assert seen["exists"] == [False, True]


def test_scan_history_is_what_was_logged(rich: Run, reader: Worker) -> None:
    """Row by row, a scan equals the lines that wandb-core sent."""
    rows = reader.call(
        """
        import wandb
        result = list(wandb.Api().run("online/rich").scan_history(use_cache=False))
        """
    )
    assert same(rows, [line.row for line in rich.history.live])


def test_the_public_api_changes_a_run(server: WandbServer, reader: Worker) -> None:
    """Writing through the API is stored, and does not make a finished run a running one."""
    server.add_run("edited", "r", config={"lr": 1})
    server.add_run("edited", "gone")
    reader.call(
        """
        import wandb
        api = wandb.Api()
        run = api.run("edited/r")
        run.config["lr"] = 2
        run.tags.append("new")
        run.summary["score"] = 9
        run.update()
        with open("note.txt", "w") as file:
            file.write("uploaded later")
        run.upload_file("note.txt")
        api.run("edited/gone").delete()
        """
    )
    run = server.run("edited/r")
    assert (run.values, run.tags, run.state) == ({"lr": 2}, ["new"], "finished")
    assert run.summary["score"] == 9
    assert run.files["note.txt"].path.read_text() == "uploaded later"
    assert list(server.project("edited").runs) == ["r"]


def test_the_public_api_changes_an_artifact(server: WandbServer, rich: Run, reader: Worker) -> None:
    """Aliases, tags, description and metadata are stored; a single file can be had; links work."""
    seen = reader.call(
        """
        import wandb
        api = wandb.Api()
        artifact = api.artifact("online/model:v0")
        artifact.aliases.append("chosen")
        artifact.tags.append("checked")
        artifact.description = "the first"
        artifact.metadata["note"] = 1
        artifact.save()
        artifact.link("elsewhere/portfolio", aliases=["linked"])
        again = wandb.Api().artifact("online/model:chosen")
        link = wandb.Api().artifact("elsewhere/portfolio:linked")
        result = {
            "tags": again.tags, "description": again.description, "metadata": again.metadata,
            "aliases": again.aliases, "card": open(again.get_entry("card.txt").download()).read(),
            "link": [link.is_link, link.source_name],
        }
        """
    )
    assert seen == {
        "tags": ["checked"],
        "description": "the first",
        "metadata": {"version": 0, "note": 1},
        "aliases": ["chosen"],
        "card": "version 0",
        "link": [True, "model:v0"],
    }


def test_an_offline_run_is_synced(server: WandbServer, private: Path) -> None:
    """What `wandb sync` uploads later is the same run, with the times it was logged at."""
    run_python(
        server,
        private,
        """
        import wandb
        with wandb.init(project="offline", id="later", mode="offline") as run:
            for i in range(5):
                run.log({"x": i, "_timestamp": 1.5e9 + i})
        """,
    )
    assert not server.project("offline").runs
    folders = [str(path) for path in (private / "dir" / "wandb").glob("offline-run-*")]
    with Client(server, private, ["-m", "wandb", "sync", *folders]) as sync:
        sync.wait()
    run = server.run("offline/later")
    assert [line.row["x"] for line in run.history.live] == list(range(5))
    assert [line.row["_timestamp"] for line in run.history.live] == [1.5e9 + i for i in range(5)]
    assert run.state == "finished"


SHARED = """
import sys, wandb
label = sys.argv[1]
primary = label == "one"
run = wandb.init(
    project="shared", id="both", mode="shared",
    settings=wandb.Settings(x_label=label, x_primary=primary, x_update_finish_state=primary),
)
for i in range(5):
    run.log({f"{label}/value": i})
run.finish()
"""


def test_two_processes_share_a_run(server: WandbServer, tmp_path: Path) -> None:
    """Rows of both writers are there, under steps of the server's own."""
    program = tmp_path / "program.py"
    program.write_text(SHARED)
    with (
        Client(server, tmp_path / "one", [str(program), "one"]) as one,
        Client(server, tmp_path / "two", [str(program), "two"]) as two,
    ):
        one.wait()
        two.wait()
    run = server.run("shared/both")
    rows = [line.row for line in run.history.live]
    assert [row["_step"] for row in rows] == list(range(10))
    for label in ("one", "two"):
        assert [row[f"{label}/value"] for row in rows if f"{label}/value" in row] == list(range(5))
        assert run.summary[f"{label}/value"] == 4
        assert any(f"/l:{label}" in line for line in run.events)
    assert run.state == "finished"


def test_a_wrong_key_is_refused(server: WandbServer, private: Path) -> None:
    """A client with another API key does not get in."""
    with pytest.raises(AssertionError, match="exit code 1"):
        run_python(server, private, "import wandb; wandb.Api().viewer", WANDB_API_KEY="1" * 40)
