"""Number the rows of W&B's history that the operations of a journal become, in its order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import Item, RowObjects, Series
from mlflow_wandb_plugin.errors import SourceError
from mlflow_wandb_plugin.mapping import media
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.journal_state import JournalState
from mlflow_wandb_plugin.sources.mlflow.artifact_store import temporary_file
from mlflow_wandb_plugin.sources.mlflow.seen_points import SeenPoints


class JournalRows:
    """The rows of one journal.

    Args:
        state: counts points, and what cannot be shown.
        first: number of the first row.
        drops_repeats: whether MLflow drops a point that repeats an earlier one exactly.

    Attributes:
        next: number of the next row.
        last_ms: time of the last row.
        shown: the last media value by key.
        points: number of points that `take` yields.
    """

    def __init__(self, state: JournalState, first: int, drops_repeats: bool) -> None:
        self.next = first
        self.last_ms: int | None = None
        self.shown: dict[str, Any] = {}
        self.points = 0
        self._state = state
        self._seen = SeenPoints() if drops_repeats else None
        self._columns: dict[str, tuple[list[int], list[int], list[float]]] = {}

    def add(self, metrics: Sequence[Sequence[Any]]) -> None:
        """Add a batch of [key, value, timestamp in Unix ms, step]."""
        if self._seen is not None:
            metrics = self._seen.new(metrics)
        self._state.add_points(metrics)
        for row in rules.rows(metrics):
            number = self._number(row.timestamp_ms)
            values = {**row.values, rules.STEP_METRIC: float(row.step)}
            self._add_row(number, row.timestamp_ms, values)

    def take(self) -> Iterator[Series]:
        """Yield the points that were added since the last call, by key."""
        taken, self._columns, self.points = self._columns, {}, 0
        for key, columns in taken.items():
            yield Series((key,), *columns)

    def add_file(self, path: str, local: Path | None, at_ms: int) -> Iterator[Item]:
        """Yield the row of a file that is an image or a table.

        Args:
            path: in the run.
            local: None if there is no such file any more.
            at_ms: when it was logged, Unix ms.
        """
        name = rules.image_name(path)
        if name is not None:
            yield from self._image(name, local, name.timestamp_ms or at_ms)
        elif local is not None and rules.may_be_table(path, local.stat().st_size):
            table = rules.shown_table(local.read_text(encoding="utf-8", errors="replace"))
            if table is not None:
                number, shown = self._number(at_ms), temporary_file("table.json")
                yield from self._media(
                    path, number, at_ms, media.table(path, number, *table, shown)
                )

    def _image(self, name: rules.ImageName, local: Path | None, at_ms: int) -> Iterator[Item]:
        # A number is taken also without a file: those of later rows depend on it.
        number = self._number(at_ms)
        if name.step is not None:
            self._add_row(number, at_ms, {rules.STEP_METRIC: float(name.step)})
        if local is None:
            return
        try:
            shown = media.image(name.key, number, local)
        except SourceError as error:
            self._state.lost[str(error)] += 1
            return
        yield from self._media(name.key, number, at_ms, shown)

    def _media(self, key: str, number: int, at_ms: int, shown: media.Media) -> Iterator[Item]:
        """Yield a media value and its file; the last one of a key is in the summary, too."""
        self.shown[key] = shown.value
        yield replace(shown.file, fixed=True)
        yield RowObjects(number, at_ms, {(key,): shown.value})

    def _number(self, at_ms: int) -> int:
        self.next += 1
        self.last_ms = at_ms
        return self.next - 1

    def _add_row(self, number: int, at_ms: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            numbers, times, column = self._columns.setdefault(key, ([], [], []))
            numbers.append(number)
            times.append(at_ms)
            column.append(value)
        self.points += len(values)
