"""Collect the x axes that `define_metric` gives to keys, over all logs of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlflow_wandb_plugin.core.model import StepDefinition
from mlflow_wandb_plugin.core.step_axes import StepAxes, is_glob


class StepTimeline:
    """The definitions of step metrics of one run.

    A log of a resumed run begins without definitions in wandb-core; here those of earlier logs
    hold until they are replaced.
    """

    def __init__(self) -> None:
        self.definitions: list[StepDefinition] = []
        self._latest: dict[str, str] = {}

    def define(self, one: StepDefinition, overwrite: bool, expanded: Iterable[str]) -> None:
        """Add a definition, if it changes something.

        Args:
            overwrite: it replaces what was said of its name; else it extends that, and one without
                a step metric takes none away.
            expanded: dotted keys that a glob has defined before: they keep that, as in wandb-core,
                whatever a glob says now.
        """
        known = self._latest.get(one.name)
        if known == one.step_metric or (known and not one.step_metric and not overwrite):
            return
        if is_glob(one.name):
            self._keep(one, sorted(key for key in expanded if key.startswith(one.name[:-1])))
        self._add(one)

    def _keep(self, one: StepDefinition, names: Sequence[str]) -> None:
        """Let ``names`` keep what they have where the glob ``one`` says something else."""
        axes = StepAxes(self.definitions if names else ())
        for name in names:
            before = axes.metric(name, one.since)
            if before != one.step_metric and name not in self._latest:
                self._add(StepDefinition(one.since, name, before))

    def _add(self, one: StepDefinition) -> None:
        self.definitions.append(one)
        self._latest[one.name] = one.step_metric
