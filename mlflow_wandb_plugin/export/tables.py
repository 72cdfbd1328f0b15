"""Export the runs of a source, or all rows of their history, as a table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.carrier import selected
from mlflow_wandb_plugin.core.model import Item, RunInfo, Selection, UnreadableRange
from mlflow_wandb_plugin.core.protocols import Source, SourceOptions
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import MlflowWandbError, UsageError
from mlflow_wandb_plugin.export.files import arrow_table, write_table
from mlflow_wandb_plugin.export.rows import (
    CONFIG,
    LONG_COLUMNS,
    RUN_COLUMNS,
    SUMMARY,
    WIDE_COLUMNS,
    Row,
    long_rows,
    run_row,
    wide_rows,
)
from mlflow_wandb_plugin.export.spool import Spool, chosen_columns

if TYPE_CHECKING:
    import pyarrow

_logger = logging.getLogger("mlflow_wandb_plugin")

History = Literal["no", "wide", "long"]
CREATED = "created"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What is exported.

    Attributes:
        history: "no" for a row per run, "wide" for a row per step, "long" for a row per value.
        order: "created", "config.KEY" or "summary.KEY", with "-" before it for the reverse; of
            runs without the key, the first created comes first, after all others.
        columns: names, which may have ``*``; empty means all.
    """

    history: History = "no"
    order: str = CREATED
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sort_column != CREATED and not self.sort_column.startswith((CONFIG, SUMMARY)):
            raise UsageError(
                f"--order {self.order}: pass created, config.KEY or summary.KEY, with - before it "
                "for the reverse"
            )

    @property
    def sort_column(self) -> str:
        return self.order.lstrip("+-")

    @property
    def descending(self) -> bool:
        return self.order.startswith("-")


@dataclass(frozen=True, slots=True)
class Exported:
    """How many runs and rows were written, and what could not be read."""

    runs: int
    rows: int
    unreadable: tuple[str, ...] = ()


def export(
    source: Source,
    path: Path,
    selection: Selection,
    options: ExportOptions,
    progress: Callable[[], object] = lambda: None,
) -> Exported:
    """Write the table of the selected runs of ``source``. Memory does not grow with the rows.

    Args:
        progress: is called once for each run.

    Raises:
        UsageError: no run is selected.
        SourceError: the source cannot be listed.
    """
    unreadable: list[str] = []
    by_key = options.sort_column != CREATED
    selection = replace(selection, newest_first=options.descending and not by_key)
    with closing(Spool()) as spool, closing(Spool()) as history:
        listed: dict[tuple[str, str, str], RunInfo] = {}
        for run, row in _described(source, selection, unreadable):
            spool.add(row, row.get(options.sort_column))
            if options.history == "no":
                progress()
            else:
                # What describes the runs is in the spool.
                key = row["entity"], row["project"], row["run_id"]
                listed[key] = replace(run, config={}, first_config={}, summary={})
        if not len(spool) and not unreadable and not source.unreadable:
            raise UsageError("no run is selected: check --run, --state and the like")
        rows = spool.rows(by_key, options.descending)
        first: Sequence[str] = RUN_COLUMNS
        table = spool
        if options.history != "no":
            first = WIDE_COLUMNS if options.history == "wide" else LONG_COLUMNS
            for row in rows:
                run = listed[row["entity"], row["project"], row["run_id"]]
                _add_history(history, source, run, options.history, unreadable)
                progress()
            rows, table = history.rows(), history
        columns = chosen_columns(_columns(table.columns, first), options.columns)
        write_table(path, rows, columns, table.columns)
        # Without a length it is what was left out knowingly, such as a copy of a log.
        unreadable += [str(one) for one in source.unreadable if one.length]
        return Exported(len(spool), len(table), tuple(unreadable))


def _described(
    source: Source, selection: Selection, unreadable: list[str]
) -> Iterator[tuple[RunInfo, Row]]:
    for run in selected(source, selection):
        try:
            described = source.describe(run)
        except MlflowWandbError as error:
            unreadable.append(f"{run.path}: {error}")
            continue
        yield run, run_row(described)


def _add_history(
    spool: Spool, source: Source, run: RunInfo, form: History, unreadable: list[str]
) -> None:
    try:
        for row in _history_rows(run.run_id, source.history(run), form, unreadable):
            spool.add(row)
    except MlflowWandbError as error:
        unreadable.append(f"{run.path}: {error}")


def _history_rows(
    run_id: str, items: Iterable[Item], form: History, unreadable: list[str]
) -> Iterator[Row]:
    """Yield rows; what the source cannot read is appended to ``unreadable``."""
    readable = _readable(items, unreadable)
    return long_rows(run_id, readable) if form == "long" else wide_rows(run_id, readable)


def _readable(items: Iterable[Item], unreadable: list[str]) -> Iterator[Item]:
    for item in items:
        if isinstance(item, UnreadableRange):
            unreadable.append(str(item))
        yield item


def _columns(found: Iterable[str], first: Sequence[str]) -> list[str]:
    """All columns: those of ``first``, then the others by name."""
    return [*first, *sorted(set(found) - set(first))]


def runs(source: str, selection: Selection | None = None, **options: Any) -> Iterator[Row]:
    """Yield the runs of a source as dicts, with the columns of ``mlflow-wandb export``.

    Args:
        source: a wandb folder, a run folder, a ``.wandb`` file, or another source's URI.
        selection: which runs; None means all.
        options: fields of `mlflow_wandb_plugin.core.protocols.SourceOptions`.

    Raises:
        UsageError, SourceError: the source cannot be opened or listed, or a run cannot be read.
    """
    opened = plugins.open_source(source, SourceOptions(**options))
    for run in selected(opened, selection or Selection()):
        yield run_row(opened.describe(run))


def history(source: str, run: str, long: bool = False, **options: Any) -> pyarrow.Table:
    """Return the whole history of one run as an Arrow table.

    Args:
        source: as `runs` takes it.
        run: the run's id or name.
        long: a row per value instead of a row per step.
        options: fields of `mlflow_wandb_plugin.core.protocols.SourceOptions`.

    Raises:
        UsageError: not exactly one run has that id or name, or pyarrow is missing.
        SourceError: the source cannot be listed, or the run cannot be read.
    """
    opened = plugins.open_source(source, SourceOptions(**options))
    found = [one for one in opened.runs(Selection()) if run in (one.run_id, one.name)]
    if len(found) != 1:
        shown = without_credentials(source)
        raise UsageError(f"{len(found)} runs of {shown} are called {run}: pass the id of one")
    with closing(Spool()) as spool:
        form: History = "long" if long else "wide"
        unreadable: list[str] = []
        for row in _history_rows(found[0].run_id, opened.history(found[0]), form, unreadable):
            spool.add(row)
        for reason in unreadable:
            _logger.warning("mlflow-wandb: %s", reason)
        columns = _columns(spool.columns, LONG_COLUMNS if long else WIDE_COLUMNS)
        return arrow_table(spool.rows(), columns, spool.columns)
