"""MLflow's names of the metrics, params and W&B tags of one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_wandb_plugin.mapping.names import Limits, Namer
from mlflow_wandb_plugin.targets.mlflow.run_files import RenamedKeys, RunFiles

if TYPE_CHECKING:
    from mlflow.entities import RunData


class RunNames:
    """Names of one run's W&B keys, unique within each kind.

    Args:
        files: hold the original keys of rewritten names.
        data: has the names that the run uses already.
        metrics, params: original keys by name, as an earlier session wrote them.
    """

    def __init__(
        self, files: RunFiles, data: RunData, metrics: RenamedKeys, params: RenamedKeys
    ) -> None:
        limit = Limits.installed().key
        self.metrics = Namer(limit, metrics, data.metrics)
        self.params = Namer(limit, params, data.params)
        self.tags = Namer(limit)
        self._files = files
        self._saved_metrics = len(self.metrics.renamed)

    def save(self) -> None:
        """Write the original keys of all rewritten names into the run's files."""
        self._files.save_names(self.metrics.renamed, self.params.renamed)
        self._saved_metrics = len(self.metrics.renamed)

    def save_metrics(self) -> None:
        """Write them if metrics were renamed since; call it before their points are written."""
        if len(self.metrics.renamed) != self._saved_metrics:
            self.save()

    def count_rewritten(self) -> int:
        """Number of names that differ from their dotted key."""
        return sum(
            name != ".".join(key)
            for namer in (self.metrics, self.params, self.tags)
            for name, key in namer.renamed.items()
        )
