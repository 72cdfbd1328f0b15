"""Resolve which metric's values are the x axis of a key, as `define_metric` has said.

W&B's own rules: the definition of a key stands before every glob, keys that begin with ``_``
match none, and a glob can have its ``*`` only at its end. Of several globs that match, wandb-core
takes any one; here it is the longest, so that a run has the same steps from wherever it is read.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlflow_wandb_plugin.core.model import StepDefinition

_NAME, _GLOB, _STEP_NAME, _STEP_PLACE, _OPTIONS = "1", "2", "4", "5", "6"
"""Fields of W&B's MetricRecord: its config has their numbers as keys."""
_EXPLICIT = 3
"""The option of a metric that was defined itself, and is not only the step metric of another."""


class StepAxes:
    """Which metric's values are the steps of a key, at each of W&B's steps.

    Args:
        definitions: in the order in which they were made.
        of_all: the metric whose values are the steps of every key, whatever is defined; empty for
            none.
    """

    def __init__(self, definitions: Iterable[StepDefinition] = (), of_all: str = "") -> None:
        self.definitions = tuple(definitions)
        self._of_all = of_all
        self._exact: dict[str, list[StepDefinition]] = {}
        self._globs: dict[str, list[StepDefinition]] = {}
        for one in self.definitions:
            known = self._globs if is_glob(one.name) else self._exact
            known.setdefault(one.name, []).append(one)
        self._longest_first = sorted(self._globs, key=len, reverse=True)
        self._spans: dict[str, tuple[list[int], list[str]]] = {}

    @property
    def any(self) -> bool:
        """Whether any key has other steps than W&B's."""
        return bool(self._of_all) or any(one.step_metric for one in self.definitions)

    @property
    def metrics(self) -> frozenset[str]:
        """The dotted keys of all metrics whose values are steps."""
        named = {self._of_all, *(one.step_metric for one in self.definitions)}
        return frozenset(named - {""})

    def metric(self, name: str, step: int) -> str:
        """Return the metric whose values are the steps of the dotted key ``name`` at W&B's
        ``step``; empty for W&B's step."""
        since, metrics = self.spans(name)
        return metrics[max(0, bisect_right(since, step) - 1)]

    def spans(self, name: str) -> tuple[Sequence[int], Sequence[str]]:
        """Return since which of W&B's steps a key has which metric; there is at least one entry,
        and the first also counts before its step."""
        found = self._spans.get(name)
        if found is None:
            found = self._spans[name] = self._find_spans(name)
        return found

    def _find_spans(self, name: str) -> tuple[list[int], list[str]]:
        if self._of_all:
            return [0], [self._of_all]
        matching = [] if name.startswith("_") else self._longest_first
        ranked = [self._exact.get(name, [])]
        ranked += [self._globs[glob] for glob in matching if name.startswith(glob[:-1])]
        since, metrics = [0], [""]
        for step in sorted({one.since for group in ranked for one in group}):
            metric = _in_force(ranked, step)
            if step <= since[-1]:
                metrics[-1] = metric
            elif metric != metrics[-1]:
                since.append(step)
                metrics.append(metric)
        return since, metrics


def _in_force(ranked: Iterable[Sequence[StepDefinition]], step: int) -> str:
    """The step metric of the first group that has a definition at ``step``: its latest one."""
    for group in ranked:
        for one in reversed(group):
            if one.since <= step:
                return one.step_metric
    return ""


def is_glob(name: str) -> bool:
    """Whether the name of a definition stands for all keys that begin so."""
    return name.endswith("*")


def of_entries(listed: Iterable[Any]) -> tuple[StepDefinition, ...]:
    """Return the definitions that a run's internal config lists, as they are now."""
    entries = [one for one in listed if isinstance(one, Mapping)]
    found = []
    for entry in entries:
        name, glob = entry.get(_NAME), entry.get(_GLOB)
        step_metric = _step_metric(entry, entries)
        if isinstance(glob, str) and glob and not name:
            found.append(StepDefinition(0, f"{glob.removesuffix('*')}*", step_metric))
        elif isinstance(name, str) and name and (step_metric or _is_explicit(entry)):
            found.append(StepDefinition(0, key_of(name), step_metric))
    return tuple(found)


def _step_metric(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> str:
    """The step metric of an entry: by its place in the list, from 1, or by its name."""
    place, name = entry.get(_STEP_PLACE), entry.get(_STEP_NAME)
    if isinstance(place, int) and 0 < place <= len(entries):
        name = entries[place - 1].get(_NAME)
    return key_of(name) if isinstance(name, str) else ""


def _is_explicit(entry: Mapping[str, Any]) -> bool:
    options = entry.get(_OPTIONS)
    return isinstance(options, list) and _EXPLICIT in options


def key_of(name: str) -> str:
    r"""Return the dotted key that a definition's name means: ``a\.b`` is one label with a dot."""
    return name.replace("\\.", ".")


def merged(
    known: Sequence[StepDefinition], more: Iterable[StepDefinition], through: int = -1
) -> tuple[StepDefinition, ...]:
    """Return ``known`` definitions with what ``more`` adds and does not change afterwards.

    W&B's server tells the last definitions only, as if they had always held. What a run was written
    by stays in force: points that are in MLflow do not move.

    Args:
        through: W&B's step through which rows were written by ``known``: none of what is added
            holds before its end.
    """
    axes = StepAxes(known)
    latest = {one.name: one for one in known}
    added = []
    for one in more:
        before = latest.get(one.name)
        if before is None:
            in_force = axes.metric(one.name, one.since) if known else None
            news = is_glob(one.name) or in_force != one.step_metric
        else:
            news = one.since > before.since and one.step_metric != before.step_metric
        if news:
            added.append(one._replace(since=max(one.since, through + 1)))
            latest[one.name] = one
    return (*known, *added)


def as_text(definitions: Sequence[StepDefinition], through: int, limit: int) -> str:
    """Return a tag's value with the definitions by which a run is written, and the step through
    which it is. Where it would be longer than ``limit`` characters, it lacks that step and the last
    definitions, which then are taken as W&B tells them."""
    entries: dict[str, Any] = {"definitions": [list(one) for one in definitions]}
    entries |= {"through": through} if through >= 0 else {}
    while len(text := json.dumps(entries)) > limit:
        entries.pop("through", None)
        del entries["definitions"][-max(1, len(entries["definitions"]) // 8) :]
    return text


def from_text(text: str) -> tuple[tuple[StepDefinition, ...], int]:
    """Read what `as_text` returned; what is malformed is left out."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = {}
    if not isinstance(document, dict):
        document = {}
    entries, through = document.get("definitions"), document.get("through")
    listed = from_lists(entries if isinstance(entries, list) else ())
    return listed, through if isinstance(through, int) else -1


def from_lists(entries: Iterable[Any]) -> tuple[StepDefinition, ...]:
    """Read definitions that JSON made lists of; what is malformed is left out."""
    found = []
    for entry in entries:
        if isinstance(entry, (list, tuple)) and len(entry) == 3:
            since, name, step_metric = entry
            if isinstance(since, int) and isinstance(name, str) and isinstance(step_metric, str):
                found.append(StepDefinition(since, name, step_metric))
    return tuple(found)
