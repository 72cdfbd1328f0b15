"""Messages of the mirrored store, as log records.

Printing them as `live.terminal` does would import wandb: half a second of a script's time.
"""

from __future__ import annotations

import logging

from mlflow_wandb_plugin.core.messages import show_once

_logger = logging.getLogger("mlflow_wandb_plugin")


def warn_once(message: str) -> None:
    """Log a warning, the first time in this process only."""
    show_once(message, _log)


def _log(message: str) -> None:
    _logger.warning("mlflow-wandb: %s", message)
