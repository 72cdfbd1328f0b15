"""Hostile names, damaged archives, and what is no archive."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin import backfill
from mlflow_wandb_plugin.archive.folder_names import FileNames, folder_name
from mlflow_wandb_plugin.archive.run_document import run_folder
from mlflow_wandb_plugin.archive.target import (
    ArchiveTarget,
    create_archive,
    open_archive,
)
from mlflow_wandb_plugin.core.model import (
    ArtifactEntry,
    ArtifactRef,
    Checkpoint,
    FileRef,
    Item,
    RowObjects,
    RunInfo,
    Selection,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.errors import SourceError, TargetError, UsageError
from tests.support.archives import (
    archive_made,
)

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
    """If two runs have one folder, the second does not overwrite the first."""
    target = ArchiveTarget(tmp_path)
    one, other = RunInfo("one", "p", "e"), RunInfo("other", "p", "e")
    target.open(one, "backfill").close()
    run_folder(tmp_path, one).rename(run_folder(tmp_path, other))
    with pytest.raises(TargetError, match="holds another run, e/p/one"):
        target.open(other, "backfill")


# -- what is not whole ------------------------------------------------------------------------


def test_missing_files_are_missing_from_the_archive_too(tmp_path: Path, fresh_store: str) -> None:
    """A file that was missing when the archive was written is one loss, there and in MLflow."""
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
    assert not outcome.unreadable


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
    """Lost parts of an archive are reported, the run is incomplete, and nothing outside is read."""
    archive_made(tmp_path / "archive", tmp_path / "files")
    source = open_archive(f"archive:{tmp_path / 'archive'}")
    [run] = source.runs(Selection())
    whole = list(source.read(run, {}))
    harm(run_folder(tmp_path / "archive", run))
    items = list(source.read(run, {}))
    unreadable = [item for item in items if isinstance(item, UnreadableRange)]
    assert len(unreadable) >= 1
    assert str(tmp_path) in str(unreadable[0])
    assert isinstance(items[-1], RunInfo)
    assert items[-1].missing
    kept, all_items = (
        [item for item in listed if not isinstance(item, (Checkpoint, UnreadableRange))]
        for listed in (items, whole)
    )
    assert len(kept) >= len(all_items) - 21
    root = (tmp_path / "archive").resolve()
    for item in items:
        assert not isinstance(item, FileRef) or root in item.local.resolve().parents
    if harm in (_damaged_part, _missing_part):
        marks = [item.position for item in items if isinstance(item, Checkpoint)]
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
    [unreadable] = source.unreadable
    assert (unreadable.where, "run.json is damaged" in unreadable.reason) == ("e/p/one", True)
    outcomes = backfill(f"archive:{tmp_path}", f"archive:{tmp_path / 'copy'}")
    assert [(o.run.run_id, o.action) for o in outcomes] == [
        ("other", "migrated"),
        ("e/p/one", "failed"),
    ]
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
        "from mlflow_wandb_plugin.archive.target import create_archive\n"
        f"create_archive('archive:{tmp_path}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UsageError" in done.stderr
    assert "mlflow-wandb-plugin[archive]" in done.stderr
