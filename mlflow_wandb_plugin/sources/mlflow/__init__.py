"""Runs of an MLflow store, in W&B's terms."""
