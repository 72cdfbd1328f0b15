"""The W&B sweep of a task."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import flyte

from mlflow_wandb_flyte.context import (
    changed_context,
    get_wandb_context,
    get_wandb_sweep_context,
)
from mlflow_wandb_flyte.session import Ending
from mlflow_wandb_flyte.wandb_session import base_id

logger = logging.getLogger(__name__)

_created: dict[str, str] = {}
"""Sweeps that this process created, by action: another attempt goes on with the same."""
_agent_turn = threading.Lock()


@dataclass(frozen=True)
class SweepOptions:
    """What `wandb_sweep` asks for; ``given`` are other arguments of ``wandb.sweep``."""

    project: str | None = None
    entity: str | None = None
    download_logs: bool | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def wants_logs(self) -> bool:
        config = get_wandb_sweep_context()
        if self.download_logs is None:
            return bool(config and config.download_logs)
        return self.download_logs


class SweepSession:
    """A `Session` that has a sweep instead of a run."""

    def __init__(self, options: SweepOptions) -> None:
        self._options = options
        self.sweep_id = ""
        self.project: str | None = None
        self.entity: str | None = None

    def open(self) -> None:
        """
        Raises:
            RuntimeError: there is no `wandb_sweep_config`, and no parent has a sweep.
        """
        agents_take_turns()
        context = flyte.ctx().custom_context or {}
        existing = context.get("_wandb_sweep_id")
        if existing:
            self.sweep_id = existing
            self.project = context.get("_wandb_sweep_project")
            self.entity = context.get("_wandb_sweep_entity")
            return
        config = get_wandb_sweep_context()
        if config is None:
            raise RuntimeError(
                "No wandb sweep config found. Use wandb_sweep_config() with "
                "flyte.with_runcontext() or as a context manager."
            )
        around = get_wandb_context()
        self.project = (
            self._options.project or config.project or (around.project if around else None)
        )
        self.entity = self._options.entity or config.entity or (around.entity if around else None)
        self.sweep_id = self._earlier_attempt() or self._create(config)
        _created[base_id()] = self.sweep_id

    def _create(self, config: Any) -> str:
        import wandb

        sweep = config.to_sweep_config()
        sweep.setdefault("name", base_id())
        return str(
            wandb.sweep(
                sweep,
                project=self.project,
                entity=self.entity,
                prior_runs=config.prior_runs or [],
                **self._options.given,
            )
        )

    def _earlier_attempt(self) -> str | None:
        if base_id() in _created:
            return _created[base_id()]
        if not flyte.ctx().attempt_number or not self.project:
            return None
        import wandb

        try:
            sweeps = wandb.Api().project(self.project, self.entity).sweeps()
            return next((sweep.id for sweep in sweeps if sweep.name == base_id()), None)
        except Exception as error:
            logger.warning("an earlier attempt's sweep cannot be looked for: %s", error)
            return None

    def entered(self) -> AbstractContextManager[None]:
        passed = {
            "_wandb_sweep_id": self.sweep_id,
            "_wandb_sweep_project": self.project,
            "_wandb_sweep_entity": self.entity,
        }
        return changed_context(add={key: value for key, value in passed.items() if value})

    def close(self, ending: Ending) -> None:
        """Nothing: a sweep is ended by its agents."""


def get_wandb_sweep_id() -> str | None:
    """The id of the sweep of the running task or its parent, or None."""
    return (flyte.ctx().custom_context or {}).get("_wandb_sweep_id")


def agents_take_turns() -> None:
    """Let ``wandb.agent`` run once at a time in this process.

    An agent keeps its trial in environment variables and ends wandb's service before each trial:
    two in one process would end each other's runs. With turns, any number of agent tasks may run
    in one process; in containers of their own they run side by side.
    """
    import wandb

    original = wandb.agent
    if getattr(original, "_takes_turns", False):
        return

    @functools.wraps(original)
    def agent(*args: Any, **kwargs: Any) -> Any:
        with _agent_turn:
            return original(*args, **kwargs)

    agent._takes_turns = True  # type: ignore[attr-defined]
    wandb.agent = agent
