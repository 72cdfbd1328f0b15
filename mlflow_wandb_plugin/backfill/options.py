"""What a backfill is to do: its job and its options, and the filter on what is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.core.identity import EVERYTHING, shortened_selection
from mlflow_wandb_plugin.core.limiter import RequestGate
from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Item,
    Key,
    RowObjects,
    RunInfo,
    Selection,
    Series,
    StepDefinition,
    flatten,
    nest,
)
from mlflow_wandb_plugin.core.protocols import SourceOptions, TargetOptions, WritePath
from mlflow_wandb_plugin.core.step_axes import StepAxes
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.mapping.to_mlflow import check_template

STATISTICS = frozenset(("min", "max", "mean", "last", "first", "best"))
"""What W&B's summary has of a metric, as `define_metric` asks for."""


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """Options of a backfill.

    Attributes:
        dual_written: what to do with dual-written runs. "verify" skips complete ones and fills
            incomplete ones, "trust" skips all that have the marker in their config, "ignore"
            migrates them into new runs.
        adopt_dual: complete the MLflow run that a config names, though it lacks the W&B run's tags,
            as MosaicML Composer's runs do. Whoever wrote the config chooses the run.
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
    adopt_dual: bool = False
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

    @property
    def takes_everything(self) -> bool:
        """Whether no metric and no artifact is excluded."""
        return self.artifacts and not self.include_metrics and not self.exclude_metrics

    @property
    def selection(self) -> str:
        """What `wanted` takes, as text; `EVERYTHING` if it takes all."""
        narrowed = {
            "include": sorted(self.include_metrics),
            "exclude": sorted(self.exclude_metrics),
            "artifacts": self.artifacts,
        }
        return EVERYTHING if self.takes_everything else shortened_selection(json.dumps(narrowed))

    def wanted(
        self, items: Iterable[Item], definitions: Iterable[StepDefinition] = ()
    ) -> Iterator[Item]:
        """Yield ``items`` without metrics and artifacts that are excluded. Step metrics stay: the
        steps of others are made of them.

        Args:
            definitions: what is known of step metrics before a `RunInfo` among the items tells it.
        """
        if self.takes_everything:
            yield from items
            return
        axes = StepAxes(definitions)
        for item in items:
            if isinstance(item, RunInfo):
                axes = StepAxes(item.step_definitions)
            if isinstance(item, Series) and not (
                self._takes(item.key) or ".".join(item.key) in axes.metrics
            ):
                continue
            if isinstance(item, ArtifactRef) and not self.artifacts:
                continue
            if isinstance(item, RunInfo):
                item = replace(item, summary=self._wanted_summary(item.summary))
            if isinstance(item, RowObjects):
                kept = {key: value for key, value in item.values.items() if self._takes(key)}
                if not kept:
                    continue
                item = RowObjects(item.step, item.timestamp_ms, kept)
            yield item

    def taken(self, counts: Mapping[Key, int]) -> dict[Key, int]:
        """Return the counts of those metrics that are not excluded."""
        return {key: count for key, count in counts.items() if self._takes(key)}

    def _wanted_summary(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        leaves = flatten(summary).items()
        return nest({key: value for key, value in leaves if self._takes(key)})

    def _takes(self, key: tuple[str, ...]) -> bool:
        """Whether a key is carried. Statistics of a metric (`m.max`) go with it."""
        names = [".".join(key)]
        if len(key) > 1 and key[-1] in STATISTICS:
            names.append(".".join(key[:-1]))

        def found(patterns: tuple[str, ...]) -> bool:
            return any(re.search(pattern, name) for pattern in patterns for name in names)

        if found(self.exclude_metrics):
            return False
        return not self.include_metrics or found(self.include_metrics)


@dataclass(frozen=True, slots=True)
class Job:
    """What a backfill is to do. It can be pickled and holds no key.

    Attributes:
        source, to: URIs as the user gave them; ``to`` may be empty.
        experiment: template of the experiment's name.
        experiment_id: the experiment that all runs go into; empty means one by ``experiment``.
        projects: see `core.protocols.TargetOptions`.

    Raises:
        UsageError: ``experiment`` has an unknown placeholder.
    """

    source: str
    to: str = ""
    experiment: str = "{project}"
    selection: Selection = field(default_factory=Selection)
    options: BackfillOptions = field(default_factory=BackfillOptions)
    experiment_id: str = ""
    projects: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_template(self.experiment)

    def source_options(self, request_gate: RequestGate | None = None) -> SourceOptions:
        options = self.options
        return SourceOptions(
            options.artifacts, request_gate, options.follow_links, options.recursive
        )

    def target_options(self, create: bool = True) -> TargetOptions:
        return TargetOptions(
            experiment=self.experiment,
            experiment_id=self.experiment_id,
            write_path=self.options.write_path,
            find_dual_written=self.options.dual_written != "ignore",
            create=create,
            selection=self.options.selection,
            # With "trust" no run is written that a config names.
            adopt_dual=self.options.adopt_dual or self.options.dual_written == "trust",
            projects=self.projects,
            map_metric=plugins.map_metric,
        )
