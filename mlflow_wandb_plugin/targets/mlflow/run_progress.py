"""How far one run has been replicated, as tags of the MLflow run."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import Checkpoint, RunInfo
from mlflow_wandb_plugin.mapping.names import Limits
from mlflow_wandb_plugin.targets.mlflow.files.losses import REFUSED_METRIC, Losses

POSITION_INTERVAL_S = 2.0
"""Where writing the position costs a request, it is written at most once in this time."""


class RunProgress:
    """The position in each log of a run, and what was lost or rewritten on the way.

    Attributes:
        position: byte offset or row by segment; see `identity.Twin`.
    """

    def __init__(self, tags: Mapping[str, str], losses: Losses) -> None:
        self.position: dict[str, int] = identity.read_numbers(tags, identity.POSITION)
        self._rows = identity.read_numbers(tags, identity.ROWS)
        self._losses = losses
        self._losses_before = identity.read_numbers(tags, identity.LOSSES)
        self._rewrites_before = identity.read_numbers(tags, identity.REWRITES)
        self._was_complete = tags.get(identity.STATE) == "complete"
        self._held: Checkpoint | None = None
        self._written_s = time.monotonic()

    def restart(self) -> dict[str, str]:
        """Forget the position and losses of earlier sessions: all of the run is read again.
        Returns the tag that says so."""
        self._losses_before, self.position = {}, {}
        return self._position_tag(self.position)

    @property
    def is_due(self) -> bool:
        """Whether the position was last written `POSITION_INTERVAL_S` ago or earlier."""
        return time.monotonic() > self._written_s + POSITION_INTERVAL_S

    def tags_at(self, mark: Checkpoint) -> dict[str, str]:
        """The tag that says that everything before ``mark`` is written."""
        return self._position_tag(self.position | {mark.segment: mark.position})

    def reach(self, mark: Checkpoint, written: bool) -> None:
        """Note that everything before ``mark`` is written, and whether the tag is, too."""
        if written:
            self._written_s = time.monotonic()
        self._held = None
        self.position[mark.segment] = mark.position

    def hold(self, mark: Checkpoint) -> None:
        """Leave ``mark`` to the run's end, or to a later checkpoint."""
        self._held = mark

    def counts(self) -> dict[str, str]:
        """Tags with the numbers of losses and rewrites, those of earlier sessions included."""
        # Each log brings the run's names, config and tags again: their rewrites do not add up.
        rewrites = Counter(self._rewrites_before) | self._losses.rewrites
        return {
            identity.LOSSES: json.dumps(dict(sorted(self._all_losses().items()))),
            identity.REWRITES: json.dumps(dict(sorted(rewrites.items()))),
        }

    def last_tags(self, info: RunInfo, complete: bool) -> dict[str, str]:
        """The tags to write last of all: the position, and whether the run is complete."""
        if self._held is not None:
            self.reach(self._held, written=False)
        self._rows = identity.joined_rows(self._rows, info.rows)
        if complete:
            self.position = identity.ended(self.position, info.segments)
            rows = identity.write_numbers(self._rows, Limits.installed().tag_value)
            state = {identity.STATE: "complete"}
            return state | self._position_tag(self.position) | {identity.ROWS: rows}
        moved = self._position_tag(self.position) if self.position else {}
        return moved | ({} if info.state == "running" else {identity.STATE: "partial"})

    def _position_tag(self, position: Mapping[str, int]) -> dict[str, str]:
        limit = Limits.installed().tag_value
        return {identity.POSITION: identity.write_numbers(position, limit)}

    def _all_losses(self) -> Counter[str]:
        before, counts = Counter(self._losses_before), self._losses.counts
        # Refused points are read from their file again: this session's count includes them.
        points = max(before.pop(REFUSED_METRIC, 0), counts[REFUSED_METRIC])
        # The logs of a complete run are not read again: their losses are added.
        total = before + counts if self._was_complete else before | counts
        total[REFUSED_METRIC] = points
        return +total
