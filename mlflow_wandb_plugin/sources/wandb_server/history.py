"""The history of one run, complete: parquet exports first, then the rows not exported yet.

W&B moves rows from the live tail to exports whenever it likes, also between two of our requests.
So each pass starts from one answer that names both, every page is compared with the rows that the
answer promised, and rows are told apart by their step: what moved is read in another pass.

Assumed of the service: a step has one row; exports hold the oldest rows; `historyLineCount` counts
rows. Where that does not hold the counts differ, and the run is said to have rows missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from mlflow_wandb_plugin.core.identity import SERVER
from mlflow_wandb_plugin.core.model import Checkpoint, Item, Key
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.sources.wandb_server import exports as exports
from mlflow_wandb_plugin.sources.wandb_server.history_rows import (
    NOT_METRICS,
    Block,
    LastValues,
    RunKeys,
    row_time_ms,
)
from mlflow_wandb_plugin.wandb_api.client import WandbClient
from mlflow_wandb_plugin.wandb_log.decoder import BLOCK_POINTS

if TYPE_CHECKING:
    from mlflow_wandb_plugin.sources.wandb_server.exports import Ints, RowGroup

PAGE_ROWS = 1000
PAGE_STEPS = 10_000_000
"""Rows asked for at once, and steps that they may be spread over: sparse steps cost few pages."""
BLIND_STEPS = 1_000_000
"""The same where the rows' number is not known: as many may come at once."""

Page: TypeAlias = "tuple[int, int, set[int] | None]"
"""Steps from, up to (exclusive), and the live steps that the server named in between."""

EXPORTS = """
query RunParquetHistory($entity: String!, $project: String!, $run: String!,
                        $liveKeys: [String!]!) {
  project(name: $project, entityName: $entity) {
    run(name: $run) {
      historyLineCount
      parquetHistory(liveKeys: $liveKeys) { parquetUrls liveData }
    }
  }
}
"""

COUNT = """
query RunHistoryCount($entity: String!, $project: String!, $run: String!) {
  project(name: $project, entityName: $entity) { run(name: $run) { historyLineCount } }
}
"""

PAGE = """
query HistoryPage($entity: String!, $project: String!, $run: String!,
                  $minStep: Int64!, $maxStep: Int64!, $pageSize: Int!) {
  project(name: $project, entityName: $entity) {
    run(name: $run) { history(minStep: $minStep, maxStep: $maxStep, samples: $pageSize) }
  }
}
"""

LAST_STEP = """
query RunHistoryKeys($entity: String!, $project: String!, $run: String!) {
  project(name: $project, entityName: $entity) { run(name: $run) { historyKeys } }
}
"""


class Taken:
    """The steps that have been met: all up to ``through``, and some beyond. ``count`` of them."""

    def __init__(self) -> None:
        import numpy as np

        self._np = np
        self.through = -1
        self.count = 0
        self._beyond: list[Ints] = []
        self._highest = -1

    def fresh(self, steps: Ints) -> Ints:
        """The positions in ``steps`` of those not met before, each once; they count as met now."""
        positions = self.unmet(steps)
        if len(positions):
            self._beyond.append(steps[positions])
            self._highest = max(self._highest, int(steps[positions].max()))
            self.count += len(positions)
        return positions

    def unmet(self, steps: Ints) -> Ints:
        """The positions in ``steps`` of those not met before, each once."""
        np = self._np
        positions = np.arange(len(steps))
        if len(steps) > 1 and not (steps[1:] > steps[:-1]).all():
            positions = np.sort(np.unique(steps, return_index=True)[1])
        new = steps[positions] > self.through
        if self._beyond and len(steps) and steps.min() <= self._highest:
            self._beyond = [np.concatenate(self._beyond)]
            new &= ~np.isin(steps[positions], self._beyond[0])
        unmet: Ints = positions[new]
        return unmet

    def advance(self, step: int) -> None:
        """All rows up to ``step`` have been met."""
        self.through = max(self.through, step)
        kept = [beyond[beyond > self.through] for beyond in self._beyond]
        self._beyond = [beyond for beyond in kept if len(beyond)]


class RunHistory:
    """Reads one run's history, in as many passes as its caller asks for.

    Args:
        since: rows at earlier steps are counted and not yielded.
        folder: where exports are kept while they are read.
        started_ms: Unix ms; the time of rows that have none.
        page_rows: live rows a request.
        refresh: brings ``keys`` up to date; called when it is known which rows will be read.
    """

    def __init__(
        self,
        client: WandbClient,
        run_id: str,
        keys: RunKeys,
        since: int,
        folder: Path,
        started_ms: int,
        page_rows: int = PAGE_ROWS,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        self.last = LastValues()
        self._client = client
        self._run_id = run_id
        self._keys = keys
        self._since = since
        self._folder = folder
        self._started_ms = started_ms
        self._block_rows = max(1, BLOCK_POINTS // keys.width)
        self._page_rows = min(page_rows, self._block_rows)
        self._refresh = refresh
        self._taken = Taken()
        self._files: dict[str, Path] = {}
        self._groups: list[RowGroup] = []
        self._live: list[int] = []

    @property
    def rows(self) -> int:
        """Rows of the run that are accounted for: yielded, or before ``since``."""
        return self._taken.count

    def read(self) -> Iterator[Item]:
        """One pass: everything that no earlier pass has yielded, with marks where it is safe.

        Raises:
            SourceError: an answer or export cannot be read.
        """
        count = self._look()
        if self._refresh is not None:
            self._refresh()
        yield from self._read_exports()
        live = _ints(self._live)
        unmet: list[int] = live[self._taken.unmet(live)].tolist()
        whole = self._taken.count + len(unmet) == count
        yield from self._read_live(self._promised_pages(unmet) if whole else self._blind_pages())

    def _look(self) -> int:
        """Ask where the rows are now; returns how many the server says there are."""
        run = self._where()
        history = run.get("parquetHistory") or {}
        # Signatures in addresses change; what they lead to does not.
        urls = {urlsplit(str(url)).path: str(url) for url in history.get("parquetUrls") or ()}
        for name, url in urls.items():
            if name not in self._files:
                local = self._folder / f"{len(self._files):06d}.parquet"
                self._client.download(url, local)
                self._files[name] = local
        self._groups = exports.row_groups(self._files.values())
        live = {int(row["_step"]) for row in history.get("liveData") or () if "_step" in row}
        self._live = sorted(live)
        return int(run.get("historyLineCount") or 0)

    def _where(self) -> dict[str, Any]:
        try:
            return self._client.run(EXPORTS, self._run_id, liveKeys=["_step"])
        except SourceUnavailableError:
            raise
        except SourceError as error:
            if "parquetHistory" not in str(error):
                raise
            # A server of one's own, from before exports.
            return self._client.run(COUNT, self._run_id)

    # -- exports ----------------------------------------------------------------------------

    def _read_exports(self) -> Iterator[Item]:
        ordered = exports.in_order(self._groups, self._taken.through)
        for group in self._groups:
            if group.last_step <= self._taken.through:
                continue
            if ordered and group.last_step < self._since and group.sorted:
                self._taken.fresh(_only_steps(group))
            else:
                yield from self._read_group(group, ordered)
            if ordered:
                self._taken.advance(group.last_step)
        if self._groups and not ordered:
            self._taken.advance(max(group.last_step for group in self._groups))
            yield from self._mark(self._taken.through + 1)

    def _read_group(self, group: RowGroup, ordered: bool) -> Iterator[Item]:
        for batch in exports.batches(group, self._block_rows):
            steps = exports.steps_of(batch)
            positions = self._taken.fresh(steps)
            wanted = positions[steps[positions] >= self._since].tolist()
            if wanted:
                block = Block(self._keys, self.last)
                exports.add_batch(block, self._keys, batch, wanted, self._started_ms)
                yield from block.items()
            if ordered:
                yield from self._mark(int(steps[-1]) + 1)

    # -- the live tail ----------------------------------------------------------------------

    def _read_live(self, pages: Iterator[Page]) -> Iterator[Item]:
        for low, high, promised in pages:
            rows = self._page(low, high)
            steps = _steps(rows)
            met = [rows[at] for at in self._taken.fresh(steps).tolist()]
            block = Block(self._keys, self.last)
            self._add_rows(block, [row for row in met if _step(row) >= self._since])
            yield from block.items()
            if promised is None:
                continue
            if not promised <= set(steps.tolist()):
                # Rows have been moved under us. Another pass finds them; no mark may pass them.
                return
            yield from self._mark(high)

    def _promised_pages(self, steps: list[int]) -> Iterator[Page]:
        """Ranges that hold ``steps``, the live rows that the server named and we have not met."""
        carried = sum(1 for step in steps if step < self._since)
        # Rows before ``since`` were carried by an earlier read: they are there, and not asked for.
        self._taken.fresh(_ints(steps[:carried]))
        at = carried
        while at < len(steps):
            end = min(at + self._page_rows, len(steps))
            while steps[end - 1] - steps[at] >= PAGE_STEPS and end - at > 1:
                end -= 1
            yield steps[at], steps[end - 1] + 1, set(steps[at:end])
            at = end

    def _blind_pages(self) -> Iterator[Page]:
        """Ranges over all steps beyond the exports, for a server that does not name its live rows.

        As many rows are asked for as the range has steps, so that the server leaves none out. The
        emptier a range was, the wider is the next.
        """
        low, last, width = self._taken.through + 1, self._last_step(), self._page_rows
        while low <= last:
            before = self._taken.count
            yield low, low + width, None
            low += width
            found = self._taken.count - before
            sparse = found < self._page_rows // 20
            width = min(width * 10, BLIND_STEPS) if sparse else self._page_rows

    def _last_step(self) -> int:
        listed = self._client.run(LAST_STEP, self._run_id).get("historyKeys") or {}
        return int(listed.get("lastStep", -1))

    def _page(self, low: int, high: int) -> list[dict[str, Any]]:
        run = self._client.run(
            PAGE, self._run_id, minStep=low, maxStep=high, pageSize=max(1, high - low)
        )
        try:
            rows = [json.loads(line) for line in run.get("history") or ()]
        except (TypeError, ValueError) as error:
            raise SourceError(f"W&B sent a history row that is no JSON: {error}") from error
        return sorted(rows, key=_step)

    def _add_rows(self, block: Block, rows: Iterable[Mapping[str, Any]]) -> None:
        for number, row in enumerate(rows):
            block.open_rows([_step(row)], [row_time_ms(row, self._started_ms)])
            for name, value in row.items():
                if name not in NOT_METRICS:
                    block.add(number, name, value)

    def _mark(self, position: int) -> Iterator[Checkpoint]:
        if position > self._since:
            yield Checkpoint(SERVER, position, rows_too=True)

    # -- what a resumed read has not seen ---------------------------------------------------

    def fill_last(self, wanted: set[Key]) -> None:
        """Find the last values of ``wanted`` keys (and the last row) before ``since``, newest rows
        first, for a read that began in the middle."""
        missing = {path for path in wanted if path not in self.last}
        rows = self._earlier_live_rows()
        while (missing or self.last.step is None) and (page := next(rows, None)) is not None:
            self._add_rows(Block(self._keys, self.last), page)
            missing = {path for path in missing if path not in self.last}
        for group in reversed(self._groups):
            if not missing and self.last.step is not None:
                return
            for batch in exports.batches(group, self._block_rows):
                every = range(batch.num_rows)
                block = Block(self._keys, self.last)
                exports.add_batch(block, self._keys, batch, every, self._started_ms)
            missing = {path for path in missing if path not in self.last}

    def _earlier_live_rows(self) -> Iterator[list[dict[str, Any]]]:
        through = max((group.last_step for group in self._groups), default=-1)
        steps = [step for step in self._live if through < step < self._since]
        while steps:
            start = max(0, len(steps) - self._page_rows)
            while steps[-1] - steps[start] >= PAGE_STEPS and start < len(steps) - 1:
                start += 1
            yield self._page(steps[start], steps[-1] + 1)
            del steps[start:]


def _only_steps(group: RowGroup) -> Ints:
    import numpy as np

    found = [exports.steps_of(batch) for batch in exports.batches(group, 1 << 20, ["_step"])]
    return np.concatenate(found)


def _step(row: Mapping[str, Any]) -> int:
    return int(row.get("_step", 0))


def _steps(rows: Iterable[Mapping[str, Any]]) -> Ints:
    return _ints([_step(row) for row in rows])


def _ints(steps: list[int]) -> Ints:
    import numpy as np

    return np.array(steps, dtype=np.int64)
