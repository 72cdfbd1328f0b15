"""Apply ``run.define_metric`` to rows and summaries, as wandb-core does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core.model import Key, set_leaf

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import MetricRecord

    from mlflow_wandb_plugin.wandb_log.summary import SummaryFold

STATISTICS = ("min", "max", "mean", "last", "first")


@dataclass(slots=True)
class Definition:
    """One metric's definition; later records extend it unless they overwrite it."""

    step_metric: str = ""
    step_sync: bool = False
    no_summary: bool = False
    statistics: frozenset[str] = frozenset()

    def extended(self, record: MetricRecord) -> Definition:
        """Return the definition with what ``record`` adds."""
        has_summary = record.HasField("summary")
        named = {
            name for name in STATISTICS if has_summary and getattr(record.summary, name, False)
        }
        return Definition(
            step_metric=record.step_metric or self.step_metric,
            step_sync=self.step_sync or record.options.step_sync,
            no_summary=record.summary.none if has_summary else self.no_summary,
            statistics=self.statistics | named,
        )


class MetricDefinitions:
    """The definitions of one run, by name and by glob, and the latest values of step metrics."""

    def __init__(self, summary: SummaryFold) -> None:
        self._summary = summary
        self._exact: dict[str, Definition] = {}
        self._globs: dict[str, Definition] = {}
        self._latest_step: dict[str, str] = {}
        self._unmatched: set[Key] = set()
        self.expanded: set[str] = set()
        """Dotted keys that a glob has defined: a later glob does not define them again."""

    def define(self, record: MetricRecord) -> None:
        """Apply one metric record."""
        if record.step_metric:
            self._latest_step.setdefault(record.step_metric, "0")
        if not (record.name or record.glob_name):
            return
        known = self._exact if record.name else self._globs
        name = record.name or record.glob_name
        # The field's name starts with an underscore, so protobuf exposes it only by getattr.
        overwrite = getattr(record, "_control").overwrite  # noqa: B009
        before = Definition() if overwrite else known.get(name, Definition())
        known[name] = before.extended(record)
        self._unmatched.clear()
        if record.name:
            self._configure(name)

    def step_metric(self, record: MetricRecord) -> str:
        """Return the step metric that the name or glob of ``record`` has in this log."""
        known = self._exact if record.name else self._globs
        definition = known.get(record.name or record.glob_name)
        return definition.step_metric if definition is not None else ""

    def observe(self, row: dict[Key, str]) -> None:
        """Define the row's keys that a glob matches; keep the latest values of step metrics."""
        for name in self._latest_step:
            value = row.get(tuple(name.split(".")))
            if value is not None and _is_number(value):
                self._latest_step[name] = value
        if self._globs:
            for path in row:
                self.match_glob(path)

    def match_glob(self, path: Key) -> None:
        """Define ``path`` by the longest glob that matches it, if it is not defined yet: wandb-core
        takes any one of them."""
        if path in self._unmatched:
            return
        name = ".".join(path)
        if not name.startswith("_") and name not in self._exact:
            matching = [glob for glob in self._globs if name.startswith(glob.removesuffix("*"))]
            if matching:
                self._exact[name] = self._globs[max(matching, key=len)]
                self.expanded.add(name)
                self._configure(name)
                return
        self._unmatched.add(path)

    @property
    def has_globs(self) -> bool:
        return bool(self._globs)

    def insert_steps(self, row: dict[Key, str]) -> None:
        """Add the latest value of the step metric if a metric's definition has ``step_sync``."""
        if not self._latest_step:
            return
        for path in list(row):
            definition = self._exact.get(".".join(path))
            if definition is None or not definition.step_metric or not definition.step_sync:
                continue
            step_path = tuple(definition.step_metric.split("."))
            if step_path not in row:
                set_leaf(row, step_path, self._latest_step[definition.step_metric])

    def _configure(self, name: str) -> None:
        definition = self._exact[name]
        self._summary.configure(split_escaped(name), definition.no_summary, definition.statistics)


def split_escaped(name: str) -> Key:
    r"""Split a metric's name as wandb-core does: ``a.b`` is nested, ``a\.b`` is one label."""
    return tuple(part.replace("\0", ".") for part in name.replace("\\.", "\0").split("."))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
