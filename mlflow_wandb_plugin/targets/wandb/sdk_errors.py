"""Turn the errors of wandb's SDK into those of a target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mlflow_wandb_plugin.errors import MlflowWandbError, TargetError, TargetUnavailableError

CLOSED_CONNECTION = ("MailboxClosedError", "HandleAbandonedError")
"""Errors of the SDK, by name, when wandb-core does not answer a request any more."""


class CoreGoneError(TargetUnavailableError):
    """wandb-core died. No run can be written from this process any more."""


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what the SDK raises in this context into errors of a target.

    Raises:
        CoreGoneError: wandb-core died.
        TargetUnavailableError: W&B did not answer.
        TargetError: W&B or its SDK refused.
    """
    import wandb

    try:
        yield
    except MlflowWandbError:
        raise
    except ConnectionError as error:
        raise CoreGoneError(f"wandb-core is gone: {_one_line(error)}") from error
    except (wandb.errors.CommError, TimeoutError) as error:
        raise TargetUnavailableError(f"W&B: {_one_line(error)}") from error
    except Exception as error:
        if type(error).__name__ in CLOSED_CONNECTION:
            raise CoreGoneError("wandb-core is gone: run the same command again") from error
        raise TargetError(f"W&B: {type(error).__name__}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
