"""Read the runs of one project of a W&B server: ``wandb://ENTITY/PROJECT[/RUN]``."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from mlflow_wandb_plugin.core.identity import SERVER
from mlflow_wandb_plugin.core.model import (
    Item,
    Key,
    RunInfo,
    Selection,
    Size,
    UnreadableRange,
    flatten,
)
from mlflow_wandb_plugin.core.protocols import RunOverview, Source
from mlflow_wandb_plugin.core.step_axes import StepAxes
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.sources.temp_dirs import RefCountedTempDir
from mlflow_wandb_plugin.sources.wandb_server.artifacts import LOGGED, RunArtifacts, list_artifacts
from mlflow_wandb_plugin.sources.wandb_server.history import PAGE_ROWS, RunHistory
from mlflow_wandb_plugin.sources.wandb_server.history_rows import RunKeys, with_numbers
from mlflow_wandb_plugin.sources.wandb_server.reports import list_reports
from mlflow_wandb_plugin.sources.wandb_server.run_files import RunDownloads, list_files, number
from mlflow_wandb_plugin.sources.wandb_server.runs import RunLister, document, with_metadata
from mlflow_wandb_plugin.wandb_api.client import WandbClient
from mlflow_wandb_plugin.wandb_api.config_keys import add_config_keys

PAUSES_S = (0.0, 1.0, 4.0)
"""Seconds before each further pass over a finished run whose rows are not complete."""


class WandbServerSource(Source):
    """A `Source` of one project, or one run, of a W&B server.

    Args:
        artifacts: whether to download the artifacts that runs logged, and list those they used.
        page_rows: live rows a request.
        pauses_s: see `PAUSES_S`.
    """

    filter_language = "wandb"
    rate_limited = True

    def __init__(
        self,
        client: WandbClient,
        artifacts: bool = True,
        page_rows: int = PAGE_ROWS,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._artifacts = artifacts
        self._client = client
        self._lister = RunLister(client)
        self._page_rows = page_rows
        self._pauses_s = pauses_s

    @property
    def path(self) -> str:
        """W&B's path of the project."""
        return self._client.address.path

    @property
    def calls(self) -> Mapping[str, int]:
        """Number of requests so far, by kind."""
        return dict(self._client.calls)

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """See `RunLister.runs`."""
        return self._lister.runs(selection)

    def count(self, selection: Selection) -> int:
        """Estimate how many runs are selected, before patterns of names are applied."""
        return self._lister.count(selection)

    def reports(self) -> list[str]:
        """Return the titles of the project's reports.

        Raises:
            SourceError: the server does not list them.
        """
        return list_reports(self._client)

    def size(self, run: RunInfo) -> Size:
        """Compute the size from the server's description of the run, without its history."""
        node = self._lister.node(run.run_id)
        keys = RunKeys(node.get("historyKeys"), {})
        rows = number(node.get("historyLineCount"))
        points = _points(keys, node)
        files = [number(file.get("sizeBytes")) for file in list_files(self._client, run.run_id)]
        listed = list_artifacts(self._client, run.run_id, LOGGED) if self._artifacts else ()
        artifacts = [number(artifact.get("size")) for artifact in listed]
        # The run twice, exports, files, events, used and logged artifacts; then their contents.
        requests = 7 + ceil(rows / self._page_rows) + len(files) + 3 * len(artifacts)
        return Size(points, sum(files) + sum(artifacts), requests, len(files) + len(artifacts))

    def overview(self, run: RunInfo, with_files: bool) -> RunOverview:
        """Take rows and keys from the listing, the keys of the summary; a request lists files."""
        rows = sum(run.rows.values())
        keys = frozenset(".".join(path) for path in flatten(run.summary))
        if not with_files:
            return RunOverview(rows, keys)
        sizes = [number(file.get("sizeBytes")) for file in list_files(self._client, run.run_id)]
        return RunOverview(rows, keys, len(sizes), sum(sizes))

    def point_counts(self, run: RunInfo) -> Mapping[Key, int]:
        """Return what the server counts, without reading the history."""
        node = self._lister.node(run.run_id)
        return RunKeys(node.get("historyKeys"), self._lister.info(node).summary).point_counts

    def beside_runs(self, selection: Selection) -> list[str]:
        """Return the project's reports; one line says so where they cannot be listed."""
        try:
            reports = self.reports()
        except SourceUnavailableError:
            raise
        except SourceError as error:
            return [f"{self._client.address.path}: its reports cannot be listed: {error}"]
        return [f"{self._client.address.path}: report {name}" for name in reports]

    def describe(self, run: RunInfo) -> RunInfo:
        """Return the run as it was listed: the listing has its summary."""
        return run

    def history(self, run: RunInfo) -> Iterator[Item]:
        """Yield the rows alone, in order, and what cannot be read of them."""
        node = self._lister.node(run.run_id)
        info = self._lister.info(node)
        keys = RunKeys(node.get("historyKeys"), info.summary)
        folder = RefCountedTempDir("mlflow-wandb-read-")
        history = self._history(info, keys, folder)
        yield from history.read()
        yield from _unreadable(info, history, info.rows[SERVER] - history.rows)

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        """See `Source.read`. A downloaded file exists while its `FileRef.local` is referenced."""
        folder = RefCountedTempDir("mlflow-wandb-read-")
        downloads = RunDownloads(self._client, run.run_id, folder)
        node = self._lister.node(run.run_id)
        first = self._lister.info(node)
        # For the target the run is running until all rows have been read.
        keys = RunKeys(node.get("historyKeys"), first.summary)
        running = replace(first, state="running", ended_ms=None, points=_points(keys, node))
        # The metadata file may name the user of the machine, who is preferred to the account.
        known = {name: fact for name, fact in running.facts.items() if name != "account"}
        yield replace(running, facts=known)
        yield from downloads.new_files()
        yield with_metadata(running, downloads.metadata)

        def refresh() -> None:
            fresh = self._lister.node(run.run_id)
            keys.update(fresh.get("historyKeys"), self._lister.info(fresh).summary)

        again = refresh if first.state == "running" else None
        history = self._history(first, keys, folder, since.get(SERVER, 0), again)
        now = yield from self._rows(history, first)
        yield from downloads.system_metrics(number(node.get("eventsLineCount")))
        if first.state == "running":
            # Media of rows that were logged after the files were listed.
            yield from downloads.new_files()
        yield from downloads.console(number(node.get("logLineCount")))
        artifacts = RunArtifacts(self._client, run.run_id, folder)
        if self._artifacts:
            yield from artifacts.read()
        now = with_metadata(now, downloads.metadata)
        now = replace(now, missing=downloads.damaged or artifacts.damaged)
        yield from self._end(now, first, keys, history)

    def add_to_config(self, run: RunInfo, keys: Mapping[str, str]) -> None:
        """Add keys to the config of a run that has ended and has none of them; sent once."""
        add_config_keys(self._client.without_retries(), run.run_id, keys)

    def _history(
        self,
        info: RunInfo,
        keys: RunKeys,
        folder: RefCountedTempDir,
        since: int = 0,
        refresh: Callable[[], None] | None = None,
    ) -> RunHistory:
        return RunHistory(
            self._client,
            info.run_id,
            keys,
            # -1 (read to the end) counts as 0: the run is read again because it has grown.
            since=max(0, since),
            folder=folder.new_folder(),
            started_ms=info.started_ms or 0,
            page_rows=self._page_rows,
            refresh=refresh,
        )

    def _rows(self, history: RunHistory, first: RunInfo) -> Generator[Item, None, RunInfo]:
        """Read the rows, again while a finished run lacks some; returns the run as it is then."""
        yield from history.read()
        now = self._lister.info(self._lister.node(first.run_id))
        for pause in self._pauses_s:
            if first.state == "running" or history.rows >= now.rows[SERVER]:
                break
            time.sleep(pause)
            yield from history.read()
            now = self._lister.info(self._lister.node(first.run_id))
        return now

    def _end(
        self, now: RunInfo, first: RunInfo, keys: RunKeys, history: RunHistory
    ) -> Iterator[Item]:
        # A run that ended during this read may have files and rows that the read has missed.
        over = first.state != "running" and now.state != "running"
        lacking = now.rows[SERVER] - history.rows if over else 0
        if over:
            wanted = {path for path in flatten(now.summary) if keys.logged(path)}
            axes = StepAxes(now.step_definitions).metrics & keys.types.keys()
            history.fill_last(wanted | {keys.path(name) for name in axes})
        yield from _unreadable(now, history, lacking)
        last = history.last
        yield replace(
            now,
            state=now.state if over else "running",
            ended_ms=now.ended_ms if over else None,
            summary=with_numbers(now.summary, last),
            last=last.values,
            last_step=last.step,
            last_ms=last.ms,
            missing=now.missing or lacking > 0 or bool(history.damaged),
        )


def _unreadable(info: RunInfo, history: RunHistory, lacking: int) -> Iterator[UnreadableRange]:
    """Yield the rows that ``history`` is ``lacking``, and why exports cannot be read."""
    if lacking > 0:
        reason = f"W&B counts {info.rows[SERVER]} rows and returns {history.rows}"
        yield UnreadableRange(info.path, history.rows, lacking, reason, "rows", lost=False)
    for reason in history.damaged.values():
        yield UnreadableRange(info.path, 0, 1, reason, "exports", lost=False)


def _points(keys: RunKeys, node: Mapping[str, Any]) -> int:
    """Estimate a run's number of points from the server's description."""
    events = number(node.get("eventsLineCount"))
    return keys.points + events * len(flatten(document(node.get("systemMetrics"))))
