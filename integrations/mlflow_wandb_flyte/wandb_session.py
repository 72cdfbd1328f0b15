"""The W&B run of a task, and with it its replica in MLflow."""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import flyte

from mlflow_wandb_flyte import current_run, keys
from mlflow_wandb_flyte.context import (
    OnBackendError,
    RankScope,
    TrackRunMode,
    changed_context,
    get_mlflow_context,
    get_wandb_context,
)
from mlflow_wandb_flyte.distributed import Share, get_distributed_info, share
from mlflow_wandb_flyte.replica import flyte_tags, inherited_run, task_run
from mlflow_wandb_flyte.session import Ending
from mlflow_wandb_plugin.core.identity import PARENT_GROUP_KEY, PARENT_RUN_KEY
from mlflow_wandb_plugin.core.training_settings import load_settings

logger = logging.getLogger(__name__)

EXIT_CODES: Mapping[Ending, int] = {"finished": 0, "failed": 1, "killed": 255}
"""W&B gives an interrupted run 255; its server shows it as killed, and so does MLflow."""
OFFLINE_MODES = ("offline", "dryrun", "disabled")

OFFLINE = "W&B cannot be had (%s): the run continues offline; `wandb sync` uploads it"
IN_USE = "is in use"
"""In wandb-core's answer to a run id that it has already."""

_open_runs: dict[str, Any] = {}
"""Runs that tasks of this process have open, by id, for child tasks in the same process."""
_opened: dict[str, str] = {}
"""The action that first opened a run, by run id."""
_lock = threading.Lock()


@dataclass(frozen=True)
class WandbOptions:
    """Arguments of `wandb_init` or `track`. None leaves the choice to ``wandb_config``.

    Attributes:
        init: arguments of ``wandb.init``.
        settings: fields of `mlflow_wandb_plugin.settings.Settings` for this run.
        with_mlflow: whether the replica is MLflow's active run inside the task.
        link_host: URL of MLflow's UI.
    """

    init: Mapping[str, Any] = field(default_factory=dict)
    run_mode: TrackRunMode | None = None
    rank_scope: RankScope | None = None
    download_logs: bool | None = None
    resume_on_retry: bool = True
    on_backend_error: OnBackendError = "raise"
    settings: Mapping[str, Any] = field(default_factory=dict)
    with_mlflow: bool = False
    link_host: str | None = None

    def mode(self) -> TrackRunMode:
        """Return the run mode after ``wandb_config``."""
        config = get_wandb_context()
        return self.run_mode or (config.run_mode if config else None) or "auto"

    def scope(self) -> RankScope:
        """Return the rank scope after ``wandb_config``."""
        config = get_wandb_context()
        return self.rank_scope or (config.rank_scope if config else None) or "global"


class WandbSession:
    """A `Session` of one call of a task."""

    def __init__(self, options: WandbOptions) -> None:
        self._options = options
        self._with_mlflow = options.with_mlflow or load_settings().mlflow_active
        self._owner = self._joins = False
        self._closing = threading.Lock()
        self._closed = False
        self.run: Any = None
        self._mlflow_run: Any = None

    def open(self) -> None:
        """Open the run, or join the parent task's.

        Raises:
            RuntimeError: the mode is shared, and there is no run to share.
        """
        with current_run.mlflow_runs() if self._with_mlflow else nullcontext():
            if (distributed := get_distributed_info()) is None:
                self._open_alone()
            else:
                self._open_share(distributed)
            if self._with_mlflow and self.run is not None:
                self._use_replica()

    def _use_replica(self) -> None:
        """Have MLflow's active run be the replica; a run that was joined may lack one yet."""
        import mlflow

        from mlflow_wandb_plugin.live.tap import tap_of

        if (tap := tap_of(self.run)) is None:
            return
        tap.make_active()
        self._mlflow_run = tap.active_run
        if self._owner and not self._joins and self._mlflow_run is not None:
            client = mlflow.MlflowClient()
            try:
                for key, value in flyte_tags().items():
                    client.set_tag(self._mlflow_run.info.run_id, key, value)
            except Exception as error:
                logger.warning("the MLflow run lacks the names of the Flyte action: %s", error)

    def _open_share(self, distributed: dict[str, int]) -> None:
        """Open this process's share of a distributed task; ids follow from the ranks."""
        init = self._arguments()
        base = init.pop("id", None) or action_id()
        mine = share(self._options.mode(), self._options.scope(), distributed, base)
        if mine.run_id is None:
            return
        init["id"] = mine.run_id
        if mine.group:
            init.setdefault("group", mine.group)
            _add_config(init, {PARENT_GROUP_KEY: mine.group})
        self._init(init, mine if mine.label else None)

    def _open_alone(self) -> None:
        context = flyte.ctx().custom_context or {}
        mode = self._options.mode()
        parent = context.get(keys.WANDB_RUN_ID)
        if mode == "shared" and not parent:
            raise RuntimeError("Cannot reuse parent run: no parent run ID found")
        init = self._arguments()
        if parent and mode in ("auto", "shared"):
            self._join(parent, context, init)
            return
        init["id"] = init.get("id") or action_id()
        if mode == "nested" and parent:
            init.setdefault("group", parent)
            if parent_run := inherited_run()[0]:
                _add_config(init, {PARENT_RUN_KEY: parent_run})
        # Children in other containers may log into this run, which needs W&B's shared mode.
        shared = Share(init["id"], label=flyte.ctx().action.name)
        self._init(init, shared if flyte.ctx().mode == "remote" else None)

    def _join(self, parent: str, context: Mapping[str, str], init: dict[str, Any]) -> None:
        """Log into the parent's run, which this process or another one has open."""
        self.run = _open_runs.get(parent)
        if self.run is not None:
            return
        ours = {"entity": keys.WANDB_ENTITY, "project": keys.WANDB_PROJECT, "mode": keys.WANDB_MODE}
        init.update({name: context[key] for name, key in ours.items() if context.get(key)})
        init["id"] = parent
        self._joins = True
        self._init(init, Share(parent, label=flyte.ctx().action.name, primary=False))

    def _arguments(self) -> dict[str, Any]:
        config = get_wandb_context()
        return {**(config.init_arguments() if config else {}), **self._options.init}

    def _init(self, init: dict[str, Any], shared: Share | None) -> None:
        from mlflow_wandb_plugin.live.tap import using

        init = with_host(init)
        offline = is_offline(init)
        if offline and init.get("mode") is None:
            # wandb reads its variables once a process, perhaps before this task has set them.
            init["mode"] = "disabled" if os.environ.get("WANDB_MODE") == "disabled" else "offline"
        if shared is not None:
            # Set when offline, too: the replica then learns which process decides the end state.
            init["settings"] = _settings(
                init.get("settings"),
                x_primary=shared.primary,
                x_label=shared.label,
                x_update_finish_state=shared.primary,
                **({} if offline else {"mode": "shared"}),
            )
            if not offline:
                init.pop("mode", None)
        elif self._options.resume_on_retry and not offline and _is_retried(init):
            init["resume"] = "allow"
        init["reinit"] = "create_new"
        with using(**self._tap_settings()):
            self.run = start_run(init, self._options.on_backend_error)
        self._owner = True
        with _lock:
            _open_runs[self.run.id] = self.run

    def _tap_settings(self) -> dict[str, Any]:
        config = get_mlflow_context()
        given: dict[str, Any] = {}
        if config is not None:
            context = {"tracking_uri": config.tracking_uri, "experiment": config.experiment_name}
            given = {key: value for key, value in context.items() if value}
        given["mlflow_active"] = self._with_mlflow
        return {**given, **self._options.settings}

    @contextmanager
    def entered(self) -> Iterator[None]:
        if self.run is None:
            yield
            return
        passed = {
            keys.WANDB_RUN_ID: self.run.id,
            keys.WANDB_ENTITY: self.run.entity,
            keys.WANDB_PROJECT: self.run.project,
            keys.WANDB_MODE: "offline" if self.run.offline else "",
        }
        known = {key: str(value) for key, value in passed.items() if value}
        # The configured id is used up: children must not take it for their own run.
        drop = ("wandb_id",) if self._owner else ()
        changed = changed_context(add=known, drop=drop, data={keys.WANDB_RUN: self.run})
        with changed, current_run.wandb_run(self.run), ExitStack() as stack:
            if self._mlflow_run is not None:
                stack.enter_context(task_run(self._mlflow_run, self._options.link_host))
            yield

    def close(self, ending: Ending) -> None:
        with self._closing:
            if self._closed or not self._owner:
                return
            self._closed = True
        run: Any = self.run
        try:
            run.finish(exit_code=EXIT_CODES[ending])
        except Exception as error:
            logger.warning("a W&B run could not be ended: %s", error)
        with _lock:
            for run_id in [key for key, opened in _open_runs.items() if opened is run]:
                del _open_runs[run_id]


def start_run(init: Mapping[str, Any], on_backend_error: OnBackendError) -> Any:
    """Call ``wandb.init``; with "warn", offline, if W&B cannot be had."""
    import wandb

    from mlflow_wandb_plugin.wandb_api.client import check_answer

    if on_backend_error == "raise" or is_offline(init):
        return wandb.init(**init)
    settings = _settings(init.get("settings"), mode="offline")
    offline = {**init, "mode": "offline", "settings": settings, "resume": None}
    try:
        base_url, key = (_setting(init.get("settings"), name) for name in ("base_url", "api_key"))
        check_answer(base_url or "", key or "")
        return wandb.init(**init)
    except Exception as error:
        logger.warning(OFFLINE, error)
    try:
        return wandb.init(**offline)
    except Exception as error:
        if IN_USE not in str(error):
            raise
        # wandb-core keeps the id of a run that it could not start.
        return wandb.init(**{**offline, "id": f"{init.get('id')}-offline"})


def is_run_of_a_task(run: Any) -> bool:
    """Whether a decorated task of this process has opened the run, and has it open still."""
    return run is not None and _open_runs.get(run.id) is run


def action_id() -> str:
    """Return the default id of a task's run, also the prefix of the ids of its processes' runs."""
    action = flyte.ctx().action
    return f"{action.run_name}-{action.name}"


def is_offline(init: Mapping[str, Any]) -> bool:
    """Whether ``wandb.init`` with these arguments would talk to no server."""
    modes = (
        init.get("mode"), _setting(init.get("settings"), "mode"), os.environ.get("WANDB_MODE")
    )  # fmt: skip
    if os.environ.get("MLFLOW_WANDB_HOMES") == "mlflow":
        return True
    chosen = next((mode for mode in modes if mode and mode != "online"), modes[0])
    return init.get("mode") != "online" and chosen in OFFLINE_MODES


def with_host(init: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``wandb.init`` with the host of ``wandb_config``."""
    config = get_wandb_context()
    if config is None or not config.host:
        return dict(init)
    return {**init, "settings": _settings(init.get("settings"), base_url=config.host)}


def _is_retried(init: Mapping[str, Any]) -> bool:
    """Whether a run of this id, if there is one, is from an earlier attempt of this action."""
    chosen = any(init.get(key) for key in ("resume", "resume_from", "fork_from"))
    if chosen or "WANDB_RESUME" in os.environ:
        return False
    run_id = init["id"]
    opened_before = _opened.setdefault(run_id, action_id()) == action_id()
    return run_id.startswith(action_id()) or flyte.ctx().attempt_number > 0 or opened_before


def _setting(given: Any, name: str) -> Any:
    """Return one of the user's settings, if it was set."""
    if given is None or isinstance(given, Mapping):
        return (given or {}).get(name)
    return getattr(given, name) if name in given.model_fields_set else None


def _settings(given: Any, **ours: Any) -> Any:
    """Return the user's settings and ours; a Settings object is copied: wandb.init changes it."""
    import wandb

    if given is None or isinstance(given, Mapping):
        return wandb.Settings(**{**(given or {}), **ours})
    copied = copy.deepcopy(given)
    for key, value in ours.items():
        setattr(copied, key, value)
    return copied


def _add_config(init: dict[str, Any], more: Mapping[str, Any]) -> None:
    config = init.get("config")
    if config is None or isinstance(config, Mapping):
        init["config"] = {**(config or {}), **more}
    elif hasattr(config, "__dict__"):
        init["config"] = {**vars(config), **more}
    else:
        logger.warning("cannot add the run's parent in MLflow to a config of %s", type(config))
