"""The decorators ``wandb_init``, ``wandb_sweep``, ``mlflow_run`` and ``track``."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar, cast

import flyte

from mlflow_wandb_flyte import keys
from mlflow_wandb_flyte.context import (
    MlflowRunMode,
    OnBackendError,
    RankScope,
    RunMode,
    TrackRunMode,
    check_mlflow_arguments,
    check_wandb_arguments,
)
from mlflow_wandb_flyte.distributed import shape
from mlflow_wandb_flyte.links import Mlflow, Wandb, WandbSweep
from mlflow_wandb_flyte.mlflow_session import MlflowOptions, MlflowSession
from mlflow_wandb_flyte.session import ending_of, running
from mlflow_wandb_flyte.sweep import SweepOptions
from mlflow_wandb_flyte.task import NO_LOGS, is_task, track_task
from mlflow_wandb_flyte.wandb_session import EXIT_CODES, WandbOptions, start_run
from mlflow_wandb_plugin.core.arguments import check_arguments, check_choice
from mlflow_wandb_plugin.settings import Settings

logger = logging.getLogger(__name__)

F = TypeVar("F")
OUR_SETTINGS = frozenset(field.name for field in fields(Settings)) - {"project", "entity"}
_NOT_FOR_TRACES = (
    "@{} cannot be applied to traces. Traces can access the parent's {} run via get_{}_run()."
)


def wandb_init(
    _func: Any = None,
    *,
    run_mode: RunMode | None = None,
    rank_scope: RankScope | None = None,
    download_logs: bool | None = None,
    project: str | None = None,
    entity: str | None = None,
    on_backend_error: OnBackendError = "raise",
    **kwargs: Any,
) -> Any:
    """Open a W&B run, replicated to MLflow, around a Flyte task or a sweep's objective.

    Goes above ``@env.task``. Arguments that are not given are taken from `wandb_config`.

    Args:
        run_mode: "auto" (default) shares the parent task's run, or opens one if there is none;
            "new" always opens one; "shared" always shares. In a distributed task: "auto", one
            process logs; "shared", all log into one run; "new", each process has a run of its own.
        rank_scope: "global" (default) or "worker": whether the mode applies to all nodes together
            or to each node.
        download_logs: after the task, download the run's files into a Flyte trace.
        on_backend_error: what to do if W&B cannot be had: "raise", or "warn" and go on offline.
            MLflow is written either way.
        kwargs: other arguments of ``wandb.init``.

    Raises:
        UnknownArgumentError, ArgumentValueError: an argument is unknown, or cannot have this value.
        RuntimeError: at the call: the mode is "shared" and there is no run to share, or the
            function is a trace.
    """
    check_wandb_arguments("wandb_init", kwargs, run_mode, rank_scope)
    check_choice("wandb_init(on_backend_error=…)", on_backend_error, ("raise", "warn"))
    given = {"project": project, "entity": entity}
    init = {key: value for key, value in given.items() if value is not None} | kwargs
    options = WandbOptions(
        init, run_mode, rank_scope, download_logs, on_backend_error=on_backend_error
    )

    def decorate(func: Any) -> Any:
        if is_task(func):
            return track_task(func, options, _wandb_links(func, options))
        return _around(func, functools.partial(_plain_wandb_run, options))

    return decorate if _func is None else decorate(_func)


def track(
    _func: Any = None,
    *,
    run_mode: TrackRunMode | None = None,
    rank_scope: RankScope | None = None,
    download_logs: bool | None = None,
    resume_on_retry: bool = True,
    on_backend_error: OnBackendError = "raise",
    link_host: str | None = None,
    **kwargs: Any,
) -> Any:
    """Open a run around a Flyte task that is both W&B's and MLflow's.

    What the calls of either API log, autologging included, is in W&B and in MLflow.

    Args:
        run_mode: as of `wandb_init`, and "nested": a run of its own below the parent task's run:
            its child in MLflow, and in W&B in the group named after the parent's id.
        rank_scope, download_logs: as of `wandb_init`.
        resume_on_retry: whether a retried task resumes the same runs.
        on_backend_error: as of `wandb_init`.
        link_host: URL of MLflow's UI.
        kwargs: arguments of ``wandb.init``, and fields of
            `mlflow_wandb_plugin.settings.Settings` such as ``tracking_uri`` and ``experiment``.

    Raises:
        UnknownArgumentError, ArgumentValueError: an argument is unknown, or cannot have this value.
    """
    check_wandb_arguments("track", kwargs, run_mode, rank_scope, OUR_SETTINGS)
    check_choice("track(on_backend_error=…)", on_backend_error, ("raise", "warn"))
    settings = {key: value for key, value in kwargs.items() if key in OUR_SETTINGS}
    init = {key: value for key, value in kwargs.items() if key not in OUR_SETTINGS}
    options = WandbOptions(
        init, run_mode, rank_scope, download_logs, resume_on_retry, on_backend_error, settings,
        with_mlflow=bool(settings.get("mlflow_active", True)), link_host=link_host,
    )  # fmt: skip

    def decorate(func: Any) -> Any:
        if not is_task(func):
            return _around(func, functools.partial(_plain_wandb_run, options))
        mode = run_mode if run_mode in ("new", "nested") else ""
        mlflow = _of_decorator(Mlflow(_decorator_run_mode=mode), link_host or "")
        mlflow.of_wandb_run = True
        return track_task(func, options, [*_wandb_links(func, options), mlflow])

    return decorate if _func is None else decorate(_func)


def wandb_sweep(
    _func: Any = None,
    *,
    project: str | None = None,
    entity: str | None = None,
    download_logs: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Create a W&B sweep for a Flyte task, as `wandb_sweep_config` describes it.

    Any number of agents may run its trials, which are nested below one run in MLflow.

    Args:
        download_logs: after the task, download the files of all runs into a Flyte trace.
        kwargs: other arguments of ``wandb.sweep``.

    Raises:
        UnknownArgumentError: an argument is unknown.
        RuntimeError: the function is no task; or, at the call, there is no `wandb_sweep_config`.
    """
    import wandb

    check_arguments("wandb_sweep", kwargs, wandb.sweep)
    options = SweepOptions(project, entity, download_logs, kwargs)

    def decorate(func: Any) -> Any:
        if not is_task(func):
            raise RuntimeError("@wandb_sweep can only be used with Flyte tasks.")
        link = _of_decorator(WandbSweep(project=project, entity=entity), _task_host(func))
        return track_task(func, options, [link])

    return decorate if _func is None else decorate(_func)


def mlflow_run(
    _func: Any = None,
    *,
    run_mode: MlflowRunMode = "auto",
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    experiment_id: str | None = None,
    run_name: str | None = None,
    run_id: str | None = None,
    tags: dict[str, str] | None = None,
    autolog: bool = False,
    framework: str | None = None,
    log_models: bool | None = None,
    log_datasets: bool | None = None,
    autolog_kwargs: dict[str, Any] | None = None,
    rank: int | None = None,
    on_backend_error: OnBackendError = "raise",
    **kwargs: Any,
) -> Any:
    """Open an MLflow run around a Flyte task or a function.

    Arguments that are not given are taken from `mlflow_config`. Together with `wandb_init` on one
    task, its run is the W&B run's replica.

    Args:
        run_mode: "auto" shares the parent task's run, or starts one; "new" always starts one;
            "nested" starts one below the parent's.
        framework: whose autologging to switch on, such as "sklearn"; by default MLflow's own
            choice.
        rank: of this process, if the variable RANK is not set; only rank 0 logs.
        on_backend_error: what to do if MLflow cannot be had: "raise", or "warn" and drop what is
            logged to it.
        kwargs: other arguments of ``mlflow.start_run``; ``link_host`` and ``link_template``.

    Raises:
        UnknownArgumentError, ArgumentValueError: an argument is unknown, cannot have this value, or
            excludes another one.
        RuntimeError: at the call: the function is a trace.
    """
    named = {**locals(), **kwargs, "autolog": autolog or None}
    check_mlflow_arguments("mlflow_run", kwargs, named, ("link_host", "link_template"))
    check_choice("mlflow_run(on_backend_error=…)", on_backend_error, ("raise", "warn"))
    own = ("_func", "run_mode", "rank", "on_backend_error", "kwargs")
    given = {key: one for key, one in named.items() if key not in own and one is not None}
    options = MlflowOptions(run_mode, rank, on_backend_error, given)

    def decorate(func: Any) -> Any:
        if not is_task(func):
            return _around(func, functools.partial(_plain_mlflow_run, options))
        for link in func.links:
            if isinstance(link, Mlflow):
                _configure(link, options)
        return track_task(func, options)

    return decorate if _func is None else decorate(_func)


# -- functions that are not tasks -----------------------------------------------------------


def _around(func: F, run: Callable[[], Any]) -> F:
    """Return ``func`` with a context of ``run``, a `contextmanager` function, around each call."""
    wanted = cast(Any, func)
    if not inspect.iscoroutinefunction(wanted):
        return cast(F, run()(wanted))

    @functools.wraps(wanted)
    async def call(*args: Any, **kwargs: Any) -> Any:
        with run():
            return await wanted(*args, **kwargs)

    return cast(F, call)


@contextmanager
def _plain_wandb_run(options: WandbOptions) -> Iterator[Any]:
    """Inside a task, yield the task's run; outside Flyte, as in a sweep's agent, open one."""
    if flyte.ctx():
        run = (flyte.ctx().data or {}).get(keys.WANDB_RUN)
        if run is None:
            raise RuntimeError(_NOT_FOR_TRACES.format("wandb_init", "wandb", "wandb"))
        yield run
        return
    from mlflow_wandb_plugin.live.tap import using

    active = {"mlflow_active": True} if options.with_mlflow else {}
    with using(**{**active, **options.settings}):
        run = start_run(options.init, options.on_backend_error)
    try:
        yield run
    except BaseException as error:
        run.finish(exit_code=EXIT_CODES[ending_of(error)])
        raise
    run.finish(exit_code=0)


@contextmanager
def _plain_mlflow_run(options: MlflowOptions) -> Iterator[None]:
    if flyte.ctx():
        raise RuntimeError(_NOT_FOR_TRACES.format("mlflow_run", "MLflow", "mlflow"))
    with running(MlflowSession(options)):
        yield


# -- links ------------------------------------------------------------------------------------


def _wandb_links(task: Any, options: WandbOptions) -> list[Any]:
    nodes, processes = shape(task)
    common: dict[str, Any] = {
        **{name: options.init.get(name) for name in ("project", "entity", "id")},
        "run_mode": options.run_mode or "auto",
        "rank_scope": options.rank_scope or "global",
        "_is_distributed": nodes * processes > 1,
    }
    links = [Wandb(**common)]
    if nodes > 1 and options.rank_scope == "worker":
        name = "Weights & Biases Worker {}"
        links = [
            Wandb(**common, name=name.format(node), _worker_index=node) for node in range(nodes)
        ]
    for link in links:
        link.several_nodes = nodes > 1
        link.mode_given = options.run_mode is not None
        link.scope_given = options.rank_scope is not None
    if nodes * processes > 1 and options.download_logs:
        logger.warning(NO_LOGS)
    return [_of_decorator(link, _task_host(task)) for link in links]


def _task_host(task: Any) -> str:
    return str((getattr(task, "env_vars", None) or {}).get("WANDB_BASE_URL", ""))


def _configure(link: Mlflow, options: MlflowOptions) -> None:
    """Pass the decorator's arguments to a link, which Flyte reads before the task runs."""
    if options.run_mode in ("new", "nested"):
        link._decorator_run_mode = options.run_mode
    if options.run_mode == "nested":
        link.name = "MLflow (parent)"
    link.task_host = options.given.get("link_host", "")
    link.experiment_id = str(options.given.get("experiment_id", ""))


def _of_decorator(link: Any, host: str) -> Any:
    link.of_decorator, link.task_host = True, host
    return link
