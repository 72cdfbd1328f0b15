"""Upload a transaction log to a W&B server, as ``wandb sync`` does, through wandb-core.

The command itself would import wandb and start wandb-core once for each run; here all runs of the
process share one. wandb's private names are in this file and in `log_records`.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.errors import TargetUnavailableError
from mlflow_wandb_plugin.targets.wandb.sdk_errors import translated_errors
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress

if TYPE_CHECKING:
    import wandb

USER_RUN_VARIABLES = (
    "RUN_ID", "NAME", "NOTES", "TAGS", "RUN_GROUP", "JOB_TYPE", "RESUME", "SWEEP_ID",
    "SWEEP_PARAM_PATH", "PROGRAM", "HOST", "USERNAME", "SERVICE", "FORK_FROM", "RESUME_FROM",
)  # fmt: skip
"""``WANDB_…`` variables that describe a run of the user's own, and no run that is uploaded."""
ERROR_SEVERITY = 40
"""From this severity on, a message of wandb-core is an error. Source: Python's logging levels."""
INIT_TIMEOUT_S = 30
TRANSMIT_INTERVAL_S = 15.0
"""How often wandb-core sends the rows of a run, where no setting says otherwise."""


def unset_user_run_variables() -> None:
    for name in USER_RUN_VARIABLES:
        os.environ.pop(f"WANDB_{name}", None)


def transmit_interval_s() -> float:
    """How often the rows of a run that goes on are to be sent: as wandb-core does, by the setting
    ``WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL``."""
    from wandb.sdk import wandb_setup

    singleton: Any = wandb_setup.singleton()
    return float(singleton.settings.x_file_stream_transmit_interval or TRANSMIT_INTERVAL_S)


def upload_log(path: Path, address: ProjectAddress, sets_state: bool, program: str = "") -> None:
    """Upload a log; its run is continued if the server has it, and created if not.

    Rows are added to those that the server has. What arrived is to be asked from the server:
    wandb-core does not say it.

    Args:
        path: the ``.wandb`` file; files of the run are in ``files/`` beside it.
        address: of the server, with its API key.
        sets_state: whether the end of the log becomes the run's state in W&B.
        program: of the run.

    Raises:
        CoreGoneError: wandb-core died.
        TargetUnavailableError: wandb-core reports an error.
        TargetError: the installed wandb cannot do it.
    """
    from wandb.sdk import wandb_setup

    singleton: Any = wandb_setup.singleton()
    settings = _settings(singleton.settings, address, sets_state, program)
    with translated_errors():
        service = singleton.ensure_service()
        request = _known_arguments(service.init_sync, {path}, settings)
        errors = singleton.asyncer.run(lambda: _upload(service, *request))
    if errors:
        raise TargetUnavailableError(f"W&B: {' '.join(errors[0].split())[:300]}")


async def _upload(service: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> list[str]:
    """Upload what an ``init_sync`` request names; returns the errors that wandb-core reports."""
    started = await (await service.init_sync(*arguments, **named)).wait_async(
        timeout=INIT_TIMEOUT_S
    )
    done = await (await service.sync(started.id, parallelism=1)).wait_async(timeout=None)
    status = await (await service.sync_status(started.id)).wait_async(timeout=INIT_TIMEOUT_S)
    messages = [*done.messages, *status.new_messages]
    return [message.content for message in messages if message.severity >= ERROR_SEVERITY]


def _known_arguments(
    init_sync: Any, paths: set[Path], settings: wandb.Settings
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Fill in the arguments of ``init_sync``, of which newer releases of wandb have more."""
    empty: dict[str, Any] = {
        "cwd": None,
        "live": False,
        "entity": "",
        "project": "",
        "run_id": "",
        "job_type": "",
        "tag_replacements": {},
    }
    names = inspect.signature(init_sync).parameters
    return (paths, settings), {name: value for name, value in empty.items() if name in names}


def _settings(
    base: wandb.Settings, address: ProjectAddress, sets_state: bool, program: str
) -> wandb.Settings:
    """The process's settings with the server and key of ``address``; the run is resumed."""
    settings = base.model_copy()
    settings.base_url = address.base_url
    settings.api_key = address.api_key
    settings.resume = "allow"
    settings.x_update_finish_state = sets_state
    settings.program = program or None
    return settings
