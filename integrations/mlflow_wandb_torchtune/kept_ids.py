"""Keep the ids of the two runs beside the checkpoints, so that a resumed recipe resumes both."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from mlflow_wandb_plugin.core.atomic_files import write_atomically

FILE_NAME = "dual_logger.json"


@dataclass(frozen=True, slots=True)
class KeptIds:
    """Ids of a recipe's W&B run and of its replica.

    Attributes:
        mlflow_run_id: empty while MLflow has not created the run yet.
    """

    project: str
    entity: str
    wandb_run_id: str
    mlflow_run_id: str = ""

    def write(self, folder: Path) -> None:
        """Replace the ids in ``folder``.

        Raises:
            OSError: the file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE_NAME, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> KeptIds | None:
        """Read the ids that an earlier run of the recipe wrote; None if there are none to read."""
        try:
            document = json.loads((folder / FILE_NAME).read_text())
            kept = cls(**document)
        except (OSError, ValueError, TypeError):
            return None
        texts = all(isinstance(value, str) for value in dataclasses.astuple(kept))
        return kept if texts and kept.wandb_run_id else None
