"""Keys under which a task and its children find the current runs.

Keys with an underscore are ours and hold what was opened; ``wandb_*`` and ``mlflow_*`` without one
hold the configuration (`context`). The names are those of the upstream plugins.
"""

from __future__ import annotations

from typing import Final

# In Flyte's custom_context, which the children of a task inherit.
WANDB_RUN_ID: Final = "_wandb_run_id"
WANDB_ENTITY: Final = "_wandb_entity"
WANDB_PROJECT: Final = "_wandb_project"
WANDB_MODE: Final = "_wandb_mode"
"""``offline``, or missing."""
SWEEP_ID: Final = "_wandb_sweep_id"
SWEEP_ENTITY: Final = "_wandb_sweep_entity"
SWEEP_PROJECT: Final = "_wandb_sweep_project"
MLFLOW_RUN_ID: Final = "_mlflow_run_id"
MLFLOW_LINK: Final = "_mlflow_link"

# In the task's data, which its traces see and its children do not.
WANDB_RUN: Final = "_wandb_run"
MLFLOW_RUN: Final = "_mlflow_run"
