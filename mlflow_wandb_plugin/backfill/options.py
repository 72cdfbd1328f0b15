"""What a backfill is to do: its job and its options, and the filter on what is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mlflow_wandb_plugin.core.limiter import RequestGate
from mlflow_wandb_plugin.core.model import ArtifactRef, Item, RowObjects, Selection, Series
from mlflow_wandb_plugin.core.protocols import SourceOptions, TargetOptions, WritePath
from mlflow_wandb_plugin.errors import UsageError


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """Options of a backfill.

    Attributes:
        dual_written: what to do with dual-written runs. "verify" skips complete ones and fills
            incomplete ones, "trust" skips all that have the marker in their config, "ignore"
            migrates them into new runs.
        existing: what to do with runs that were migrated before and are complete: skip them,
            read and write them again ("update"), or report them as failed.
        include_metrics, exclude_metrics: regular expressions searched in the full dotted key.
        artifacts: carry W&B artifacts, too.
        follow_links, recursive: see `core.protocols.SourceOptions`.
        into_dual_experiment: write into the experiment that the dual-written runs are in.
        write_path: see `core.protocols.TargetOptions`.
        workers: number of runs carried at the same time; 0 lets an engine choose.
    """

    dual_written: Literal["verify", "trust", "ignore"] = "verify"
    existing: Literal["skip", "update", "fail"] = "skip"
    include_metrics: tuple[str, ...] = ()
    exclude_metrics: tuple[str, ...] = ()
    artifacts: bool = True
    follow_links: bool = False
    recursive: bool = False
    into_dual_experiment: bool = False
    write_path: WritePath = "auto"
    workers: int = 1

    @classmethod
    def of(cls, **options: Any) -> BackfillOptions:
        """Make options from keyword arguments.

        Raises:
            UsageError: an option is unknown or malformed.
        """
        unknown = sorted(set(options) - {each.name for each in fields(cls)})
        if unknown:
            raise UsageError(f"no such option: {', '.join(unknown)}")
        return cls(**options)

    def __post_init__(self) -> None:
        for pattern in (*self.include_metrics, *self.exclude_metrics):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"{pattern!r} is not a regular expression: {error}") from error

    def wanted(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield ``items`` without metrics and artifacts that are excluded."""
        if not (self.include_metrics or self.exclude_metrics) and self.artifacts:
            yield from items
            return
        for item in items:
            if isinstance(item, Series) and not self._takes(item.key):
                continue
            if isinstance(item, ArtifactRef) and not self.artifacts:
                continue
            if isinstance(item, RowObjects):
                kept = {key: value for key, value in item.values.items() if self._takes(key)}
                if not kept:
                    continue
                item = RowObjects(item.step, item.timestamp_ms, kept)
            yield item

    def _takes(self, key: tuple[str, ...]) -> bool:
        name = ".".join(key)
        if any(re.search(pattern, name) for pattern in self.exclude_metrics):
            return False
        included = self.include_metrics
        return not included or any(re.search(pattern, name) for pattern in included)


@dataclass(frozen=True, slots=True)
class Job:
    """What a backfill is to do. It can be pickled and holds no key.

    Attributes:
        source, to: URIs as the user gave them; ``to`` may be empty.
        experiment: template of the experiment's name.
        experiment_id: the experiment that all runs go into; empty means one by ``experiment``.
    """

    source: str
    to: str = ""
    experiment: str = "{project}"
    selection: Selection = field(default_factory=Selection)
    options: BackfillOptions = field(default_factory=BackfillOptions)
    experiment_id: str = ""

    def source_options(self, request_gate: RequestGate | None = None) -> SourceOptions:
        options = self.options
        return SourceOptions(
            options.artifacts, request_gate, options.follow_links, options.recursive
        )

    def target_options(self) -> TargetOptions:
        return TargetOptions(
            experiment=self.experiment,
            experiment_id=self.experiment_id,
            write_path=self.options.write_path,
            find_dual_written=self.options.dual_written != "ignore",
        )
