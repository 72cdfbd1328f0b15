"""Write and read points as Parquet: a folder of parts for a run's metrics, one for system metrics.

A part is a file that is written once and never changed. ``run.json`` has the number of parts that
count; later parts were left by a killed process and are removed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mlflow_wandb_plugin.archive.codec import key_of
from mlflow_wandb_plugin.core.model import Key, Series
from mlflow_wandb_plugin.core.private_files import open_private, private_folder
from mlflow_wandb_plugin.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints: TypeAlias = npt.NDArray[np.int64]
    Floats: TypeAlias = npt.NDArray[np.float64]

Kind: TypeAlias = Literal["history", "system"]
FOLDERS: Mapping[Kind, str] = {"history": "metrics", "system": "system_metrics"}
ROWS_IN_MEMORY = 131_072
BATCH_ROWS = 65_536
NO_POINTS = (-(2**63), -(2**63))
"""(step, Unix ms) before any point."""


def require_pyarrow() -> None:
    """Check that pyarrow is installed, before any work is done.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"archives need pyarrow ({error}): pip install 'mlflow-wandb-plugin[archive]'"
        ) from error


def part_name(number: int) -> str:
    """Return the file name of a part."""
    return f"part-{number:05d}.parquet"


def part_numbers(folder: Path) -> list[int]:
    """Return the numbers of the parts in a folder, in order."""
    found = (re.fullmatch(r"part-(\d{5,})\.parquet", file.name) for file in folder.glob("part-*"))
    return sorted(int(match[1]) for match in found if match)


class PartWriter:
    """Writes the points of one kind into numbered parts.

    Points that earlier parts have already are left out, because a source may send some of a run
    again. Earlier parts are read only if a point is not after all of them in step or time, so that
    a source without repetitions costs nothing.

    Args:
        folder: the run's folder.
        parts: number of parts that count.
        last: the largest step and the largest time (Unix ms) in them.
    """

    def __init__(self, folder: Path, kind: Kind, parts: int, last: tuple[int, int]) -> None:
        self.parts = parts
        self.last = last
        self._count = 0
        self._folder = folder / FOLDERS[kind]
        self._last_pending = last
        self._pending: list[tuple[Key, Ints, Ints, Floats]] = []
        self._rows = 0
        self._writer: Any = None
        self._known: _KnownPoints | None = None
        self._unfinished = self._folder / ".part.tmp"
        self._unfinished.unlink(missing_ok=True)
        for number in part_numbers(self._folder):
            if number >= parts:
                (self._folder / part_name(number)).unlink()

    def append(self, series: Series) -> None:
        """Add the points of a series."""
        import numpy as np

        steps = np.asarray(series.steps, dtype=np.int64)
        times = np.asarray(series.timestamps_ms, dtype=np.int64)
        values = np.asarray(series.values, dtype=np.float64)
        if self._known is None and bool(np.any((steps <= self.last[0]) & (times <= self.last[1]))):
            self._known = self._load_known()
        if self._known is not None:
            new = self._known.add(series.key, steps, times, values)
            steps, times, values = steps[new], times[new], values[new]
        if not len(values):
            return
        self._pending.append((series.key, steps, times, values))
        self._rows += len(values)
        self._count += len(values)
        step, time = self._last_pending
        self._last_pending = max(step, int(steps.max())), max(time, int(times.max()))
        if self._rows >= ROWS_IN_MEMORY:
            self._flush()

    def close_part(self) -> int:
        """Write the points appended since the last call to disk as a part; returns their number."""
        self._flush()
        if self._writer is None:
            return 0
        self._writer.close()
        self._writer = None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._unfinished, self._folder / part_name(self.parts))
        self.parts += 1
        self.last = self._last_pending
        count, self._count = self._count, 0
        return count

    def abandon(self) -> None:
        """Remove an unfinished part."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._file.close()
            self._unfinished.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._pending:
            return
        table = _table(self._pending)
        if self._writer is None:
            import pyarrow.parquet as pq

            private_folder(self._folder)
            self._file = open_private(self._unfinished, "wb")
            # Without the Arrow schema every reader sees plain string columns.
            options = {"use_dictionary": ["key", "path"], "store_schema": False}
            self._writer = pq.ParquetWriter(self._file, table.schema, compression="zstd", **options)
        self._writer.write_table(table)
        self._pending = []
        self._rows = 0

    def _load_known(self) -> _KnownPoints:
        known = _KnownPoints()
        for number in range(self.parts):
            for block in _read_columns(self._folder / part_name(number)):
                known.add(*block)
        for block in self._pending:
            known.add(*block)
        return known


class _KnownPoints:
    """The points of a run as sorted arrays of 24 bytes a point, by key."""

    def __init__(self) -> None:
        self._sorted: dict[Key, list[Any]] = {}

    def add(self, key: Key, steps: Ints, times: Ints, values: Floats) -> Any:
        """Add points; returns a mask of those that are new."""
        import numpy as np

        points = _as_bytes(steps, times, values)
        new = np.ones(len(points), dtype=bool)
        chunks = self._sorted.setdefault(key, [])
        for chunk in chunks:
            at = np.minimum(np.searchsorted(chunk, points), len(chunk) - 1)
            new &= chunk[at] != points
        if new.any():
            chunks.append(np.sort(points[new]))
            if len(chunks) > 8:
                self._sorted[key] = [np.sort(np.concatenate(chunks))]
        return new


def _as_bytes(steps: Ints, times: Ints, values: Floats) -> Any:
    import numpy as np

    columns = np.empty((len(values), 3), dtype=np.int64)
    columns[:, 0], columns[:, 1] = steps, times
    columns[:, 2] = np.where(np.isnan(values), np.nan, values).view(np.int64)
    return columns.view("S24").ravel()


def _table(blocks: Sequence[tuple[Key, Ints, Ints, Floats]]) -> Any:
    import numpy as np
    import pyarrow as pa

    numbers: dict[Key, int] = {}
    for block in blocks:
        numbers.setdefault(block[0], len(numbers))
    of_blocks = [numbers[block[0]] for block in blocks]
    index = pa.array(np.repeat(of_blocks, [len(block[1]) for block in blocks]), pa.int32())
    dotted = [".".join(key).encode("utf-8", "replace").decode() for key in numbers]
    texts = (pa.array(names, pa.string()) for names in (dotted, list(map(json.dumps, numbers))))
    columns = [pa.DictionaryArray.from_arrays(index, text) for text in texts]
    columns += [pa.array(np.concatenate([block[at] for block in blocks])) for at in (1, 2, 3)]
    return pa.Table.from_arrays(columns, names=["key", "path", "step", "timestamp_ms", "value"])


def read_part(folder: Path, kind: Kind, number: int) -> Iterator[Series]:
    """Yield the series of one part, in the order of writing, in bounded blocks.

    Raises:
        OSError, ValueError, KeyError: the file is missing or damaged.
    """
    for key, steps, times, values in _read_columns(folder / FOLDERS[kind] / part_name(number)):
        yield Series(key, steps.tolist(), times.tolist(), values.tolist(), kind)


def _read_columns(path: Path) -> Iterator[tuple[Key, Ints, Ints, Floats]]:
    import numpy as np
    import pyarrow.parquet as pq

    names = ["path", "step", "timestamp_ms", "value"]
    with pq.ParquetFile(path, read_dictionary=["path"]) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=names):
            labels = batch.column("path")
            keys = [key_of(text) for text in labels.dictionary.to_pylist()]
            index = labels.indices.to_numpy(zero_copy_only=False)
            columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in names[1:]]
            ends = [*(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
            start = 0
            for end in ends:
                if end > start:
                    steps, times, values = (column[start:end] for column in columns)
                    yield keys[index[start]], steps, times, values
                start = end
