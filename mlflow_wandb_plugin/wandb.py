"""The drop-in: ``import mlflow_wandb_plugin.wandb as wandb``.

Importing it installs the tap and then becomes the real ``wandb`` module, so that every name is
the real one and ``wandb.run`` changes as it always does.
"""

import sys

import wandb

from mlflow_wandb_plugin import autolog

autolog()
sys.modules[__name__] = wandb
