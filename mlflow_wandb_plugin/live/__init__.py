"""Replicate W&B runs to MLflow: the part in the training process."""
