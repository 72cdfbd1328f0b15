"""Helper processes that ship journals: W&B runs to MLflow, mirrored MLflow runs to W&B."""
