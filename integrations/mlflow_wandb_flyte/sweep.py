"""The W&B sweep of a task."""

from __future__ import annotations

import functools
import logging
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import flyte

from mlflow_wandb_flyte import keys
from mlflow_wandb_flyte.context import changed_context, get_wandb_context, get_wandb_sweep_context
from mlflow_wandb_flyte.session import Ending
from mlflow_wandb_flyte.wandb_session import action_id

logger = logging.getLogger(__name__)

_created: dict[str, str] = {}
"""Ids of the sweeps that this process created, by action: a retry uses the same sweep."""
_agent_lock = threading.Lock()


@dataclass(frozen=True)
class SweepOptions:
    """Arguments of `wandb_sweep`; ``given`` are other arguments of ``wandb.sweep``."""

    project: str | None
    entity: str | None
    download_logs: bool | None
    given: dict[str, Any]


class SweepSession:
    """A `Session` that has a sweep instead of a run."""

    def __init__(self, options: SweepOptions) -> None:
        self._options = options
        self.sweep_id = ""
        self.project: str | None = None
        self.entity: str | None = None

    def open(self) -> None:
        """Use the parent task's sweep, or create one.

        Raises:
            RuntimeError: there is no `wandb_sweep_config`, and no parent has a sweep.
        """
        run_one_agent_at_a_time()
        context = flyte.ctx().custom_context or {}
        if existing := context.get(keys.SWEEP_ID):
            self.sweep_id = existing
            self.project = context.get(keys.SWEEP_PROJECT)
            self.entity = context.get(keys.SWEEP_ENTITY)
            return
        config = get_wandb_sweep_context()
        if config is None:
            raise RuntimeError(
                "No wandb sweep config found. Use wandb_sweep_config() with "
                "flyte.with_runcontext() or as a context manager."
            )
        wandb_config = get_wandb_context()
        sources = [one for one in (self._options, config, wandb_config) if one is not None]
        self.project = next((one.project for one in sources if one.project), None)
        self.entity = next((one.entity for one in sources if one.entity), None)
        self.sweep_id = self._earlier_attempt() or self._create(config)
        _created[action_id()] = self.sweep_id

    def _create(self, config: Any) -> str:
        import wandb

        sweep = {"name": action_id()} | config.to_sweep_config()
        where: dict[str, Any] = {"project": self.project, "entity": self.entity}
        prior_runs = config.prior_runs or []
        return str(wandb.sweep(sweep, **where, prior_runs=prior_runs, **self._options.given))

    def _earlier_attempt(self) -> str | None:
        if action_id() in _created:
            return _created[action_id()]
        if not flyte.ctx().attempt_number or not self.project:
            return None
        import wandb

        try:
            sweeps = wandb.Api().project(self.project, self.entity).sweeps()
            return next((sweep.id for sweep in sweeps if sweep.name == action_id()), None)
        except Exception as error:
            logger.warning("cannot look for the sweep of an earlier attempt: %s", error)
            return None

    def entered(self) -> AbstractContextManager[None]:
        where = {keys.SWEEP_PROJECT: self.project, keys.SWEEP_ENTITY: self.entity}
        known = {key: value for key, value in where.items() if value}
        return changed_context(add={keys.SWEEP_ID: self.sweep_id, **known})

    def close(self, ending: Ending) -> None:
        """Do nothing: the agents end a sweep."""


def get_wandb_sweep_id() -> str | None:
    """Return the id of the sweep of the running task or its parent, or None."""
    return (flyte.ctx().custom_context or {}).get(keys.SWEEP_ID)


def run_one_agent_at_a_time() -> None:
    """Make calls of ``wandb.agent`` in this process wait for each other.

    An agent keeps its trial in environment variables and ends wandb's service before each trial:
    two in one process would end each other's runs. Agents in different containers run in parallel.
    """
    import wandb

    original = wandb.agent
    if getattr(original, "_one_at_a_time", False):
        return

    @functools.wraps(original)
    def agent(*args: Any, **kwargs: Any) -> Any:
        with _agent_lock:
            return original(*args, **kwargs)

    agent._one_at_a_time = True  # type: ignore[attr-defined]
    wandb.agent = agent
