"""Ways in which the replica of one W&B run may be damaged in MLflow, chosen by a seed."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Corruption:
    """A damage that was done.

    Attributes:
        word: is in the one line that tells the difference.
        fixable: whether MLflow can undo it.
    """

    word: str
    fixable: bool = True


class Damager:
    """Damages one run of a SQLite store whose artifacts are in a local folder."""

    def __init__(self, database: Path, artifacts: Path, run_id: str, seed: int) -> None:
        self._database = database
        self._artifacts = artifacts
        self._run_id = run_id
        self._random = random.Random(seed)

    def damage(self, kind: int) -> Corruption:
        """Do the damage of number ``kind``, at a place that the seed chooses."""
        kinds: tuple[Callable[[], Corruption], ...] = (
            self._point_removed, self._point_value, self._point_time, self._point_added,
            self._metric_removed, self._param_value, self._param_removed, self._tag_value,
            self._tag_removed, self._name, self._status, self._start, self._end,
            self._file_content, self._file_removed, self._file_truncated,
        )  # fmt: skip
        return kinds[kind % len(kinds)]()

    def _execute(self, sql: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self._database)) as db:
            cursor = db.execute(sql, (*values, self._run_id))
            rows = cursor.fetchall()
            db.commit()
            return rows or [cursor.rowcount]

    def _point(self) -> tuple[int, str, int, int, float]:
        """Choose a history point: rowid, key, timestamp, step, value."""
        query = (
            "select rowid, key, timestamp, step, value from metrics where is_nan = 0 "
            "and key not like 'system/%' and run_uuid = ? order by key, step, timestamp"
        )
        row: tuple[int, str, int, int, float] = self._random.choice(self._execute(query))
        return row

    def _point_removed(self) -> Corruption:
        row, key, *_ = self._point()
        self._execute("delete from metrics where rowid = ? and run_uuid = ?", row)
        return Corruption(f"metric {key}: no point")

    def _point_value(self) -> Corruption:
        row, key, _, step, value = self._point()
        new = value + 1 + abs(value) if abs(value) < 1e300 else 7.0
        self._execute("update metrics set value = ? where rowid = ? and run_uuid = ?", new, row)
        return Corruption(f"metric {key}: step {step} has", fixable=False)

    def _point_time(self) -> Corruption:
        row, key, at, step, _ = self._point()
        by = self._random.choice((-1, 1, 60_000))
        self._execute(
            "update metrics set timestamp = ? where rowid = ? and run_uuid = ?", at + by, row
        )
        return Corruption(f"metric {key}: step {step} has", fixable=False)

    def _point_added(self) -> Corruption:
        _, key, at, step, value = self._point()
        self._execute(
            "insert into metrics (key, value, timestamp, step, is_nan, run_uuid) "
            "values (?, ?, ?, ?, 0, ?)",
            key, value, at, step + 100_000,
        )  # fmt: skip
        return Corruption(f"metric {key}: W&B has no point", fixable=False)

    def _metric_removed(self) -> Corruption:
        query = "select key from metrics where run_uuid = ? group by key having count(*) = 1"
        (key,) = self._random.choice(sorted(self._execute(query)))
        self._execute("delete from metrics where key = ? and run_uuid = ?", key)
        self._execute("delete from latest_metrics where key = ? and run_uuid = ?", key)
        return Corruption(f"metric {key}: no point")

    def _chosen(self, table: str, where: str = "1 = 1") -> str:
        query = f"select key from {table} where {where} and run_uuid = ? order by key"
        return str(self._random.choice(self._execute(query))[0])

    def _param_value(self) -> Corruption:
        key = self._chosen("params")
        self._execute("update params set value = value || 'x' where key = ? and run_uuid = ?", key)
        return Corruption(f"param {key} is", fixable=False)

    def _param_removed(self) -> Corruption:
        key = self._chosen("params")
        self._execute("delete from params where key = ? and run_uuid = ?", key)
        return Corruption(f"param {key} is absent")

    _COMPARED = (
        "(key like 'wandb.%' or key like 'mlflow.source.%' or key = 'mlflow.user') "
        "and key not like 'mlflow.wandb.%' and key not in ('wandb.run_id', 'wandb.project', "
        "'wandb.entity', 'wandb.url', 'wandb.exit_code')"
    )

    def _tag_value(self) -> Corruption:
        key = self._chosen("tags", self._COMPARED)
        self._execute("update tags set value = value || 'x' where key = ? and run_uuid = ?", key)
        return Corruption(f"tag {key} is")

    def _tag_removed(self) -> Corruption:
        key = self._chosen("tags", self._COMPARED)
        self._execute("delete from tags where key = ? and run_uuid = ?", key)
        return Corruption(f"tag {key} is absent")

    def _name(self) -> Corruption:
        self._execute("update runs set name = 'another' where run_uuid = ?")
        return Corruption("the run's name is 'another'")

    def _status(self) -> Corruption:
        status = self._random.choice(("FAILED", "KILLED"))
        self._execute("update runs set status = ? where run_uuid = ?", status)
        return Corruption(f"the run's status is {status}")

    def _start(self) -> Corruption:
        by = self._random.choice((-3_600_000, 3_600_000, 60_000))
        self._execute("update runs set start_time = start_time + ? where run_uuid = ?", by)
        return Corruption("the run's start is", fixable=False)

    def _end(self) -> Corruption:
        by = self._random.choice((-3_600_000, 3_600_000))
        self._execute("update runs set end_time = end_time + ? where run_uuid = ?", by)
        return Corruption("the run's end is")

    def _file(self) -> Path:
        files = sorted(file for file in self._artifacts.rglob("*") if file.is_file())
        return self._random.choice([f for f in files if f.stat().st_size])

    def _file_content(self) -> Corruption:
        file = self._file()
        content = bytearray(file.read_bytes())
        content[self._random.randrange(len(content))] ^= 1
        file.write_bytes(content)
        return Corruption(f"file {file.relative_to(self._artifacts)} has another content")

    def _file_truncated(self) -> Corruption:
        file = self._file()
        file.write_bytes(file.read_bytes()[:-1])
        return Corruption(f"file {file.relative_to(self._artifacts)} has another content")

    def _file_removed(self) -> Corruption:
        file = self._file()
        file.unlink()
        return Corruption(f"no file {file.relative_to(self._artifacts)}")
