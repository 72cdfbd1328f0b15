"""How a backfill treats what it meets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from mlflow_wandb_plugin.core.model import ArtifactRef, Item, RowObjects, Series
from mlflow_wandb_plugin.errors import UsageError


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """
    Attributes:
        dual_written: what to do with runs that were dual-written. "verify" skips them if they are
            complete and fills them if not, "trust" skips them because their marker says so,
            "ignore" migrates them into runs of their own.
        existing: what to do with runs that were migrated before and are complete.
        include_metrics, exclude_metrics: regular expressions searched in the full dotted key.
        artifacts: carry W&B artifacts, too.
        into_dual_experiment: write into the experiment that the dual-written runs are in.
        write_path: how points reach MLflow: "bulk" into its database, "api" by its own calls,
            "auto" in bulk where that can be done.
        workers: runs carried at the same time; an engine of a cluster takes 0 for as many as
            there is room for.
    """

    dual_written: Literal["verify", "trust", "ignore"] = "verify"
    existing: Literal["skip", "update", "fail"] = "skip"
    include_metrics: tuple[str, ...] = ()
    exclude_metrics: tuple[str, ...] = ()
    artifacts: bool = True
    into_dual_experiment: bool = False
    write_path: Literal["auto", "bulk", "api"] = "auto"
    workers: int = 1

    @classmethod
    def of(cls, **options: Any) -> BackfillOptions:
        """Options by name.

        Raises:
            UsageError: there is no such option, or a value does not fit.
        """
        unknown = sorted(set(options) - {field.name for field in fields(cls)})
        if unknown:
            raise UsageError(f"no such option: {', '.join(unknown)}")
        return cls(**options)

    def __post_init__(self) -> None:
        for pattern in (*self.include_metrics, *self.exclude_metrics):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"{pattern!r} is no regular expression: {error}") from error

    def wanted(self, items: Iterable[Item]) -> Iterator[Item]:
        """``items`` without what these options leave out."""
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
