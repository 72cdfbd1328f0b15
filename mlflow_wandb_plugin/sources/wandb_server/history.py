"""Read the complete history of one run: parquet exports, then the live rows not exported yet.

W&B moves rows from the live rows to exports at any time, also between two requests. Each pass
therefore starts from one answer that lists both; every page is compared with the rows listed in it,
and rows are identified by their step. Rows that were moved meanwhile are read in another pass.

Assumptions about the service: a step has one row, exports have the oldest rows, and
`historyLineCount` counts rows. Otherwise the counts differ, and the run is reported as incomplete.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from mlflow_wandb_plugin.core.identity import SERVER
from mlflow_wandb_plugin.core.model import Checkpoint, Item, Key
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.sources.wandb_server import exports
from mlflow_wandb_plugin.sources.wandb_server.history_rows import (
    Block,
    LastValues,
    RunKeys,
    row_time_ms,
)
from mlflow_wandb_plugin.wandb_api.client import WandbClient
from mlflow_wandb_plugin.wandb_log.decoder import BLOCK_POINTS
from mlflow_wandb_plugin.wandb_log.summary import INTERNAL_KEYS

if TYPE_CHECKING:
    from mlflow_wandb_plugin.sources.wandb_server.exports import Ints, RowGroup

PAGE_ROWS = 1000
"""Live rows a request."""
PAGE_STEPS = 10_000_000
"""Steps that a request may span, so that sparse steps need few requests."""
UNLISTED_PAGE_STEPS = 1_000_000
"""Steps that a request may span if the live rows are not listed: as many rows may be returned."""

DOWNLOADS = 2
"""How often an export is downloaded whose footer or pages are damaged."""

Page: TypeAlias = "tuple[int, int, set[int] | None]"
"""First step, end step (exclusive), and the live steps listed in between, None if unknown."""

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


class ReadSteps:
    """The steps that have been read.

    Attributes:
        through: all steps up to this one are done.
        count: number of rows read.
    """

    def __init__(self) -> None:
        import numpy as np

        self._np = np
        self.through = -1
        self.count = 0
        self._beyond: list[Ints] = []
        self._max_beyond = -1

    def add(self, steps: Ints) -> Ints:
        """Add steps; returns the positions in ``steps`` of those not read before, each once."""
        positions = self.unread(steps)
        if len(positions):
            self._beyond.append(steps[positions])
            self._max_beyond = max(self._max_beyond, int(steps[positions].max()))
            self.count += len(positions)
        return positions

    def unread(self, steps: Ints) -> Ints:
        """Return the positions in ``steps`` of those not read before, each once."""
        np = self._np
        positions = np.arange(len(steps))
        if len(steps) > 1 and not (steps[1:] > steps[:-1]).all():
            positions = np.sort(np.unique(steps, return_index=True)[1])
        new = steps[positions] > self.through
        if self._beyond and len(steps) and steps.min() <= self._max_beyond:
            self._beyond = [np.concatenate(self._beyond)]
            new &= ~np.isin(steps[positions], self._beyond[0])
        unread: Ints = positions[new]
        return unread

    def advance(self, step: int) -> None:
        """Mark all steps up to ``step`` as done."""
        self.through = max(self.through, step)
        kept = [beyond[beyond > self.through] for beyond in self._beyond]
        self._beyond = [beyond for beyond in kept if len(beyond)]


class RunHistory:
    """Reads one run's history, in one pass a call of `read`.

    Attributes:
        damaged: why an export, or a part of it, cannot be read, by its name.

    Args:
        since: first step to yield; rows at earlier steps are only counted.
        folder: for downloaded exports.
        started_ms: Unix ms; the time of rows without one.
        page_rows: live rows a request.
        refresh: updates ``keys``; called in each pass, once its rows are known.
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
        self.damaged: dict[str, str] = {}
        self._client = client
        self._run_id = run_id
        self._keys = keys
        self._since = since
        self._folder = folder
        self._started_ms = started_ms
        self._block_rows = max(1, BLOCK_POINTS // keys.width)
        self._page_rows = min(page_rows, self._block_rows)
        self._refresh = refresh
        self._done = ReadSteps()
        self._exports: dict[str, list[RowGroup]] = {}
        self._fetched_again: set[str] = set()
        self._groups: list[RowGroup] = []
        self._live: list[int] = []

    @property
    def rows(self) -> int:
        """Number of rows that were yielded or are before ``since``."""
        return self._done.count

    def read(self) -> Iterator[Item]:
        """Yield all rows that no earlier pass has yielded, and checkpoints.

        Raises:
            SourceError: an answer or export cannot be read.
        """
        count = self._list_rows()
        if self._refresh is not None:
            self._refresh()
        yield from self._read_exports()
        live = _ints(self._live)
        unread: list[int] = live[self._done.unread(live)].tolist()
        all_listed = self._done.count + len(unread) == count
        # The rows of a damaged export are not live: they are not to be looked for there.
        listed = all_listed or (self.damaged and unread)
        pages = self._listed_pages(unread) if listed else self._unlisted_pages()
        yield from self._read_live(pages)

    def _list_rows(self) -> int:
        """Download new exports and list live rows; returns the server's count of all rows."""
        run = self._locate_rows()
        history = run.get("parquetHistory") or {}
        for name, url in _export_urls(run).items():
            if name not in self._exports:
                self._fetch_export(name, url)
        self._groups = exports.by_step(itertools.chain.from_iterable(self._exports.values()))
        live = {int(row["_step"]) for row in history.get("liveData") or () if "_step" in row}
        self._live = sorted(live)
        return int(run.get("historyLineCount") or 0)

    def _fetch_export(self, name: str, url: str) -> None:
        """Download an export, again if it cannot be read; one that never can is in `damaged`."""
        local = self._folder / f"{len(self._exports):06d}.parquet"
        for _ in range(DOWNLOADS):
            self._client.download(url, local)
            try:
                self._exports[name] = exports.row_groups(local)
            except SourceError as error:
                self.damaged[name] = str(error)
            else:
                self.damaged.pop(name, None)
                return

    def _locate_rows(self) -> dict[str, Any]:
        try:
            return self._client.run(EXPORTS, self._run_id, liveKeys=["_step"])
        except SourceUnavailableError:
            raise
        except SourceError as error:
            if "parquetHistory" not in str(error):
                raise
            # An older server without exports.
            return self._client.run(COUNT, self._run_id)

    # -- exports ----------------------------------------------------------------------------

    def _read_exports(self) -> Iterator[Item]:
        # The groups of a damaged export may lie between the others.
        ordered = exports.in_order(self._groups, self._done.through) and not self.damaged
        for group in list(self._groups):
            if group.last_step <= self._done.through:
                continue
            if ordered and group.last_step < self._since and group.sorted:
                self._done.add(_only_steps(group))
            else:
                yield from self._read_group(group, ordered)
            ordered = ordered and not self.damaged
            if ordered:
                self._done.advance(group.last_step)
        if self._groups and not ordered and not self.damaged:
            self._done.advance(max(group.last_step for group in self._groups))
            yield from self._checkpoint(self._done.through + 1)

    def _read_group(self, group: RowGroup, ordered: bool) -> Iterator[Item]:
        for batch in self._batches(group):
            steps = exports.steps_of(batch)
            positions = self._done.add(steps)
            wanted = positions[steps[positions] >= self._since].tolist()
            if wanted:
                block = Block(self._keys, self.last)
                exports.add_batch(block, self._keys, batch, wanted, self._started_ms)
                yield from block.items()
            if ordered:
                yield from self._checkpoint(int(steps[-1]) + 1)

    def _batches(self, group: RowGroup) -> Iterator[Any]:
        """Yield a row group's batches; if a page is damaged, all again from a second download.

        A group with a page that stays damaged is left out from there on, and is in `damaged`.
        """
        name = next(name for name, groups in self._exports.items() if group in groups)
        while True:
            try:
                yield from exports.batches(group, self._block_rows)
                return
            except SourceError as error:
                if name not in self._fetched_again and self._download_again(name, group.path):
                    continue
                self.damaged[name] = str(error)
                self._exports[name].remove(group)
                self._groups.remove(group)
                return

    def _download_again(self, name: str, local: Path) -> bool:
        """Download an export a second time; returns whether the server still lists it."""
        self._fetched_again.add(name)
        url = _export_urls(self._locate_rows()).get(name)
        if url is not None:
            self._client.download(url, local)
        return url is not None

    # -- the live tail ----------------------------------------------------------------------

    def _read_live(self, pages: Iterator[Page]) -> Iterator[Item]:
        for low, high, listed in pages:
            rows = self._page(low, high)
            steps = _ints([_step(row) for row in rows])
            new = [rows[at] for at in self._done.add(steps).tolist()]
            block = Block(self._keys, self.last)
            self._add_rows(block, [row for row in new if _step(row) >= self._since])
            yield from block.items()
            if listed is None:
                continue
            if not listed <= set(steps.tolist()):
                # Rows were moved to exports: another pass reads them, so no checkpoint here.
                return
            yield from self._checkpoint(high)

    def _listed_pages(self, steps: list[int]) -> Iterator[Page]:
        """Yield pages for ``steps``, the listed live rows that are not read yet."""
        copied = sum(1 for step in steps if step < self._since)
        # Rows before ``since`` were copied earlier: they count, and are not requested.
        self._done.add(_ints(steps[:copied]))
        at = copied
        while at < len(steps):
            end = min(at + self._page_rows, len(steps))
            while steps[end - 1] - steps[at] >= PAGE_STEPS and end - at > 1:
                end -= 1
            yield steps[at], steps[end - 1] + 1, set(steps[at:end])
            at = end

    def _unlisted_pages(self) -> Iterator[Page]:
        """Yield pages over all steps after the exports, for a server that lists no live rows.

        A request asks for as many rows as it has steps, so that the server leaves none out. After a
        sparse page the next one is wider.
        """
        low, last, width = self._done.through + 1, self._last_step(), self._page_rows
        while low <= last:
            before = self._done.count
            yield low, low + width, None
            low += width
            found = self._done.count - before
            sparse = found < self._page_rows // 20
            width = min(width * 10, UNLISTED_PAGE_STEPS) if sparse else self._page_rows

    def _last_step(self) -> int:
        listed = self._client.run(LAST_STEP, self._run_id).get("historyKeys") or {}
        return int(listed.get("lastStep", -1))

    def _page(self, low: int, high: int) -> list[dict[str, Any]]:
        size = max(1, high - low)
        run = self._client.run(PAGE, self._run_id, minStep=low, maxStep=high, pageSize=size)
        try:
            rows = [json.loads(line) for line in run.get("history") or ()]
        except (TypeError, ValueError) as error:
            raise SourceError(f"W&B sent a history row that is not JSON: {error}") from error
        return sorted(rows, key=_step)

    def _add_rows(self, block: Block, rows: Iterable[Mapping[str, Any]]) -> None:
        for number, row in enumerate(rows):
            block.add_rows([_step(row)], [row_time_ms(row, self._started_ms)])
            for name, value in row.items():
                if name not in INTERNAL_KEYS:
                    block.add(number, name, value)

    def _checkpoint(self, position: int) -> Iterator[Checkpoint]:
        # Behind the rows of an export that could not be read nothing may be left out later.
        if position > self._since and not self.damaged:
            yield Checkpoint(SERVER, position, rows_too=True)

    # -- last values of a resumed read ------------------------------------------------------

    def fill_last(self, wanted: set[Key]) -> None:
        """Read the last values of ``wanted`` keys, and the last row, from before ``since``."""
        missing = {path for path in wanted if path not in self.last}
        rows = self._earlier_live_rows()
        while (missing or self.last.step is None) and (page := next(rows, None)) is not None:
            self._add_rows(Block(self._keys, self.last), page)
            missing = {path for path in missing if path not in self.last}
        for group in self._groups[::-1]:
            if not missing and self.last.step is not None:
                return
            for batch in self._batches(group):
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


def _export_urls(run: Mapping[str, Any]) -> dict[str, str]:
    """Addresses of a run's exports by path: the signature in an address changes."""
    listed = (run.get("parquetHistory") or {}).get("parquetUrls") or ()
    return {urlsplit(str(url)).path: str(url) for url in listed}


def _only_steps(group: RowGroup) -> Ints:
    import numpy as np

    found = [exports.steps_of(batch) for batch in exports.batches(group, 1 << 20, ["_step"])]
    return np.concatenate(found)


def _step(row: Mapping[str, Any]) -> int:
    return int(row.get("_step", 0))


def _ints(steps: list[int]) -> Ints:
    import numpy as np

    return np.array(steps, dtype=np.int64)
