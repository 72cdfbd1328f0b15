"""``archive:DIR``: W&B → archive → MLflow is W&B → MLflow."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlflow_wandb_plugin import backfill
from mlflow_wandb_plugin.backfill.engine import Outcome, replicate
from mlflow_wandb_plugin.endpoints.archive import (
    ArchiveTarget,
    create_archive,
    open_archive,
)
from mlflow_wandb_plugin.endpoints.archive_codec import dumps, info_document, info_from, loads
from mlflow_wandb_plugin.endpoints.archive_names import FileNames, folder_name
from mlflow_wandb_plugin.endpoints.archive_run import run_folder
from mlflow_wandb_plugin.endpoints.base import Source
from mlflow_wandb_plugin.errors import SourceError, TargetError, UsageError
from mlflow_wandb_plugin.identity import verdict
from mlflow_wandb_plugin.model import (
    ArtifactEntry,
    ArtifactRef,
    Damage,
    FileRef,
    Item,
    Mark,
    RowObjects,
    RunInfo,
    Selection,
    Series,
)
from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_script, started, wait_until
from tests.support.stores import copy_store

SCRIPT = r"""
import math, pathlib, time
import numpy as np
import wandb

config = {"lr": 0.1, "opt": {"name": "adam", "betas": [0.9, 0.99]}, "none": None, "big": 2**70,
          "text": "déjà", "nan": math.nan, "empty": {}, "$float": "nan"}
run = wandb.init(project="Kept", id="Run01", name="a <b>name</b>", notes="notes", group="g",
                 job_type="train", tags=["one", "two"], config=config,
                 settings=wandb.Settings(x_stats_sampling_interval=0.2))
run.define_metric("low", summary="min")
for step in range(40):
    run.log({"loss": 1 / (step + 1), "a": {"b": step}, "a.b": -step, "recall@5": 0.5,
             "odd": math.nan if step % 7 == 0 else math.inf if step % 5 == 0 else step})
run.log({"text": "héllo", "list": [1, "x", 2.5], "deep": {"er": "x"}, "deep.er": "y", "low": 1})
pixels = np.arange(300, dtype="uint8").reshape(10, 10, 3)
run.log({"image": wandb.Image(pixels, caption="c"), "wide": np.arange(1000.0),
         "table": wandb.Table(columns=["x", "y"], data=[[1, "a"], [2, "b"]]), "low": 0})
run.summary["final"] = 0.75
run.config.update({"lr": 0.2}, allow_val_change=True)
pathlib.Path("saved.txt").write_text("saved")
run.save("saved.txt", policy="now")
pathlib.Path("weights.bin").write_bytes(bytes(range(256)) * 10)
artifact = wandb.Artifact("model", "weights", description="d", metadata={"acc": 0.5})
artifact.add_file("weights.bin", name="sub/weights.bin")
artifact.add_reference("store://bucket/elsewhere", name="far", checksum=False)
run.log_artifact(artifact, aliases=["best"])
print("printed by the script")
time.sleep(0.7)  # three samples of the system
run.finish()

run = wandb.init(project="Kept", id="Run01", resume="allow")
for step in range(100, 110):
    run.log({"loss": 1.0, "later": step}, step=step)
run.finish()

with wandb.init(project="Kept", id="run01", name="differs in case only") as run:
    run.log({"loss": 3.0})
"""


class Ways:
    """The runs as MLflow holds them: carried directly, and through an archive."""

    def __init__(self, direct: dict[str, RunState], archived: dict[str, RunState]) -> None:
        self.direct, self.archived = direct, archived


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of W&B's with two offline runs, one of them resumed."""
    folder = tmp_path_factory.mktemp("offline")
    env = isolated(folder)
    run_script(SCRIPT, env, folder / "work")
    return Path(env["WANDB_DIR"]) / "wandb"


@pytest.fixture(scope="module")
def archive(offline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "archive"
    outcomes = backfill(str(offline), f"archive:{folder}")
    assert [(o.action, o.losses) for o in outcomes] == [("migrated", {})] * 2, outcomes
    return folder


@pytest.fixture(scope="module")
def ways(
    offline: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Ways:
    folder = tmp_path_factory.mktemp("ways")
    states = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, source in (("direct", str(offline)), ("archived", f"archive:{archive}")):
            uri = copy_store(empty_store, folder / f"{name}.db")
            outcomes = backfill(source, uri)
            assert [o.action for o in outcomes] == ["migrated"] * 2, outcomes
            states.append(read_runs(uri, folder / name))
    return Ways(*states)


@pytest.mark.parametrize("run_id", ["Run01", "run01"])
def test_an_archive_between_changes_nothing(ways: Ways, run_id: str) -> None:
    """Params, all tags, every point with time, step and NaN, and artifacts by digest are equal."""
    direct, archived = ways.direct[run_id], ways.archived[run_id]
    for part, value in direct.comparable().items():
        assert archived.comparable()[part] == value, part
    assert direct.tags == archived.tags
    assert archived.tags["wandb.sync.state"] == "complete"


def test_the_comparison_compares_something(ways: Ways) -> None:
    """The run holds each kind of thing that an archive carries."""
    run = ways.archived["Run01"]
    assert [step for step, _ in run.points("loss")] == [*range(40), *range(100, 110)]
    assert "nan" in [value for _, value in run.points("odd")]
    assert any(name.startswith("system/") for name in run.metrics)
    wanted = {"wandb/files/saved.txt", "wandb/files/output.log", "wandb/history.jsonl"}
    assert wanted <= set(run.artifacts)
    assert any(path.startswith("wandb/artifacts/model/") for path in run.artifacts)
    assert len(json.loads(run.tags["wandb.sync.rows"])) == 2


def test_pandas_reads_metrics_without_this_package(archive: Path) -> None:
    """One `read_parquet` of a folder gives key, path, step, time and value as they were logged."""
    folder = run_folder(archive, RunInfo("Run01", "Kept"))
    frame = pd.read_parquet(folder / "metrics")
    assert list(frame.columns) == ["key", "path", "step", "timestamp_ms", "value"]
    loss = frame[frame.key == "loss"]
    assert loss.step.tolist() == [*range(40), *range(100, 110)]
    assert loss.value.tolist() == [1 / (step + 1) for step in range(40)] + [1.0] * 10
    nested, dotted = (
        frame[frame.path == path].value.tolist() for path in ('["a", "b"]', '["a.b"]')
    )
    assert nested == [-value for value in dotted] == [float(step) for step in range(40)]
    odd = frame[frame.key == "odd"].value
    assert math.isnan(odd.iloc[0])
    assert odd.iloc[5] == math.inf
    assert len(pd.read_parquet(folder / "system_metrics")) > 0
    assert (archive / "README.md").read_text().startswith("# An archive of W&B runs")


def test_a_second_pass_skips_what_is_there(offline: Path, archive: Path, fresh_store: str) -> None:
    """Complete runs are not written again, into an archive or out of it."""
    before = _contents(archive)
    again = backfill(str(offline), f"archive:{archive}")
    assert [(o.action, o.verdict) for o in again] == [("skipped", "existing")] * 2
    assert _contents(archive) == before
    assert [o.action for o in backfill(f"archive:{archive}", fresh_store)] == ["migrated"] * 2
    twice = backfill(f"archive:{archive}", fresh_store)
    assert [(o.action, o.verdict) for o in twice] == [("skipped", "existing")] * 2
    direct = backfill(str(offline), fresh_store)
    assert [(o.action, o.verdict) for o in direct] == [("skipped", "existing")] * 2


def test_one_run_or_project_of_an_archive_is_a_source(archive: Path) -> None:
    """``archive:DIR/ENTITY/PROJECT[/RUN]`` reads what is below."""
    run = run_folder(archive, RunInfo("run01", "Kept"))
    for folder, wanted in ((run, ["run01"]), (run.parent, ["Run01", "run01"])):
        source = open_archive(f"archive:{folder}")
        assert sorted(info.run_id for info in source.runs(Selection())) == wanted
    sizes = [source.size(info) for info in source.runs(Selection())]
    assert all(size.points > 0 and size.file_bytes > 0 for size in sizes)


def test_an_archive_of_an_archive_is_equal(archive: Path, tmp_path: Path) -> None:
    """Reading gives back all that was written."""
    backfill(f"archive:{archive}", f"archive:{tmp_path / 'copy'}")
    assert _items(open_archive(f"archive:{tmp_path / 'copy'}")) == _items(
        open_archive(f"archive:{archive}")
    )


# -- stopped and started ----------------------------------------------------------------------

MADE = r"""
import os, sys
from pathlib import Path
from mlflow_wandb_plugin.backfill.engine import backfill
from mlflow_wandb_plugin.endpoints.archive import ArchiveTarget
from mlflow_wandb_plugin.model import Selection
from tests.endpoints.test_archive import MadeSource

list(backfill(MadeSource(Path(sys.argv[2])), ArchiveTarget(Path(sys.argv[1])), Selection()))
"""


class MadeSource:
    """A `Source` of one run: 40 blocks of rows with objects, then files and an artifact.

    As a real one may, it sends the block that ``since`` lies in from its beginning.
    """

    blocks, rows = 40, 500

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sent = 0
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(20):
            (folder / f"{number}.txt").write_bytes(random.Random(number).randbytes(20_000))

    @property
    def info(self) -> RunInfo:
        return RunInfo(
            "made",
            "Project",
            "team",
            segments=("log",),
            state="finished",
            started_ms=10,
            ended_ms=10**6,
            rows={"log": self.blocks * self.rows},
        )

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        yield self.info

    def size(self, run: RunInfo) -> Any:
        raise NotImplementedError

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        carried = since.get("log", 0)
        for block in range(self.blocks):
            steps = range(block * self.rows, (block + 1) * self.rows)
            times = [1000 + step for step in steps]
            if (block + 2) * self.rows > carried:
                self.sent += 1
                for key in (("loss",), ("a", "b"), ("a.b",)):
                    yield Series(key, steps, times, [step / len(key) for step in steps])
                yield Series(
                    ("cpu",), [0] * len(steps), times, [float(block)] * len(steps), "system"
                )
            yield from (RowObjects(s, 1000 + s, {("text",): f"row {s}"}) for s in steps[::10])
            if steps.stop > carried:
                yield Mark("log", steps.stop)
        for number in range(20):
            yield FileRef(f"Folder/{number}.txt", self._folder / f"{number}.txt")
        entry = ArtifactEntry("w.bin", "d", 20_000, self._folder / "1.txt")
        yield ArtifactRef("model", "weights", "v0", entries=(entry,))
        yield replace(self.info, summary={"final": math.nan})


def _archive_made(target: Path, folder: Path) -> list[Outcome]:
    from mlflow_wandb_plugin.backfill.engine import backfill as run_backfill

    return list(run_backfill(MadeSource(folder), ArchiveTarget(target), Selection()))


@pytest.mark.slow
def test_killed_at_random_moments_it_equals_an_undisturbed_one(
    tmp_path: Path, env: dict[str, str]
) -> None:
    """kill -9, ten times, and run again: the same points once, rows, files, and no leftovers."""
    target, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    _archive_made(undisturbed, tmp_path / "files")
    (tmp_path / "script.py").write_text(MADE)
    command = [sys.executable, str(tmp_path / "script.py"), str(target), str(tmp_path / "files")]
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), env.get("PYTHONPATH", "")]))}
    root = Path(__file__).parents[2]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), env.get("PYTHONPATH", "")]))
    run_file = run_folder(target, RunInfo("made", "Project", "team")) / "run.json"
    dice = random.Random(4)
    for kill in range(10):
        with started(command, env, tmp_path) as process:
            stamp = _stamp(run_file)
            for _ in range(dice.randint(1, 4)):
                wait_until(lambda: _stamp(run_file) != stamp or process.poll() is not None)  # noqa: B023
                stamp = _stamp(run_file)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(timeout=30)
        state = json.loads(run_file.read_text())["state"]
        assert state == "live" or kill > 0
        if state == "complete":
            break
    outcomes = _archive_made(target, tmp_path / "files")
    assert outcomes[0].action in ("repaired", "skipped")
    assert _items(open_archive(f"archive:{target}")) == _items(
        open_archive(f"archive:{undisturbed}")
    )
    assert _frame(target) == _frame(undisturbed)
    assert set(_contents(target)) - set(_contents(undisturbed)) <= _parts(target)


def test_a_run_cut_off_goes_on_and_is_not_called_whole(tmp_path: Path, fresh_store: str) -> None:
    """An archive that was stopped half-way is a partial run; its source is asked for the rest."""
    made = MadeSource(tmp_path / "files")
    target = ArchiveTarget(tmp_path / "archive")
    writer = target.open(made.info, "backfill")
    for number, item in enumerate(made.read(made.info, {})):
        if isinstance(item, Mark):
            writer.checkpoint(item)
        elif isinstance(item, Series):
            writer.append(item)
        if number > 800:
            break
    writer.close()
    found = target.find(made.info)
    assert verdict(made.info, found) == "partial"
    [outcome] = backfill(f"archive:{tmp_path / 'archive'}", fresh_store)
    assert (outcome.action, outcome.run.missing) == ("migrated", True)
    assert read_runs(fresh_store)["made"].tags["wandb.sync.state"] == "partial"

    made.sent = 0
    assert found is not None
    again = target.open(made.info, "backfill", found)
    carried = replicate(made.read(made.info, again.position), again)
    again.close()
    assert 0 < made.sent < made.blocks
    assert carried.info is not None
    [outcome] = backfill(f"archive:{tmp_path / 'archive'}", fresh_store)
    assert (outcome.action, outcome.verdict) == ("repaired", "partial")
    run = read_runs(fresh_store)["made"]
    assert run.tags["wandb.sync.state"] == "complete"
    assert run.points("loss") == [(step, float(step)) for step in range(made.blocks * made.rows)]


def test_a_run_that_grew_is_topped_up(tmp_path: Path) -> None:
    """A running run is archived as far as it is; the next pass adds what is new."""
    target = ArchiveTarget(tmp_path / "archive")
    info = RunInfo("grows", "p", "e", segments=("log",), started_ms=1)
    for rows, state in ((10, "running"), (25, "finished")):
        found = target.find(info)
        writer = target.open(info, "backfill", found)
        assert writer.position == ({} if rows == 10 else {"log": 10})
        steps = range(rows)
        items: list[Item] = [
            Series(("loss",), steps, steps, [float(step) for step in steps]),
            Mark("log", rows),
            replace(info, state=state, rows={"log": rows}),
        ]
        replicate(items, writer)
        writer.close()
    found = target.find(info)
    assert found is not None
    assert (found.state, found.position, found.rows) == ("complete", {"log": -1}, {"log": 25})
    frame = pd.read_parquet(run_folder(tmp_path / "archive", info) / "metrics")
    assert frame.step.tolist() == list(range(25))


def test_two_writers_of_one_run_do_not_mix(tmp_path: Path) -> None:
    """A run that somebody is writing is refused, in one line; afterwards it is free again."""
    target = ArchiveTarget(tmp_path)
    info = RunInfo("busy", "p", "e")
    writer = target.open(info, "backfill")
    with pytest.raises(TargetError, match="another process is writing"):
        target.open(info, "backfill")
    writer.close()
    target.open(info, "backfill").close()


# -- names ------------------------------------------------------------------------------------

HOSTILE = ["../../etc/x", "/etc/x", "a\0b", "x" * 4096, "é" * 300, "con\\x", "", ".", "..", "A",
           "a", "a/b", "a_b", "~", "\ud800", "-", "a/" * 2000 + "z", "run.json"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_runs_and_files_stay_inside(tmp_path: Path, name: str) -> None:
    """Whatever a server calls a project, run, file or artifact, it is kept below its folder and
    given back under its own name."""
    root = tmp_path / "deep" / "archive"
    (tmp_path / "payload").write_text("payload")
    info = RunInfo(name or "_", name, name, segments=("s",), state="finished", name=name)
    entry = ArtifactEntry(name, "d", 7, tmp_path / "payload")
    artifact = ArtifactRef(name, name, name, entries=(entry,), metadata={name: name})
    items: list[Item] = [
        Series((name, name), [0], [1], [2.0]),
        RowObjects(0, 1, {(name,): name}),
        FileRef(name, tmp_path / "payload"),
        artifact,
        info,
    ]
    target = ArchiveTarget(root)
    writer = target.open(info, "backfill")
    replicate(items, writer)
    writer.close()
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "payload"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"archive"}
    source = open_archive(f"archive:{root}")
    [found] = source.runs(Selection())
    assert found == info
    series, row, file, kept, last = source.read(found, {})
    assert (series, row, last) == (items[0], items[1], info)
    assert isinstance(file, FileRef)
    assert isinstance(kept, ArtifactRef)
    assert (file.path, file.local.read_text()) == (name, "payload")
    local = kept.entries[0].local
    assert local is not None
    assert local.read_text() == "payload"
    assert root in local.parents
    assert replace(kept, entries=(entry,)) == artifact


def test_names_that_a_file_system_may_take_for_one_stay_apart() -> None:
    """Runs, projects and files that differ in case or Unicode form only get different names."""
    runs = {folder_name(name).casefold() for name in ("run", "Run", "RUN", "a/b", "a_b", "_", "")}
    assert len(runs) == 7
    names = FileNames()
    wanted = [
        "A.txt",
        "a.txt",
        "dir/x",
        "Dir/x",
        "caf\u00e9",
        "cafe\u0301",
        "a.txt/below",
        "up/b",
        "up",
    ]
    given = [names.name("files", name) for name in wanted]
    assert given[0] == "files/A.txt"
    assert len({name.casefold() for name in given}) == len(wanted)
    assert not {name.casefold() + "/" for name in given} & {
        name.casefold().rpartition("/")[0] + "/" for name in given
    }
    again = FileNames(zip(["files"] * len(wanted), wanted, given, strict=True))
    assert [again.name("files", name) for name in reversed(wanted)] == given[::-1]


def test_a_folder_that_holds_another_run_is_refused(tmp_path: Path) -> None:
    """Should two runs ever come to one folder, the second does not overwrite the first."""
    target = ArchiveTarget(tmp_path)
    one, other = RunInfo("one", "p", "e"), RunInfo("other", "p", "e")
    target.open(one, "backfill").close()
    run_folder(tmp_path, one).rename(run_folder(tmp_path, other))
    with pytest.raises(TargetError, match="holds another run, e/p/one"):
        target.open(other, "backfill")


# -- what is not whole ------------------------------------------------------------------------


def test_missing_files_are_missing_from_the_archive_too(tmp_path: Path, fresh_store: str) -> None:
    """A file that was gone when the archive was made is one loss, there and in MLflow."""
    info = RunInfo("r", "p", "e", segments=("s",), state="finished", started_ms=1, ended_ms=2)
    gone = tmp_path / "gone.txt"
    entries = (ArtifactEntry("x", "d", 1, gone), ArtifactEntry("y", "d", 1))
    artifact = ArtifactRef("t", "n", "v0", entries=entries)
    writer = ArchiveTarget(tmp_path / "archive").open(info, "backfill")
    replicate([FileRef("gone.txt", gone), artifact, info], writer)
    writer.close()
    assert dict(writer.losses) == {"file_missing": 1, "artifact_file_missing": 2}
    [outcome] = backfill(f"archive:{tmp_path / 'archive'}", fresh_store)
    assert outcome.losses == {"file_missing": 1, "artifact_file_missing": 2}
    assert not outcome.damage


def _damaged_part(folder: Path) -> None:
    part = folder / "metrics" / "part-00003.parquet"
    part.write_bytes(part.read_bytes()[:1000])


def _missing_part(folder: Path) -> None:
    (folder / "metrics" / "part-00003.parquet").unlink()


def _damaged_rows(folder: Path) -> None:
    rows = folder / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b'"row 510"', b"row 510"))


def _short_rows(folder: Path) -> None:
    rows = folder / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-100])


def _missing_copy(folder: Path) -> None:
    (folder / "files" / "Folder" / "7.txt").unlink()


def _stolen_copy(folder: Path) -> None:
    index = json.loads((folder / "files.json").read_text())
    index["files"][3]["file"] = "../../../../../../../../etc/hostname"
    (folder / "files.json").write_text(json.dumps(index))


def _damaged_index(folder: Path) -> None:
    (folder / "files.json").write_text("{")


@pytest.mark.parametrize(
    "harm",
    [_damaged_part, _missing_part, _damaged_rows, _short_rows, _missing_copy, _stolen_copy,
     _damaged_index],
)  # fmt: skip
def test_damage_is_reported_and_the_rest_is_read(tmp_path: Path, harm: Any) -> None:
    """What an archive has lost is named; the run is not whole; nothing outside is read."""
    _archive_made(tmp_path / "archive", tmp_path / "files")
    source = open_archive(f"archive:{tmp_path / 'archive'}")
    [run] = source.runs(Selection())
    whole = list(source.read(run, {}))
    harm(run_folder(tmp_path / "archive", run))
    items = list(source.read(run, {}))
    damage = [item for item in items if isinstance(item, Damage)]
    assert len(damage) >= 1
    assert str(tmp_path) in str(damage[0])
    assert isinstance(items[-1], RunInfo)
    assert items[-1].missing
    kept, all_items = (
        [item for item in listed if not isinstance(item, (Mark, Damage))]
        for listed in (items, whole)
    )
    assert len(kept) >= len(all_items) - 21
    root = (tmp_path / "archive").resolve()
    for item in items:
        assert not isinstance(item, FileRef) or root in item.local.resolve().parents
    if harm in (_damaged_part, _missing_part):
        marks = [item.position for item in items if isinstance(item, Mark)]
        assert max(marks) == 1500, "a mark after a hole would keep it from being filled"


def test_a_damaged_run_file_does_not_hide_the_other_runs(tmp_path: Path) -> None:
    """One run that cannot be listed is reported; it is refused as a target, not overwritten."""
    target = ArchiveTarget(tmp_path)
    one, other = RunInfo("one", "p", "e"), RunInfo("other", "p", "e")
    for info in (one, other):
        target.open(info, "backfill").close()
    (run_folder(tmp_path, one) / "run.json").write_text("{")
    source: Any = open_archive(f"archive:{tmp_path}")
    assert list(source.runs(Selection())) == [other]
    assert "run.json is damaged" in str(source.damage[0])
    with pytest.raises(TargetError, match=r"run\.json is damaged"):
        target.find(one)


def test_what_is_no_archive_is_one_clear_line(tmp_path: Path) -> None:
    """A folder without an archive, an empty one, a newer format, and no folder at all."""
    for uri in (f"archive:{tmp_path}", f"archive:{tmp_path / 'no'}", "archive:"):
        with pytest.raises(UsageError):
            open_archive(uri)
    create_archive(f"archive:{tmp_path}")
    with pytest.raises(SourceError, match="no runs"):
        list(open_archive(f"archive:{tmp_path}").runs(Selection()))
    newer = {"format": "mlflow-wandb-plugin archive", "version": 2}
    (tmp_path / "archive.json").write_text(json.dumps(newer))
    for opener in (open_archive, create_archive):
        with pytest.raises(UsageError, match="newer"):
            opener(f"archive:{tmp_path}")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be an archive"):
        create_archive(f"archive:{tmp_path / 'file'}")


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path) -> None:
    """pyarrow is an extra of its own."""
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from mlflow_wandb_plugin.endpoints.archive import create_archive\n"
        f"create_archive('archive:{tmp_path}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UsageError" in done.stderr
    assert "mlflow-wandb-plugin[archive]" in done.stderr


def test_json_keeps_what_json_cannot_say() -> None:
    """NaN, infinities, nested keys, and the user's own ``$`` keys come back as they were."""
    info = RunInfo(
        "r", "p", tags=("a",), segments=("s",), config={"x": math.inf, "$float": "nan"},
        first_config={("a", "b"): 1, ("a.b",): 1.0, ("$keyed",): {"$object": {}}},
        summary={"d": {"$float": "nan"}, "big": 2**70, "\ud800": "\ud800"},
        last={("a", "b"): -math.inf}, started_ms=5,
    )  # fmt: skip
    back = info_from(loads(dumps(info_document(info))))
    assert back == info
    assert isinstance(back.first_config["a.b",], float)
    assert math.isnan(loads(dumps({"x": math.nan}))["x"])


# -- comparing --------------------------------------------------------------------------------


def _items(source: Source) -> dict[str, Any]:
    """All that a source gives, by run: files by content, points without regard to blocks."""
    found: dict[str, Any] = {}
    for run in source.runs(Selection()):
        points: list[Any] = []
        rest: list[Any] = []
        for item in source.read(run, {}):
            if isinstance(item, Series):
                columns = zip(item.steps, item.timestamps_ms, map(repr, item.values), strict=True)
                points += [(item.kind, item.key, *point) for point in columns]
            elif isinstance(item, FileRef):
                rest.append((item.path, item.local.read_bytes()))
            elif isinstance(item, ArtifactRef):
                locals_ = [e.local.read_bytes() if e.local else e.ref for e in item.entries]
                rest.append((repr(replace(item, entries=())), locals_))
            elif not isinstance(item, Mark):
                rest.append(repr(item))
        found[run.run_id] = (sorted(points), rest)
    return found


def _frame(root: Path) -> list[Any]:
    files = sorted(root.glob("*/*/*/metrics/*.parquet"))
    rows = pd.concat([pd.read_parquet(file) for file in files])
    return sorted(rows.itertuples(index=False, name=None))


def _contents(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def _parts(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("part-*.parquet")}


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def test_removing_the_archive_is_removing_its_folder(archive: Path, tmp_path: Path) -> None:
    """A copy of the folder elsewhere is the same archive."""
    shutil.copytree(archive, tmp_path / "moved")
    moved, kept = (open_archive(f"archive:{path}") for path in (tmp_path / "moved", archive))
    assert _items(moved) == _items(kept)
