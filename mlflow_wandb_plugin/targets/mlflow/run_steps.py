"""By which rule the steps of one MLflow run are set; decided when the run is first written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import RunInfo, Series, StepDefinition
from mlflow_wandb_plugin.core.step_axes import StepAxes, as_text, from_text, merged
from mlflow_wandb_plugin.mapping.names import Limits

DECIDED_TAGS = (identity.STEP_METRIC, identity.STEPS)
"""Tags that a run keeps as they were when it was first written, whatever is asked for later."""


class RunSteps:
    """The x axes by which one run is written.

    Args:
        tags: of the run; those of a new run as it is created.

    Attributes:
        axes: as they are now.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._follows_definitions = follows_definitions(tags)
        text = tags[identity.STEPS] if self._follows_definitions else "{}"
        written, self._through = from_text(text)
        self.axes = StepAxes(written, tags.get(identity.STEP_METRIC, ""))

    def define(self, definitions: Sequence[StepDefinition]) -> bool:
        """Add what W&B says of the run; returns whether that changes the axes."""
        if not self._follows_definitions:
            return False
        now = merged(self.axes.definitions, definitions, self._through)
        changed = now != self.axes.definitions
        if changed:
            self.axes = StepAxes(now)
        return changed

    def note_rows(self, series: Series) -> None:
        """Note which rows are written by the present axes."""
        if series.kind == "history" and series.steps:
            self._through = max(self._through, series.steps[-1])

    @property
    def tags(self) -> dict[str, str]:
        """The tag that says by which definitions the run is written, if it is."""
        if not self._follows_definitions:
            return {}
        return steps_tag(self.axes.definitions, self._through)


def follows_definitions(tags: Mapping[str, str]) -> bool:
    """Whether the steps of a run with ``tags`` are those that `define_metric` gives to each key."""
    return identity.STEPS in tags and identity.STEP_METRIC not in tags


def steps_tag(definitions: Sequence[StepDefinition], through: int = -1) -> dict[str, str]:
    """Return the tag of a run that is written by ``definitions``, see `as_text`."""
    return {identity.STEPS: as_text(definitions, through, Limits.installed().tag_value)}


def decision(info: RunInfo, rule: str) -> dict[str, str]:
    """Return the tag of a new run with which ``rule``, see `Settings.steps`, is decided."""
    whole_run = info.mlflow is not None or identity.step_metric(info)
    return {} if rule == "wandb" or whole_run else steps_tag(info.step_definitions)
