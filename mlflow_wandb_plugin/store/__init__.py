"""Born in MLflow: any MLflow store, behind ``wandb+``, leaves what it writes for W&B."""
