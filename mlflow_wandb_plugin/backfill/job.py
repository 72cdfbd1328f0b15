"""A backfill as other machines can be told of it, and what an engine must offer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.run import Listener, Outcome
from mlflow_wandb_plugin.core.model import RunInfo, Selection
from mlflow_wandb_plugin.core.protocols import Source


@dataclass(frozen=True, slots=True)
class Job:
    """What a backfill is to do; it can be pickled, and holds no key.

    Attributes:
        source, to: URIs as the user gave them; ``to`` may be empty.
        experiment: template of the experiment's name.
        into: id of the experiment that all runs go into; empty means one by ``experiment``.
    """

    source: str
    to: str = ""
    experiment: str = "{project}"
    selection: Selection = field(default_factory=Selection)
    options: BackfillOptions = field(default_factory=BackfillOptions)
    into: str = ""


class Engine(Protocol):
    """Carries the runs of a backfill, elsewhere than in threads of this process."""

    def check(self, job: Job) -> None:
        """
        Raises:
            UsageError: this engine cannot do ``job``; nothing has been started.
        """

    def run(self, job: Job, listener: Listener, curves: Curves) -> Iterator[Outcome]:
        """Yield an outcome a run, as each is done, as `backfill.engine.backfill` does.

        Raises:
            UsageError: it cannot be done.
            SourceError: the source cannot be listed.
        """


class CurveRecordingSource:
    """A source whose series also draw the report's curves."""

    def __init__(self, source: Source, curves: Curves) -> None:
        self.runs, self.size = source.runs, source.size
        self._source = source
        self._curves = curves

    @property
    def unreadable(self) -> Any:
        return getattr(self._source, "unreadable", ())

    @property
    def filters(self) -> bool:
        return bool(getattr(self._source, "filters", False))

    @property
    def artifacts(self) -> bool:
        return bool(getattr(self._source, "artifacts", True))

    @artifacts.setter
    def artifacts(self, wanted: bool) -> None:
        if hasattr(self._source, "artifacts"):
            self._source.artifacts = wanted

    def read(self, run: RunInfo, since: Any) -> Any:
        return self._curves.watch(run.run_id, self._source.read(run, since))
