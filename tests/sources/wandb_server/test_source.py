"""Runs of a W&B server are listed lazily, selected by the server, and described in full."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.core.identity import SERVER
from mlflow_wandb_plugin.core.model import RunInfo, Selection, Size
from mlflow_wandb_plugin.errors import SourceError, UsageError
from tests.support.wandb_source import only_run, read_run, source_of
from tests.wandb_server import User, WandbServer
from tests.wandb_server.clients import Worker

HISTORY = {"RunParquetHistory", "HistoryPage", "RunFullHistory", "RunHistoryKeys", "download"}


@pytest.fixture(scope="module")
def many(wandb: WandbServer) -> WandbServer:
    """Five runs that differ in everything one selects by."""
    add = wandb.add_run
    add("many", "a", display_name="apple", created_at="2024-01-01T00:00:00Z")
    add("many", "b", display_name="berry", config={"lr": 0.1}, created_at="2024-01-02T00:00:00Z")
    add("many", "c", state="crashed", group="g", created_at="2024-01-03T00:00:00.500Z")
    add("many", "d", state="running", group="g", created_at="2024-01-04T00:00:00Z")
    add("many", "e", state="preempting", display_name="a", created_at="2024-01-05T00:00:00Z")
    return wandb


DAY_2_MS = 1_704_153_600_000


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (Selection(), "abcde"),
        (Selection(newest_first=True), "edcba"),
        (Selection(runs=("b", "c")), "bc"),
        (Selection(runs=("a",)), "ae"),
        (Selection(runs=("apple",)), "a"),
        (Selection(runs=("[b-c]",)), "bc"),
        (Selection(runs=(".*rry", "d")), "bd"),
        (Selection(states=("crashed",)), "c"),
        (Selection(states=("running",)), "de"),
        (Selection(groups=("g",)), "cd"),
        (Selection(since_ms=DAY_2_MS), "bcde"),
        (Selection(since_ms=DAY_2_MS + 1), "cde"),
        (Selection(until_ms=DAY_2_MS), "a"),
        (Selection(since_ms=DAY_2_MS, until_ms=DAY_2_MS + 86_400_500), "b"),
        (Selection(filter={"config.lr": {"$gt": 0.05}}), "b"),
        (Selection(filter={"state": "running"}, groups=("g",)), "d"),
    ],
    ids=str,
)
def test_runs_are_selected_and_ordered(many: WandbServer, selection: Selection, found: str) -> None:
    """Names, regular expressions, states, groups, times and filters, alone and together."""
    runs = source_of(many, "many").runs(selection)
    assert "".join(run.run_id for run in runs) == found


def test_the_server_does_the_selecting_that_it_can(many: WandbServer) -> None:
    """Exact names, states and groups are part of the query: other runs are not even sent."""
    for selection, sent in [
        (Selection(runs=("b",)), "b"),
        (Selection(states=("crashed",)), "c"),
        (Selection(groups=("g",)), "cd"),
        (Selection(since_ms=DAY_2_MS + 3 * 86_400_000), "de"),
    ]:
        list(source_of(many, "many").runs(selection))
        request = many.asked("Runs")[-1]
        filters = json.loads(request.variables["filters"])
        chosen = many.executor.run(
            'query Check($f: JSONString) { project(name: "many", entityName: "tester") '
            "{ runs(filters: $f) { edges { node { name } } } } }",
            {"f": json.dumps(filters)},
            "Check",
        )
        names = [edge["node"]["name"] for edge in chosen["data"]["project"]["runs"]["edges"]]
        assert "".join(names) == sent


def test_a_filter_that_the_server_does_not_know_is_one_clear_line(many: WandbServer) -> None:
    """The server's own words, in an error that names the operation."""
    source = source_of(many, "many")
    with pytest.raises(SourceError, match=r"W&B refused Runs: unknown operator \$near"):
        list(source.runs(Selection(filter={"state": {"$near": 1}})))


def test_a_run_is_described_in_full(wandb: WandbServer) -> None:
    """Everything that MLflow's run is made of, in the model's terms."""
    wandb.add_run(
        "full",
        "r1",
        display_name="the run",
        notes="why",
        tags=["x", "y"],
        group="g",
        job_type="train",
        commit="abc",
        state="killed",
        user=User("ada", "Ada", "ada@example.com"),
        config={"lr": 0.1, "net": {"depth": 2}, "mlflow_run_id": "m1"},
        rows=[{"x": 1.0, "_timestamp": 1.7e9}, {"x": 2.0, "_timestamp": 1.7e9 + 1}],
        created_at="2024-01-01T00:00:00.250Z",
        heartbeat_at="2024-01-01T01:00:00",
    )
    run = only_run(source_of(wandb, "full"))
    assert (run.run_id, run.path, run.name) == ("r1", "tester/full/r1", "the run")
    assert (run.notes, run.tags, run.group, run.job_type) == ("why", ("x", "y"), "g", "train")
    assert (run.state, run.started_ms, run.ended_ms) == (
        "killed", 1_704_067_200_250, 1_704_070_800_000,
    )  # fmt: skip
    assert run.config == {"lr": 0.1, "net": {"depth": 2}, "mlflow_run_id": "m1"}
    assert run.first_config["net", "depth"] == 2
    assert run.summary == {"x": 2.0}
    assert (run.rows, run.segments) == ({SERVER: 2}, (SERVER,))
    assert run.facts == {"account": "ada", "git_commit": "abc"}
    assert run.url == f"{wandb.url}/tester/full/runs/r1"


def test_a_run_of_the_sdk_brings_its_origin(wandb: WandbServer, api: Worker) -> None:
    """Program, host, Python and arguments are known once the run is read."""
    api.call(
        """
        import wandb
        with wandb.init(project="origin", id="r", config={"a": {"b": 1}}) as run:
            run.log({"x": 1})
        """
    )
    source = source_of(wandb, "origin")
    listed = only_run(source)
    assert listed.config["a"] == {"b": 1}
    assert ("_wandb", "value") not in listed.first_config
    facts = read_run(source, listed).last.facts
    assert facts["python"].startswith("CPython 3.")
    assert facts["account"] == "tester"
    assert facts["email"] == "tester@example.com"
    assert facts["host"]
    assert facts["os"]
    assert facts["executable"].endswith("python")


def test_metadata_fill_in_what_the_config_does_not_say(wandb: WandbServer) -> None:
    """Runs of older SDKs have their origin in wandb-metadata.json alone."""
    metadata = {
        "program": "train.py", "args": ["--lr", "1"], "git": {"remote": "r", "commit": "c"},
        "gpu": "A100", "gpu_count": 8, "codePath": "src/train.py", "cudaVersion": "12.4",
    }  # fmt: skip
    files = {"wandb-metadata.json": json.dumps(metadata).encode()}
    wandb.add_run("metadata", "r", files=files)
    facts = read_run(source_of(wandb, "metadata")).last.facts
    assert facts == {
        "account": "tester", "program": "train.py", "args": ["--lr", "1"], "git_remote": "r",
        "git_commit": "c", "gpu": "A100", "gpu_count": 8, "code_path": "src/train.py",
        "cuda": "12.4",
    }  # fmt: skip


def test_runs_of_a_sweep_name_it_and_its_config_is_asked_for_once(
    wandb: WandbServer, api: Worker
) -> None:
    """Sweep id, name and config are facts of each of its runs, for one request in all."""
    sweep_id = api.call(
        """
        import wandb
        result = wandb.sweep({"name": "tune", "method": "grid",
                              "parameters": {"lr": {"values": [1, 2]}}}, project="swept")
        """
    )
    for name in ("a", "b"):
        wandb.add_run("swept", name, sweep_name=sweep_id)
    source = source_of(wandb, "swept")
    for run in source.runs(Selection()):
        assert run.sweep_id == sweep_id
        assert run.facts["sweep_config"]["parameters"] == {"lr": {"values": [1, 2]}}
        assert run.facts["sweep_name"]
    assert source.calls["GetSweep"] == 1


def test_a_sweep_that_is_gone_leaves_its_id(wandb: WandbServer) -> None:
    """A deleted sweep does not stop the listing of its runs."""
    wandb.add_run("unswept", "r", sweep_name="gone")
    run = only_run(source_of(wandb, "unswept"))
    assert (run.sweep_id, run.facts["sweep_name"]) == ("gone", "gone")


def test_one_run_is_asked_for_by_its_id(many: WandbServer) -> None:
    """A URI that names a run costs one request, and the selection still holds."""
    source = source_of(many, "many", "b")
    assert only_run(source).name == "berry"
    assert dict(source.calls) == {"Run": 1}
    assert list(source_of(many, "many", "b").runs(Selection(states=("crashed",)))) == []


@pytest.mark.parametrize(
    ("project", "run_id", "message"),
    [
        ("nowhere", "", "no W&B project tester/nowhere"),
        ("many", "none", "no W&B run tester/many/none"),
    ],
)
def test_what_does_not_exist_is_one_clear_line(
    many: WandbServer, project: str, run_id: str, message: str
) -> None:
    """The error names the path and the server."""
    with pytest.raises(SourceError, match=message) as caught:
        list(source_of(many, project, run_id).runs(Selection()))
    assert "\n" not in str(caught.value)


def test_a_wrong_key_is_one_clear_line(many: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do and does not contain the key; there is no retry."""
    key = "f" * 40
    monkeypatch.setenv("WANDB_API_KEY", key)
    source = plugins.open_source(f"wandb+{many.url}/tester/many")
    before = len(many.asked("Runs"))
    with pytest.raises(
        UsageError, match="does not accept the API key: set WANDB_API_KEY"
    ) as caught:
        list(source.runs(Selection()))
    assert key not in str(caught.value)
    assert len(many.asked("Runs")) == before + 1


def test_a_server_that_is_not_there_is_one_clear_line(many: WandbServer) -> None:
    """Nobody listens: after some patience, a line that names the host."""
    source = source_of(many, "many", patience_s=0.5)
    object.__setattr__(source._client.address, "base_url", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"127\.0\.0\.1 did not answer: ConnectionError"):
        list(source.runs(Selection()))


def test_another_kind_of_server_is_one_clear_line(many: WandbServer) -> None:
    """An address without GraphQL is an error."""
    source = source_of(many, "many", patience_s=0.5)
    object.__setattr__(source._client.address, "base_url", f"{many.url}/nothing")
    with pytest.raises(SourceError, match="answered 404"):
        list(source.runs(Selection()))


@pytest.mark.parametrize("fault", [{"status": 429, "retry_after": 0.2}, {"drop_after_bytes": 500}])
def test_a_fault_between_pages_of_runs_is_survived(
    wandb: WandbServer, fault: dict[str, Any]
) -> None:
    """Each run is listed once, also when pages fail."""
    project = f"paged-{len(fault)}"
    wandb.add_runs(project, 250)
    rule = wandb.fail("Runs", skip=1, **fault)
    names = [run.run_id for run in source_of(wandb, project).runs(Selection())]
    assert names == [f"run-{i:05d}" for i in range(250)]
    assert rule.hits == 1


def test_a_run_added_between_two_pages_repeats_no_run(wandb: WandbServer) -> None:
    """Newest first, a new run moves a listed one to the next page: it is listed once."""
    wandb.add_runs("pushed", 150)
    wandb.fail(
        "Runs",
        skip=1,
        before=lambda: wandb.add_run("pushed", "new", created_at="2025-01-01T00:00:00Z"),
    )
    runs = source_of(wandb, "pushed").runs(Selection(newest_first=True))
    names = [run.run_id for run in runs]
    assert len(names) == len(set(names)) == 150


def test_five_thousand_runs_are_listed_in_pages_and_forgotten(wandb: WandbServer) -> None:
    """A page is asked for when the one before is used up, no run costs a request, none is kept."""
    wandb.add_runs("crowd", 5000)
    source = source_of(wandb, "crowd")
    before = described_runs()
    for number, run in enumerate(source.runs(Selection())):
        assert run.run_id == f"run-{number:05d}"
        assert run.config == {"index": number, "even": number % 2 == 0}
        assert source.calls == {"Runs": number // 100 + 1}
        if number % 1000 == 999:
            assert described_runs() - before <= 2
    assert number == 4999


def described_runs() -> int:
    """How many descriptions of runs this process holds."""
    gc.collect()
    return sum(isinstance(thing, RunInfo) for thing in gc.get_objects())


def test_listing_and_sizing_read_no_history(wandb: WandbServer) -> None:
    """A plan has points, bytes and requests from the server's description of the run."""
    rows = [{"x": i, "flag": True, "text": "t"} for i in range(2500)]
    events = [json.dumps({"system.cpu": 1.0, "_timestamp": 1.7e9}) for _ in range(10)]
    wandb.add_run(
        "sized", "r", rows=rows, events=events, system_metrics={"system.cpu": 1.0},
        files={"a": b"12345", "b": b"67"},
    )  # fmt: skip
    source = source_of(wandb, "sized")
    size = source.size(only_run(source))
    assert size == Size(points=5010, file_bytes=7, requests=12, files=2)
    assert not HISTORY & source.calls.keys()


def test_the_expected_requests_are_about_those_sent(wandb: WandbServer) -> None:
    """The planned and the actual number of requests differ by a few."""
    rows = [{"x": i} for i in range(3000)]
    wandb.add_run("priced", "r", rows=rows, files={f"{i}.txt": b"x" for i in range(20)})
    source = source_of(wandb, "priced")
    info = only_run(source)
    expected = source.size(info).requests
    before = sum(source.calls.values())
    read_run(source, info)
    assert abs(sum(source.calls.values()) - before - expected) <= 2
