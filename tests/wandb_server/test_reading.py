"""The real public API lists runs, files and projects that no client logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import User, WandbServer
from .clients import Worker, run_python


@pytest.fixture(scope="module")
def filled(server: WandbServer) -> WandbServer:
    """Four runs that differ in everything one filters by."""
    ada = User("ada", "Ada")
    add = server.add_run
    add("many", "a", config={"lr": 0.1, "net": {"depth": 2}}, created_at="2024-01-01T00:00:00Z")
    add("many", "b", config={"lr": 0.2}, tags=["x", "y"], created_at="2024-01-02T00:00:00Z")
    add(
        "many",
        "c",
        state="crashed",
        user=ada,
        summary={"loss": 0.5, "a/b.c": 1},
        created_at="2024-01-03T00:00:00Z",
        heartbeat_at="2024-02-03T00:00:00Z",
    )
    add("many", "d", state="killed", group="g", job_type="eval", created_at="2024-01-04T00:00:00Z")
    return server


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "abcd"),
        ({"state": "crashed"}, "c"),
        ({"state": {"$in": ["crashed", "killed"]}}, "cd"),
        ({"state": {"$nin": ["crashed", "killed"]}}, "ab"),
        ({"state": {"$ne": "finished"}}, "cd"),
        ({"$or": [{"config.lr": 0.1}, {"group": "g"}]}, "ad"),
        ({"$and": [{"config.lr.value": {"$gte": 0.1}}, {"config.lr": {"$lt": 0.2}}]}, "a"),
        ({"config.net.depth": 2}, "a"),
        ({"config.lr": {"$exists": False}}, "cd"),
        ({"summary_metrics.loss": {"$gt": 0.4, "$lte": 0.5}}, "c"),
        ({"summary_metrics.a/b.c": 1}, "c"),
        ({"tags": "x"}, "b"),
        ({"tags": {"$in": ["y", "z"]}}, "b"),
        ({"username": "ada"}, "c"),
        ({"displayName": {"$regex": "^[ab]$"}}, "ab"),
        ({"createdAt": {"$gt": "2024-01-02T12:00:00"}}, "cd"),
        ({"createdAt": {"$gte": "2024-01-02", "$lt": "2024-01-04T00:00:00+00:00"}}, "bc"),
        ({"name": "d"}, "d"),
    ],
)
def test_runs_are_filtered(
    filled: WandbServer, reader: Worker, filters: dict[str, Any], expected: str
) -> None:
    """Filters reach the server as they are and choose the runs."""
    names = reader.call(
        f"""
        import wandb
        result = [run.id for run in wandb.Api().runs("many", filters={filters!r})]
        """
    )
    assert "".join(names) == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("+created_at", "abcd"),
        ("-created_at", "dcba"),
        ("-config.lr.value", "bacd"),
        ("+summary_metrics.loss", "abdc"),
    ],
)
def test_runs_are_ordered(filled: WandbServer, reader: Worker, order: str, expected: str) -> None:
    """An order key sorts, with runs that lack it first when ascending."""
    names = reader.call(
        f"""
        import wandb
        result = [run.id for run in wandb.Api().runs("many", order={order!r})]
        """
    )
    assert "".join(names) == expected


def test_an_unknown_operator_is_an_error(filled: WandbServer, reader: Worker) -> None:
    """A filter the server does not understand is not taken for one that matches nothing."""
    with pytest.raises(AssertionError, match=r"unknown operator \$near"):
        reader.call(
            """
            import wandb
            list(wandb.Api().runs("many", filters={"state": {"$near": 1}}))
            """
        )


def test_lazy_runs_cost_a_request_each_when_opened(filled: WandbServer, reader: Worker) -> None:
    """Touching the configuration of a lazy run asks for that run; full runs have it already."""
    already = len(filled.asked("Run"))
    for lazy in (True, False):
        configs = reader.call(
            f"""
            import wandb
            result = [run.config for run in wandb.Api().runs("many", lazy={lazy})]
            """
        )
        assert configs[0] == {"lr": 0.1, "net": {"depth": 2}}
    assert len(filled.asked("Run")) == already + 4
    assert len(filled.asked("Run", run="a")) == 1


def test_five_thousand_runs_are_paged(server: WandbServer, reader: Worker) -> None:
    """Every run is listed once, over as many pages as it takes."""
    server.add_runs("crowd", 5000)
    before = len(server.asked("Runs"))
    names, count = reader.call(
        """
        import wandb
        runs = wandb.Api().runs("crowd", per_page=500)
        result = [run.id for run in runs], len(runs)
        """
    )
    assert names == [f"run-{i:05d}" for i in range(5000)]
    assert count == 5000
    assert len(server.asked("Runs")) == before + 10


def test_states_times_and_users_are_what_was_set(filled: WandbServer, reader: Worker) -> None:
    """A run made without a client reads like any other."""
    seen = reader.call(
        """
        import wandb
        run = wandb.Api().run("many/c")
        result = [run.state, run.created_at, run.heartbeat_at, run.user.username]
        """
    )
    assert seen == ["crashed", "2024-01-03T00:00:00Z", "2024-02-03T00:00:00Z", "ada"]


def test_hostile_names_come_through_unchanged(server: WandbServer, reader: Worker) -> None:
    """Names with dots, slashes, NUL, and great length are listed and read, and stay inside."""
    long = "n" * 4000
    files = {"../up.txt": b"u", f"{long}.bin": b"l", "nul\0.txt": b"0", "a/b c%?#.txt": b"ok"}
    server.add_run("hostile", "../../etc", display_name=f"\0{long}", files=files, rows=[{"x": 1}])
    seen = reader.call(
        """
        import wandb
        run = wandb.Api().runs("hostile")[0]
        run.file("a/b c%?#.txt").download("hostile")
        result = [run.id, run.name, sorted(f.name for f in run.files()),
                  [row["x"] for row in run.scan_history(use_cache=False)],
                  open("hostile/a/b c%?#.txt").read()]
        """
    )
    assert seen == ["../../etc", f"\0{long}", sorted(files), [1], "ok"]
    kept = {path.name for path in server.directory.rglob("*") if path.is_file()}
    assert all(name.isalnum() or name.endswith(".parquet") for name in kept)


def test_projects_and_the_viewer_are_listed(filled: WandbServer, reader: Worker) -> None:
    """One finds the projects of an entity, and oneself."""
    viewer, projects = reader.call(
        """
        import wandb
        api = wandb.Api()
        result = api.viewer.username, [p.name for p in api.projects("tester")]
        """
    )
    assert viewer == "tester"
    assert "many" in projects


def test_reports_are_listed(server: WandbServer, reader: Worker) -> None:
    """Their titles, as many as there are."""
    server.project("reported").reports.extend(["first", "second"])
    titles = reader.call(
        """
        import wandb
        result = [report.display_name for report in wandb.Api().reports("tester/reported")]
        """
    )
    assert titles == ["first", "second"]


def test_missing_things_are_errors(server: WandbServer, reader: Worker) -> None:
    """A project or a run that does not exist is reported as such."""
    server.add_run("there", "run")
    for code, message in [
        ('list(wandb.Api().runs("nowhere"))', "Could not find project"),
        ('wandb.Api().run("there/none")', "Could not find run"),
        ('wandb.Api().run("there/run").file("none")', "index out of range"),
    ]:
        with pytest.raises(AssertionError, match=message):
            reader.call(f"import wandb\n{code}")


def test_a_client_stays_in_its_private_directory(server: WandbServer, private: Path) -> None:
    """All that a client writes is below the directory it was given."""
    output = run_python(
        server,
        private,
        """
        import os, wandb
        with wandb.init(project="private") as run:
            run.log({"x": 1})
        print(os.path.expanduser("~"), run.dir)
        """,
    )
    assert output.count(str(private)) >= 1
    assert (private / "home").is_dir()
    assert list((private / "dir" / "wandb").glob("run-*"))
