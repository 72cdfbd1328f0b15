"""A backfill as it can be described to another process."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.core.limiter import RequestGate
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import SourceOptions, TargetOptions


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
        return SourceOptions(artifacts=self.options.artifacts, request_gate=request_gate)

    def target_options(self) -> TargetOptions:
        return TargetOptions(
            experiment=self.experiment,
            experiment_id=self.experiment_id,
            write_path=self.options.write_path,
            find_dual_written=self.options.dual_written != "ignore",
        )
