"""Log metrics, config and checkpoints of a torchtune recipe to Weights & Biases and MLflow.

In a recipe's config::

    metric_logger:
      _component_: mlflow_wandb_torchtune.DualLogger
"""

from mlflow_wandb_torchtune.logger import DualLogger

__all__ = ["DualLogger"]
