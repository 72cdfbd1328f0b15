"""The outcome of one run, and progress while runs are carried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow_wandb_plugin.core.identity import Verdict
from mlflow_wandb_plugin.core.model import RunInfo, UnreadableRange


class Listener:
    """Receives progress. This default ignores it; the CLI draws a bar."""

    def points_expected(self, count: int) -> None: ...

    def points(self, count: int) -> None: ...

    def run_done(self, outcome: Outcome) -> None: ...

    def run_verified(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one run.

    Attributes:
        action: migrated, repaired, skipped or failed; ``reason`` says why.
        mlflow_run_id: of the replica; empty where there is none.
        experiment_id, experiment: id and name of the experiment that has it.
        link: its page; empty where there is none.
    """

    run: RunInfo
    verdict: Verdict
    action: str
    reason: str = ""
    mlflow_run_id: str = ""
    experiment_id: str = ""
    experiment: str = ""
    link: str = ""
    points: int = 0
    losses: Mapping[str, int] = field(default_factory=dict)
    unreadable: tuple[UnreadableRange, ...] = ()
