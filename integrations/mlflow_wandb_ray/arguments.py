"""Arguments of the callbacks: those of ``wandb.init``, and those of Ray's own callbacks."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from mlflow_wandb_plugin.errors import UsageError

INSTEAD = {
    "api_key": "pass api_key_file, or set WANDB_API_KEY: a key would be stored with the experiment",
    "save_artifact": "pass log_checkpoints=True to keep a trial's checkpoints",
    "experiment_name": "pass experiment",
    "tracking_token": "set MLFLOW_TRACKING_TOKEN",
    "registry_uri": "set MLFLOW_REGISTRY_URI",
}
"""What to do instead of arguments that Ray's own callbacks take."""


def check_init_arguments(callback: str, given: Mapping[str, Any]) -> None:
    """Refuse what ``wandb.init`` does not take: it would be called in a thread, and refused there.

    Raises:
        UsageError: an argument is unknown.
    """
    import wandb

    known = inspect.signature(wandb.init).parameters
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            advice = INSTEAD.get(name) or (f"did you mean {near[0]}?" if near else "leave it out")
            raise UsageError(f"{callback} takes no argument {name!r}: {advice}")
