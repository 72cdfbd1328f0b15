"""The metrics history of a run: rows in parquet exports first, then a live tail."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .parquet import read_complete, read_rows, take, write_rows

Row = dict[str, Any]


class Line(NamedTuple):
    """A live row: the text the client sent, and what it says."""

    text: str
    row: Row
    step: int


@dataclass
class Export:
    """A parquet file holding the rows that came before the live tail."""

    path: Path
    rows: int
    last_step: int
    types: dict[str, Counter[str]]


@dataclass
class History:
    """Line `n` of a run is in the exports for the first of them, in `live` for the others."""

    exports: list[Export] = field(default_factory=list)
    live: list[Line] = field(default_factory=list)
    writers: Counter[str] = field(default_factory=Counter)
    """In shared mode, how many lines each writer has sent."""

    @property
    def exported_rows(self) -> int:
        return sum(export.rows for export in self.exports)

    @property
    def line_count(self) -> int:
        return self.exported_rows + len(self.live)

    @property
    def last_step(self) -> int:
        steps = [export.last_step for export in self.exports]
        steps += [line.step for line in self.live]
        return max(steps, default=-1)

    @property
    def tail(self) -> list[str]:
        """The last line, if there is one."""
        if self.live:
            return [self.live[-1].text]
        return [json.dumps(row) for row in self._at([self.line_count - 1])]

    def write(self, offset: int, lines: Sequence[str], writer: str | None = None) -> None:
        """Store streamed lines; a repeated upload of the same lines changes nothing.

        With a writer (shared mode) the offset counts that writer's lines, and its rows are
        numbered anew, in the order in which they arrive.
        """
        if writer is None:
            start = max(0, offset - self.exported_rows)
            kept = [_parse(line) for line in lines[max(0, self.exported_rows - offset) :]]
            self.live[start : start + len(kept)] = kept
            return
        fresh = lines[max(0, self.writers[writer] - offset) :]
        self.writers[writer] = max(self.writers[writer], offset + len(lines))
        self.append({**json.loads(line), "_step": None} for line in fresh)

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows at the end; one without `_step` gets the step after the last."""
        step = self.last_step
        for row in rows:
            step = step + 1 if row.get("_step") is None else row["_step"]
            self.live.append(_parse(json.dumps({**row, "_step": step})))

    def truncate(self, last_step: int) -> None:
        """Forget the live rows after a step, as a rewind does."""
        self.live = [line for line in self.live if line.step <= last_step]

    def export(self, path_for: Callable[[], Path], rows: int | None = None, files: int = 1) -> None:
        """Move the first `rows` live rows (all of them by default) into parquet files."""
        count = len(self.live) if rows is None else min(rows, len(self.live))
        size = max(1, math.ceil(count / files))
        for start in range(0, count, size):
            chunk = [line.row for line in self.live[start : min(count, start + size)]]
            path = path_for()
            write_rows(path, chunk)
            last = max(row["_step"] for row in chunk)
            self.exports.append(Export(path, len(chunk), last, _types(chunk)))
        del self.live[:count]

    def page(self, min_step: int, max_step: int, limit: int) -> list[str]:
        """Live rows with min_step <= step < max_step."""
        found = (line.text for line in self.live if min_step <= line.step < max_step)
        return [text for text, _ in zip(found, range(limit), strict=False)]

    def live_data(self, keys: Sequence[str]) -> list[Row]:
        """The values of some keys in the live rows that have them all."""
        return [_plain(row) for row in self.live_rows(keys)]

    def live_rows(self, keys: Sequence[str]) -> list[Row]:
        rows = (line.row for line in self.live)
        return [{key: row[key] for key in keys} for row in rows if all(key in row for key in keys)]

    def sampled(self, limit: int) -> list[str]:
        """At most `limit` rows, evenly spaced, as JSON texts."""
        wanted, exported = _spread(self.line_count, limit), self.exported_rows
        rows = [json.dumps(row) for row in self._at(wanted)]
        return rows + [self.live[i - exported].text for i in wanted if i >= exported]

    def sampled_keys(self, spec: Row) -> list[Row]:
        """Rows that have every key of the spec, evenly spaced, holding those keys only.

        A spec with step bounds reads the live tail, like `page`.
        """
        keys, bounded = spec["keys"], "minStep" in spec
        low: float = spec.get("minStep") or 0
        high: float = math.inf if spec.get("maxStep") is None else spec["maxStep"]
        tables = [] if bounded else [read_complete(export.path, keys) for export in self.exports]
        live = [row for row in self.live_rows(keys) if low <= row.get("_step", low) <= high]
        total = sum(table.num_rows for table in tables) + len(live)
        wanted = _spread(total, spec.get("samples") or 500)
        rows: list[Row] = []
        start = 0
        for table in tables:
            rows += take(table, [i - start for i in wanted if 0 <= i - start < table.num_rows])
            start += table.num_rows
        rows += [live[i - start] for i in wanted if i >= start]
        return [_plain(row) for row in rows]

    def keys(self) -> dict[str, Any] | None:
        """What a run says about the keys of its history; nothing without history."""
        if not self.line_count:
            return None
        types: dict[str, Counter[str]] = {}
        for counted in [export.types for export in self.exports] + [
            _types(line.row for line in self.live)
        ]:
            for key, counter in counted.items():
                types.setdefault(key, Counter()).update(counter)
        return {
            "sets": [],
            "keys": {
                key: {
                    "typeCounts": [{"type": t, "count": n} for t, n in counter.items()],
                    "monotonic": False,
                    "previousValue": None,
                }
                for key, counter in types.items()
            },
            "lastStep": self.last_step,
        }

    def _at(self, indices: Iterable[int]) -> Iterator[Row]:
        wanted = list(indices)
        start = 0
        for export in self.exports:
            here = [i - start for i in wanted if start <= i < start + export.rows]
            start += export.rows
            if here:
                yield from read_rows(export.path, here)


def _parse(text: str) -> Line:
    row = json.loads(text)
    return Line(text, row, row.get("_step", 0))


def _spread(count: int, limit: int) -> list[int]:
    if count <= limit:
        return list(range(count))
    return sorted({i * (count - 1) // max(1, limit - 1) for i in range(limit)})


def _plain(value: Any) -> Any:
    """Numbers that JSON cannot hold become text, where the answer is not a JSON text itself."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _types(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    types: dict[str, Counter[str]] = {}
    for row in rows:
        for key, value in row.items():
            types.setdefault(key, Counter())[_type(value)] += 1
    return types


def _type(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("_type", "map"))
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return names.get(type(value), "nil")
