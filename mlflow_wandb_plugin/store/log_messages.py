"""What the mirror says to the person at the terminal: a log record, each message once a process.

Importing wandb for its voice would cost the MLflow process half a second.
"""

from __future__ import annotations

import logging

_logger = logging.getLogger("mlflow_wandb_plugin")
_said: set[str] = set()


def warn_once(message: str) -> None:
    """One line, the first time only."""
    if message not in _said:
        _said.add(message)
        _logger.warning("mlflow-wandb: %s", message)
