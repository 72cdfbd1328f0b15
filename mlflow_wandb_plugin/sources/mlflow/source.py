"""Read the runs of an MLflow store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core.model import Item, Key, RunInfo, Selection, Size
from mlflow_wandb_plugin.core.protocols import RunOverview, Source, SourceOptions
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.to_wandb import SEGMENT
from mlflow_wandb_plugin.sources.mlflow.artifact_store import ArtifactStore
from mlflow_wandb_plugin.sources.mlflow.points import point_reader
from mlflow_wandb_plugin.sources.mlflow.replica import is_replica
from mlflow_wandb_plugin.sources.mlflow.replica_reading import ReplicaReading
from mlflow_wandb_plugin.sources.mlflow.run_description import MLFLOW_RUN_ID
from mlflow_wandb_plugin.sources.mlflow.run_lister import RunLister
from mlflow_wandb_plugin.sources.mlflow.run_reading import RunReading
from mlflow_wandb_plugin.sources.mlflow.store_client import StoreClient

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

REQUESTS = 5
"""Requests for a run beside those for points and files: the run, its models, versions, traces."""


class MlflowSource(Source):
    """A `Source` of one MLflow store. Thread-safe."""

    filter_language = "mlflow"

    def __init__(self, client: StoreClient, options: SourceOptions) -> None:
        self._client = client
        self._options = options
        self._lister = RunLister(client)
        self._points = point_reader(client)

    @property
    def mlflow(self) -> MlflowClient:
        """MLflow's own client of the store."""
        return self._client.mlflow

    def entity(self, run: RunInfo) -> Run:
        """Return MLflow's entity of a run.

        Raises:
            SourceError: the run cannot be read.
        """
        return self._lister.run(str(run.facts[MLFLOW_RUN_ID]))

    def info(self, run: Run) -> RunInfo:
        """Describe a run of this store as `runs` does.

        Raises:
            SourceError: its experiment cannot be read.
        """
        return self._lister.info(run)

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """See `RunLister.runs`."""
        return self._lister.runs(selection)

    def count(self, selection: Selection) -> int | None:
        """Counting would be listing."""
        return None

    def size(self, run: RunInfo) -> Size:
        """Count points where a database can be asked, else at least one for each metric; add up
        the listed sizes of files."""
        counts = self.point_counts(run)
        entity = self._lister.listed(str(run.facts[MLFLOW_RUN_ID]))
        metrics = len(entity.data.metrics)
        points = metrics if counts is None else sum(counts.values())
        sizes = []
        if self._options.artifacts:
            try:
                uri = entity.info.artifact_uri or ""
                store = ArtifactStore(self._client, uri, self._options.follow_links)
                sizes = [file.size for file in store.files()]
            except SourceUnavailableError:
                raise
            except SourceError:
                # A plan is made all the same; `read` reports what it cannot read.
                pass
        return Size(points, sum(sizes), REQUESTS + metrics + len(sizes), len(sizes))

    def overview(self, run: RunInfo, with_files: bool) -> RunOverview:
        """Name the metrics that the listing has; MLflow has no rows."""
        entity = self._lister.listed(str(run.facts[MLFLOW_RUN_ID]))
        keys = frozenset(entity.data.metrics)
        if not with_files:
            return RunOverview(keys=keys)
        size = self.size(run)
        return RunOverview(None, keys, size.files, size.file_bytes)

    def point_counts(self, run: RunInfo) -> Mapping[Key, int] | None:
        """Count in the database; None elsewhere, where counting would be reading, and for a run
        that came from W&B. MLflow's steps, which are one more key of the rows, are not counted."""
        run_id = str(run.facts[MLFLOW_RUN_ID])
        # A run that came from W&B has the id that it has there.
        counts = self._points.counts(run_id) if run_id == run.run_id else None
        if counts is None:
            return None
        return {(rules.metric_key(name),): number for name, number in counts.items()}

    def describe(self, run: RunInfo) -> RunInfo:
        """Return a run with all that its config says of models and traces."""
        return self._reading(run).describe()

    def history(self, run: RunInfo) -> Iterator[Item]:
        """Yield the rows of numbers alone, in order."""
        return self._reading(run).history()

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        """See `Source.read`; positions are numbers of rows. A downloaded file exists while its
        `FileRef.local` is referenced; a file of this machine is yielded where it is.

        The rows of a running run keep their numbers if later points have later times. Images and
        tables without a time of their own come last, once the run has ended.
        """
        return self._reading(run).read(max(0, since.get(SEGMENT, 0)))

    def _reading(self, run: RunInfo) -> RunReading | ReplicaReading:
        entity = self.entity(run)
        if is_replica(entity):
            return ReplicaReading(self._client, self._points, entity, self._options)
        experiment = self._lister.experiment_name(entity.info.experiment_id)
        return RunReading(self._client, self._points, entity, experiment, self._options)
