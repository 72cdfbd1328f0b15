"""The mirrored store: MLflow's store at ``wandb+URI``, which journals what it writes for W&B."""
