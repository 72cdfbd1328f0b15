"""Names that MLflow itself gives to tags and run statuses."""

from __future__ import annotations

NAME_TAG = "mlflow.runName"
NOTES_TAG = "mlflow.note.content"
PARENT_TAG = "mlflow.parentRunId"
USER_TAG = "mlflow.user"

TERMINAL = frozenset({"FINISHED", "FAILED", "KILLED"})
"""Statuses of a run that has ended. Source: mlflow.entities.RunStatus."""
