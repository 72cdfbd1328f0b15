"""``w2m``: every flag of export-wandb-to-mlflow, as it spells and means them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin import plugins, w2m
from mlflow_wandb_plugin.archive.target import open_archive
from mlflow_wandb_plugin.core.model import Checkpoint, Item, RunInfo, Selection, Series, Size
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.errors import SourceError, UsageError
from mlflow_wandb_plugin.hookspecs import hookimpl
from mlflow_wandb_plugin.w2m import command
from mlflow_wandb_plugin.w2m.flags import Flags, parse
from tests.support.ewm import write_project, write_run
from tests.support.mlflow_state import RunState, read_runs

PROJECT = "--wandb_project_name=p"
START = 1_714_564_800_000
BOOLS = (
    "verbose", "resume_from_crash", "skip_existing_runs", "dry_run", "resume_from_dry_run",
    "resume_from_dry_run_ordered_by_creation_time", "is_dual_writing_experiment",
    "skip_dual_writing_runs",
)  # fmt: skip
TEXTS = ("wandb_org_name", "mlflow_experiment_name", "log_dir", "dry_run_save_dir")
LISTS = ("wandb_run_names", "exclude_metrics")
NUMBER = "dry_run_thread_pool_size"


class Server(Source):
    """Stands for a W&B server: a plugin that offers a `Source` for ``wandb://``."""

    def __init__(self) -> None:
        self.infos: list[RunInfo] = []
        self.opened: list[str] = []
        self.reads: list[str] = []
        self.break_after = 10**9

    @hookimpl(tryfirst=True)
    def open_source(self, uri: str) -> Any:
        if not uri.startswith("wandb://"):
            return None
        self.opened.append(uri)
        return self

    def add(self, run_id: str, **fields: Any) -> None:
        made = RunInfo(
            run_id, "p", "org", name=f"name-{run_id}", segments=("log",), state="finished",
            started_ms=START + len(self.infos), ended_ms=START + 10**6,
        )  # fmt: skip
        self.infos.append(replace(made, **fields))

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        return iter(self.infos)

    def size(self, run: RunInfo) -> Size:
        return Size()

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        self.reads.append(run.run_id)
        times = [START + step for step in range(5)]
        for key in ("loss", "train/loss", "acc"):
            yield Series((key,), range(5), times, [float(step) for step in range(5)])
        yield Checkpoint("log", 5)
        if len(self.reads) > self.break_after:
            raise SourceError("the server went away")
        yield run


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    plugins.manager().register(server)
    for run_id in ("a1", "b2", "c3"):
        server.add(run_id)
    yield server
    plugins.manager().unregister(server)


@pytest.fixture
def mlflow(fresh_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh_store)
    return fresh_store


def w2m_exits_with(code: int, *arguments: str) -> None:
    with pytest.raises(SystemExit) as exited:
        command.main(["--wandb_org_name=org", PROJECT, *arguments])
    assert exited.value.code == code


def experiments(uri: str) -> set[str]:
    from mlflow import MlflowClient

    return {experiment.name for experiment in MlflowClient(uri).search_experiments()} - {"Default"}


def complete(runs: dict[str, RunState]) -> set[str]:
    return {key for key, run in runs.items() if run.tags.get("mlflow.wandb.state") == "complete"}


# -- spellings --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOOLS)
@pytest.mark.parametrize(
    ("spelling", "value"),
    [("--{}", True), ("--{}=True", True), ("--{} True", True), ("--{}=true", True), ("-{}", True),
     ("--{}=1", True), ("--{}=False", False), ("--{} false", False), ("--no{}", False),
     ("--{}=0", False), ("-{}=False", False)],
)  # fmt: skip
def test_bools_are_spelt_as_absl_does(name: str, spelling: str, value: bool) -> None:
    """Bare, with =, with a value of its own, negated; whatever comes next is not swallowed."""
    given = parse([*spelling.format(name).split(), "--dry_run_save_dir=d", PROJECT])
    assert getattr(given, name) is value
    assert given.wandb_project_name == "p"


def test_a_flag_that_was_not_given_is_off() -> None:
    """All flags have that tool's defaults."""
    assert parse([PROJECT]) == Flags("p")
    assert parse(["--wandb_project_name", "p"]) == Flags("p")


def test_lists_take_commas_and_repetition() -> None:
    """A regular expression with a comma of its own stands in quotes."""
    for name in LISTS:
        given = parse([PROJECT, f"--{name}=a,b", f"--{name}", 'c, "d{1,2}"', f"--{name}="])
        assert getattr(given, name) == ("a", "b", "c", "d{1,2}")


def test_texts_and_the_number() -> None:
    """``--flag=value`` and ``--flag value``."""
    for name in TEXTS:
        for arguments in ([f"--{name}=x y"], [f"--{name}", "x y"]):
            assert getattr(parse([PROJECT, *arguments]), name) == "x y"
    assert parse([PROJECT, f"--{NUMBER}=30"]).dry_run_thread_pool_size == 30


def test_the_flag_that_the_old_tool_misspells_is_taken_too() -> None:
    """Scripts that work with that tool say "orderd"."""
    misspelt = parse([PROJECT, "--resume_from_dry_run_orderd_by_creation_time=True"])
    assert misspelt.resume_from_dry_run_ordered_by_creation_time


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--wandb_project_name is required"),
        ([PROJECT, "--dry_run", "--resume_from_dry_run", "--dry_run_save_dir=d"], "cannot both"),
        ([PROJECT, "--skip_existing_runs", "--resume_from_crash"], "cannot both"),
        ([PROJECT, "--dry_run"], "--dry_run needs --dry_run_save_dir"),
        ([PROJECT, "--resume_from_dry_run=True"], "needs --dry_run_save_dir"),
        ([PROJECT, "--verbose=perhaps"], "neither True nor False"),
        ([PROJECT, f"--{NUMBER}=many"], "invalid int"),
        ([PROJECT, f"--{NUMBER}=0"], "1 or more"),
        ([PROJECT, "--unheard_of=1"], "--unheard_of"),
        ([PROJECT, "stray"], "stray"),
        ([PROJECT, "--wandb_org_name"], "expected one argument"),
        ([PROJECT, "--wandb_org_name=o", "--wandb_run_names=("], "not a regular expression"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], server: Server
) -> None:
    """Conflicts are refused as that tool documents them; nothing is read."""
    with pytest.raises(SystemExit) as exited:
        command.main(arguments)
    assert exited.value.code == 2
    captured = capsys.readouterr().err.strip()
    assert captured.startswith("w2m: ")
    assert told in captured
    assert "\n" not in captured
    assert not server.reads


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a text; docs/w2m.md describes it, too."""
    with pytest.raises(SystemExit) as exited:
        command.main(["--help"])
    assert exited.value.code == 0
    shown = capsys.readouterr().out
    page = (Path(__file__).parents[2] / "docs" / "w2m.md").read_text()
    for name in ("wandb_project_name", *BOOLS, *TEXTS, *LISTS, NUMBER):
        assert re.search(rf"--{name}\b[^-]*\w", shown), name
        assert f"`{name}`" in page, name


def test_the_entity_is_found_as_wandb_finds_it(
    server: Server, mlflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``wandb_org_name``, else WANDB_ENTITY, else one line; names are quoted in the URI."""
    monkeypatch.setenv("WANDB_ENTITY", "my team")
    assert command.source_uri(Flags("a project/x")) == "wandb://my%20team/a%20project%2Fx"
    assert command.source_uri(Flags("p", wandb_org_name="org")) == "wandb://org/p"
    monkeypatch.delenv("WANDB_ENTITY")
    with pytest.raises(UsageError, match="--wandb_org_name"):
        command.source_uri(Flags("p"))


# -- from a server ----------------------------------------------------------------------------


def test_a_project_arrives_in_an_experiment_of_its_name(server: Server, mlflow: str) -> None:
    """All runs, under their W&B names, with every point."""
    w2m_exits_with(0)
    assert server.opened == ["wandb://org/p"]
    runs = read_runs(mlflow)
    assert complete(runs) == {"a1", "b2", "c3"}
    assert runs["a1"].name == "name-a1"
    assert runs["a1"].points("loss") == [(step, float(step)) for step in range(5)]
    assert experiments(mlflow) == {"p"}


def test_mlflow_experiment_name(server: Server, mlflow: str) -> None:
    """The experiment that is named, instead of the project's."""
    w2m_exits_with(0, "--mlflow_experiment_name=other")
    assert experiments(mlflow) == {"other"}


def test_an_experiment_of_the_old_tool_is_gone_on_with(server: Server, mlflow: str) -> None:
    """It called them ``/project``; runs that it has migrated there are not migrated again."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow)
    experiment = client.create_experiment("/p", tags={"migrate_from_wandb_project": "True"})
    tags = {"wandb_run_id": "a1", "wandb_migration_complete": "True"}
    client.create_run(experiment, tags=tags)
    w2m_exits_with(0)
    assert experiments(mlflow) == {"/p"}
    assert complete(read_runs(mlflow)) == {"b2", "c3"}


def test_wandb_run_names(server: Server, mlflow: str) -> None:
    """A name, or a regular expression of how it begins."""
    w2m_exits_with(0, "--wandb_run_names=name-a,.*-c")
    assert set(read_runs(mlflow)) == {"a1", "c3"}


def test_exclude_metrics(server: Server, mlflow: str) -> None:
    """A whole name or a pattern of it: ``loss`` leaves ``train/loss`` in."""
    w2m_exits_with(0, "--exclude_metrics=loss,ac.")
    assert set(read_runs(mlflow)["a1"].metrics) == {"train/loss"}


@pytest.mark.parametrize("flag", ["--resume_from_crash=True", "--skip_existing_runs", ""])
def test_after_a_crash_the_rest_is_migrated(server: Server, mlflow: str, flag: str) -> None:
    """Whole runs are not read again, a half one is completed, and none is there twice."""
    server.break_after = 1
    w2m_exits_with(1)
    assert complete(read_runs(mlflow)) == {"a1"}
    server.break_after, server.reads = 10**9, []
    w2m_exits_with(0, *filter(None, [flag]))
    assert server.reads == ["b2", "c3"]
    assert complete(read_runs(mlflow)) == {"a1", "b2", "c3"}


def _dual_written(server: Server, mlflow: str) -> str:
    """Make a1 a run that MosaicML Composer has written into an experiment of its own."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow)
    experiment = client.create_experiment("composer")
    run_id: str = client.create_run(experiment).info.run_id
    client.log_metric(run_id, "loss", 1.0, step=0, timestamp=START)
    config = {"mlflow_run_id": run_id, "mlflow_experiment_id": experiment}
    server.infos[0] = replace(server.infos[0], config=config)
    return run_id


def test_skip_dual_writing_runs(server: Server, mlflow: str) -> None:
    """A dual-written run is left as it is; the others are migrated."""
    run_id = _dual_written(server, mlflow)
    w2m_exits_with(0, "--skip_dual_writing_runs=True")
    runs = read_runs(mlflow)
    assert set(runs) == {run_id, "b2", "c3"}
    assert set(runs[run_id].metrics) == {"loss"}
    assert server.reads == ["b2", "c3"]


def test_dual_written_runs_that_are_not_to_be_skipped(server: Server, mlflow: str) -> None:
    """``--skip_dual_writing_runs=False`` migrates them into runs of their own."""
    run_id = _dual_written(server, mlflow)
    w2m_exits_with(0, "--skip_dual_writing_runs=False")
    assert set(read_runs(mlflow)) == {run_id, "a1", "b2", "c3"}


def test_is_dual_writing_experiment(server: Server, mlflow: str) -> None:
    """All runs go where the dual-written ones are; without any, into the project's experiment."""
    w2m_exits_with(0, "--is_dual_writing_experiment", "--wandb_run_names=name-c3")
    assert experiments(mlflow) == {"p"}
    _dual_written(server, mlflow)
    w2m_exits_with(
        0, "--is_dual_writing_experiment=True", "--skip_dual_writing_runs=True",
        "--mlflow_experiment_name=unused",
    )  # fmt: skip
    assert experiments(mlflow) == {"p", "composer"}


def test_log_dir_and_verbose(
    server: Server, mlflow: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is told goes to stdout and to a file; ``--verbose`` tells more."""
    w2m_exits_with(0, f"--log_dir={tmp_path / 'logs'}", "--wandb_run_names=name-a", "--verbose")
    [file] = (tmp_path / "logs").iterdir()
    for text in (file.read_text(), capsys.readouterr().out):
        assert "migrated a1 (name-a1): 15 points" in text
        assert "skipped b2" in text
        assert "1 migrated" in text
    w2m_exits_with(0, "--wandb_run_names=name-a")
    assert "skipped b2" not in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    w2m_exits_with(2, f"--log_dir={tmp_path / 'file'}")


def test_ctrl_c_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whenever it comes: the command ends as shells expect it."""

    def interrupt(flags: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupt)
    monkeypatch.setattr("sys.argv", ["w2m", PROJECT])
    with pytest.raises(SystemExit) as ended:
        w2m.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "w2m: interrupted; run the same command to go on\n"


# -- dry runs ---------------------------------------------------------------------------------


def test_a_dry_run_and_its_import(server: Server, mlflow: str, tmp_path: Path) -> None:
    """The dry run touches no MLflow; the import touches no W&B; both can be repeated."""
    archive = f"--dry_run_save_dir={tmp_path / 'migrations'}"
    w2m_exits_with(0, "--dry_run=True", archive, "--dry_run_thread_pool_size=3")
    assert experiments(mlflow) == set()
    w2m_exits_with(0, "--dry_run", archive, "--resume_from_crash")
    assert sorted(server.reads) == ["a1", "b2", "c3"]
    server.opened = []
    ordered = "--resume_from_dry_run_ordered_by_creation_time=True"
    for _ in range(2):
        w2m_exits_with(0, "--resume_from_dry_run=True", archive, ordered)
    assert server.opened == []
    assert complete(read_runs(mlflow)) == {"a1", "b2", "c3"}
    assert experiments(mlflow) == {"p"}


def test_the_import_takes_the_project_that_is_named(
    server: Server, mlflow: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One folder may hold several projects; a project that is not in it is one clear line."""
    server.add("z9", project="other")
    archive = f"--dry_run_save_dir={tmp_path / 'migrations'}"
    w2m_exits_with(0, "--dry_run", archive)
    assert len(list(open_archive(f"archive:{tmp_path / 'migrations'}").runs(Selection()))) == 4
    w2m_exits_with(0, "--resume_from_dry_run", archive, "--wandb_run_names=.*[39]")
    assert set(read_runs(mlflow)) == {"c3"}
    w2m_exits_with(2, "--resume_from_dry_run", archive, "--wandb_project_name=absent")
    assert "no run of absent" in capsys.readouterr().err
    w2m_exits_with(2, "--resume_from_dry_run", f"--dry_run_save_dir={tmp_path / 'absent'}")


def test_a_dry_run_skips_what_is_marked(server: Server, tmp_path: Path) -> None:
    """By the marks of this package, Composer and llm-foundry, for no MLflow can be asked."""
    marks: list[dict[str, Any]] = [{"mlflow_experiment_id": "7"}, {"loggers": {"mlflow": {}}}]
    for index, config in enumerate(marks):
        server.infos[index] = replace(server.infos[index], config=config)
    archive = f"--dry_run_save_dir={tmp_path / 'migrations'}"
    w2m_exits_with(0, "--dry_run", archive, "--skip_dual_writing_runs")
    assert server.reads == ["c3"]


@pytest.mark.parametrize("folder", ["p", "an experiment"])
def test_an_archive_of_the_old_tool_is_imported(mlflow: str, tmp_path: Path, folder: str) -> None:
    """CSV and all; its project's folder may be called after the experiment."""
    project = write_project(tmp_path / "migrations", "p", folder)
    write_project(tmp_path / "migrations", "q")
    write_run(project, "abc", config={"lr": 0.1}, metrics={"a.loss": [(1.5, START, 4)]})
    write_run(tmp_path / "migrations" / "q", "def")
    archive = f"--dry_run_save_dir={tmp_path / 'migrations'}"
    w2m_exits_with(0, "--resume_from_dry_run=True", archive, "--mlflow_experiment_name=mine")
    runs = read_runs(mlflow)
    assert complete(runs) == {"abc"}
    assert runs["abc"].metrics == {"a/loss": [(1.5, START, 4)]}
    assert experiments(mlflow) == {"mine"}
    if folder != "p":
        named = f"--wandb_project_name={folder}"
        w2m_exits_with(0, "--resume_from_dry_run=True", archive, named, "--wandb_run_names=name")


def test_it_is_a_command(tmp_path: Path) -> None:
    """A console script of the distribution; its errors are no tracebacks."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '\nw2m = "mlflow_wandb_plugin.w2m:main"\n' in project
    code = "from mlflow_wandb_plugin.w2m import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, PROJECT, "--dry_run"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "w2m: --dry_run needs --dry_run_save_dir\n"
