"""The ids of the two runs, kept beside the checkpoints: a resumed recipe goes on in both."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "dual_logger.json"


@dataclass(frozen=True, slots=True)
class KeptIds:
    """
    Attributes:
        mlflow_run_id: empty while MLflow has not said it yet.
    """

    project: str
    entity: str
    wandb_run_id: str
    mlflow_run_id: str = ""

    def write(self, folder: Path) -> None:
        """Replace what ``folder`` holds, in one step.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{FILE_NAME}.{os.getpid()}"
        temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        os.replace(temporary, folder / FILE_NAME)

    @classmethod
    def read(cls, folder: Path) -> KeptIds | None:
        """What an earlier run of the recipe left in ``folder``; None if that cannot be read."""
        try:
            document = json.loads((folder / FILE_NAME).read_text())
            kept = cls(**document)
        except (OSError, ValueError, TypeError):
            return None
        texts = all(isinstance(value, str) for value in dataclasses.astuple(kept))
        return kept if texts and kept.wandb_run_id else None
