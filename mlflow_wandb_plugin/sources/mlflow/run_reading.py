"""Read all of one run that was created in MLflow, in the order of W&B's rows."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    FileRef,
    Item,
    RowObjects,
    RunInfo,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.protocols import SourceOptions
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.mapping import media
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.to_wandb import SEGMENT
from mlflow_wandb_plugin.sources.mlflow.artifact_store import (
    ArtifactStore,
    LocalCopy,
    StoredFile,
    temporary_file,
)
from mlflow_wandb_plugin.sources.mlflow.point_spool import PointSpool
from mlflow_wandb_plugin.sources.mlflow.points import PointReader
from mlflow_wandb_plugin.sources.mlflow.rows import RowBuilder
from mlflow_wandb_plugin.sources.mlflow.run_description import run_info
from mlflow_wandb_plugin.sources.mlflow.run_models import MODELS, RunModels
from mlflow_wandb_plugin.sources.mlflow.store_client import StoreClient

if TYPE_CHECKING:
    from mlflow.entities import Run

BLOCK_POINTS = 100_000
"""Points in memory at a time."""


class _StepImage(NamedTuple):
    """An image file that has its time in its name; in the order of rows."""

    timestamp_ms: int
    path: str
    name: rules.ImageName


class RunReading:
    """Reads one run.

    Args:
        run: MLflow's entity.
        experiment: name of its experiment.
    """

    def __init__(
        self,
        client: StoreClient,
        points: PointReader,
        run: Run,
        experiment: str,
        options: SourceOptions,
    ) -> None:
        self._client = client
        self._points = points
        self._run = run
        self._experiment = experiment
        self._options = options
        self._models = RunModels(client, run, options.follow_links)
        self._info = run_info(run, experiment, client.uri)
        self._missing = False
        self._store: ArtifactStore | None = None
        self._files: dict[str, StoredFile] = {}
        self._count = 0
        self._shown: dict[str, dict[str, Any]] = {}

    def describe(self) -> RunInfo:
        """Return the run with all that its config says, without reading its points."""
        self._models.load()
        return self._with_details()

    def history(self, since: int = 0) -> Iterator[Item]:
        """Yield the rows of numbers alone, and the run as it is then."""
        with closing(self._spool()) as spool:
            rows = RowBuilder(spool.names, (), since)
            for block in spool.blocks(BLOCK_POINTS):
                yield from rows.series(block)
                yield Checkpoint(SEGMENT, rows.rows)
        yield self._described(rows, self._info)

    def read(self, since: int) -> Iterator[Item]:
        """Yield everything; see `MlflowSource.read`.

        Args:
            since: number of rows whose numbers may be left out.
        """
        with closing(self._spool()) as spool:
            yield replace(self._info, state="running", ended_ms=None, points=spool.count)
            if self._options.artifacts:
                yield from self._list_files()
            images = self._step_images()
            rows = RowBuilder(spool.names, [image.timestamp_ms for image in images], since)
            yield from self._rows(rows, spool, images, since)
        number = rows.rows + len(images)
        if self._options.artifacts:
            number = yield from self._other_files(number, rows.last_ms)
            yield Checkpoint(SEGMENT, number)
            yield from self._models.used()
        info = yield from self._load_models()
        if self._options.artifacts:
            yield from self._model_artifacts()
        yield self._described(rows, replace(info, missing=self._missing), number)

    def _spool(self) -> PointSpool:
        spool = PointSpool()
        try:
            self._points.read(self._run.info.run_id, sorted(self._run.data.metrics), spool)
        except BaseException:
            spool.close()
            raise
        self._count = spool.count
        return spool

    def _rows(
        self, rows: RowBuilder, spool: PointSpool, images: list[_StepImage], since: int
    ) -> Iterator[Item]:
        """Yield rows of points, and of images between them."""
        done = 0
        for block in spool.blocks(BLOCK_POINTS):
            yield from rows.series(block)
            # More points of the last millisecond may come.
            while done < len(images) and images[done].timestamp_ms < (rows.last_ms or 0):
                yield from self._image_row(rows, done, images[done], since)
                done += 1
            yield Checkpoint(SEGMENT, rows.rows + done)
        for place in range(done, len(images)):
            yield from self._image_row(rows, place, images[place], since)

    def _image_row(
        self, rows: RowBuilder, place: int, image: _StepImage, since: int
    ) -> Iterator[Item]:
        number, at_ms = rows.other_number(place, image.timestamp_ms), image.timestamp_ms
        if image.name.step is not None and number >= since:
            step = float(image.name.step)
            yield Series((rules.STEP_METRIC,), [number], [at_ms], [step])
        yield from self._image(image.path, image.name.key, number, at_ms)

    def _image(self, path: str, key: str, number: int, at_ms: int) -> Iterator[Item]:
        copy = yield from self._file(path)
        if copy is None or copy.refused:
            return
        try:
            shown = media.image(key, number, copy.path)
        except SourceError as error:
            # Reading it again would not help: the run is complete without it.
            yield self._unreadable(f"file {path}", 1, str(error), "images")
            return
        yield from self._media_row(key, number, at_ms, shown)

    def _media_row(self, key: str, number: int, at_ms: int, shown: media.Media) -> Iterator[Item]:
        """Yield a media value and its file; the last one of a key is in the summary, too."""
        self._shown[key] = shown.value
        yield shown.file
        yield RowObjects(number, at_ms, {(key,): shown.value})

    def _list_files(self) -> Iterator[Item]:
        try:
            uri = self._run.info.artifact_uri or ""
            self._store = ArtifactStore(self._client, uri, self._options.follow_links)
            self._files = {file.path: file for file in self._store.files()}
        except SourceUnavailableError:
            raise
        except SourceError as error:
            yield self._lost("files", 1, str(error), "folders")

    def _step_images(self) -> list[_StepImage]:
        named = [(rules.image_name(path), path) for path in self._files]
        return sorted(
            _StepImage(name.timestamp_ms, path, name)
            for name, path in named
            if name is not None and name.timestamp_ms is not None
        )

    def _other_files(self, number: int, last_ms: int | None) -> Generator[Item, None, int]:
        """Yield all files that were not yielded, and rows of those that are images or tables, once
        the run has ended; returns the number of the next row."""
        at_ms = max(last_ms or 0, self._info.ended_ms or self._info.started_ms or 0)
        ended = self._info.state != "running"
        for file in list(self._files.values()):
            name = rules.image_name(file.path)
            if name is not None and ended:
                yield from self._image(file.path, name.key, number, at_ms)
                number += 1
                continue
            copy = yield from self._file(file.path)
            if copy is None or copy.refused or not ended:
                continue
            shown = self._table(file, copy, number)
            if shown is not None:
                yield from self._media_row(file.path, number, at_ms, shown)
                number += 1
        return number

    def _table(self, file: StoredFile, copy: LocalCopy, number: int) -> media.Media | None:
        if not rules.may_be_table(file.path, copy.path.stat().st_size):
            return None
        table = rules.shown_table(copy.path.read_text(encoding="utf-8", errors="replace"))
        return (
            None
            if table is None
            else media.table(file.path, number, *table, temporary_file("table.json"))
        )

    def _file(self, path: str) -> Generator[Item, None, LocalCopy | None]:
        """Yield a file of the run; returns its local copy, None if it cannot be downloaded."""
        assert self._store is not None
        file = self._files.pop(path)
        try:
            copy = self._store.fetch(path)
        except SourceUnavailableError:
            raise
        except SourceError as error:
            yield self._lost(f"file {path}", max(1, file.size), str(error))
            return None
        yield FileRef(rules.file_path(path), copy.path, copy.refused)
        return copy

    def _load_models(self) -> Generator[Item, None, RunInfo]:
        for what, reason in self._models.load().items():
            # Some servers cannot list versions and traces of a run: asking again would not help.
            self._missing = self._missing or what == MODELS
            yield self._unreadable(what, 1, reason, "lists")
        return self._with_details()

    def _with_details(self) -> RunInfo:
        return run_info(self._run, self._experiment, self._client.uri, self._models.details)

    def _model_artifacts(self) -> Iterator[Item]:
        for model in self._models.models:
            try:
                yield self._models.artifact(model)
            except SourceUnavailableError:
                raise
            except SourceError as error:
                yield self._lost(f"model {model}", 1, str(error), "models")

    def _lost(self, what: str, length: int, reason: str, unit: str = "bytes") -> UnreadableRange:
        self._missing = True
        return self._unreadable(what, length, reason, unit)

    def _unreadable(self, what: str, length: int, reason: str, unit: str) -> UnreadableRange:
        where = " ".join(f"{self._info.path}: {what}".split())
        return UnreadableRange(where, 0, length, reason, unit)

    def _described(self, rows: RowBuilder, info: RunInfo, number: int | None = None) -> RunInfo:
        count = rows.rows if number is None else number
        return replace(
            info,
            rows={SEGMENT: count},
            points=self._count,
            summary={**info.summary, **self._shown},
            last={(key,): value for key, value in rows.last.items()},
            last_step=count - 1 if count else None,
            last_ms=rows.last_ms,
        )
