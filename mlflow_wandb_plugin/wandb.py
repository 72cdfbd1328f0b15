"""Drop-in replacement for wandb: ``import mlflow_wandb_plugin.wandb as wandb``.

Importing this module calls `autolog` and then replaces the module by the real ``wandb`` module, so
that every name, also ``wandb.run``, is wandb's own.
"""

import sys

import wandb

from mlflow_wandb_plugin import autolog

autolog()
sys.modules[__name__] = wandb
