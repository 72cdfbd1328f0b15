"""How a tracking store's operations are mirrored. What is not in `OPERATIONS` is not mirrored.

Each is a `swap.Operation`: its first half runs before MLflow's method of the same name and with the
same arguments, its second half after it. Metrics come one by one and in batches; neither SQL nor
REST stores route one through the other.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any, TypeAlias

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.store.log_messages import warn_once
from mlflow_wandb_plugin.store.mirrored_runs import TERMINAL, MirroredRun, of_this_process
from mlflow_wandb_plugin.store.swap import Changed, Operation

Steps: TypeAlias = Generator["Changed | None", Any, None]

TRACE_RUN = "mlflow.sourceRun"
"""The metadata key of a trace that names the run it was made in."""

MODEL_HISTORY = "mlflow.log-model.history"


# -- the run's life -----------------------------------------------------------------------------


def create_run(store: Any, *args: Any, **kwargs: Any) -> Steps:
    """A new run says who mirrors it, unless its maker says that it already."""
    from mlflow.entities import RunTag

    call = inspect.signature(type(store).create_run).bind(store, *args, **kwargs)
    given = {tag.key: tag.value for tag in call.arguments.get("tags") or []}
    mirror = of_this_process()
    ours = identity.OWNER not in given and identity.ORIGIN not in given
    if ours:
        tags = mirror.tags_of_new_run(store, call.arguments["experiment_id"])
        more = [RunTag(key, value) for key, value in tags.items() if key not in given]
        call.arguments["tags"] = [*(call.arguments.get("tags") or []), *more]
    run = yield Changed(call.args[1:], call.kwargs)
    if ours:
        mirror.created(store, run)
    else:
        mirror.not_ours(run.info.run_id)


def update_run_info(
    store: Any, run_id: str, run_status: Any, end_time: Any, run_name: Any = None
) -> Steps:
    run = of_this_process().run(store, run_id)
    yield None
    if run is not None:
        status = _status(run_status)
        run.append("update", status=status, end_time=end_time, name=run_name)
        if status in TERMINAL:
            of_this_process().ended(run)


def _status(status: Any) -> str | None:
    if status is None:
        return None
    from mlflow.entities import RunStatus

    return RunStatus.to_string(status) if isinstance(status, int) else str(status)


def delete_run(store: Any, run_id: str) -> Steps:
    run = of_this_process().run(store, run_id)
    yield None
    if run is not None:
        run.append("delete")
        of_this_process().ended(run)


def restore_run(store: Any, run_id: str) -> Steps:
    # Nobody can take on a deleted run, for it takes no tags: first it lives again.
    yield None
    run = of_this_process().run(store, run_id)
    if run is not None:
        run.append("restore")


def rename_experiment(store: Any, experiment_id: str, new_name: str) -> Steps:
    """Runs keep the W&B project that they began in; later ones go to the one of the new name."""
    yield None
    of_this_process().renamed(store, experiment_id)


# -- what is logged -----------------------------------------------------------------------------


def log_metric(store: Any, run_id: str, metric: Any) -> Steps:
    run = of_this_process().run(store, run_id)
    if run is not None:
        yield None
        _append_batch(run, metrics=(metric,))


def log_param(store: Any, run_id: str, param: Any) -> Steps:
    run = of_this_process().run(store, run_id)
    if run is not None:
        yield None
        _append_batch(run, params=(param,))


def set_tag(store: Any, run_id: str, tag: Any) -> Steps:
    run = of_this_process().run(store, run_id)
    if run is not None:
        yield None
        _append_batch(run, tags=(tag,))


def log_batch(
    store: Any, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()
) -> Steps:
    run = of_this_process().run(store, run_id)
    if run is not None:
        yield None
        _append_batch(run, metrics or (), params or (), tags or ())


def _append_batch(
    run: MirroredRun,
    metrics: Sequence[Any] = (),
    params: Iterable[Any] = (),
    tags: Iterable[Any] = (),
) -> None:
    named = {param.key: str(param.value) for param in params} if params else {}
    tagged = {tag.key: str(tag.value) for tag in tags} if tags else {}
    at = time.time_ns() // 1_000_000
    of_this_process().append(run, outbox.encode_batch(at, metrics, named, tagged))


def delete_tag(store: Any, run_id: str, key: str) -> Steps:
    run = of_this_process().run(store, run_id)
    if run is not None:
        yield None
        run.append("untag", key=key)


def log_inputs(store: Any, run_id: str, datasets: Any = None, models: Any = None) -> Steps:
    run = of_this_process().run(store, run_id)
    if run is not None:
        yield None
        run.append(
            "inputs",
            datasets=[_dataset(dataset) for dataset in datasets or ()],
            models=[model.model_id for model in models or ()],
        )


def _dataset(given: Any) -> dict[str, Any]:
    dataset = given.dataset
    names = ("name", "digest", "source_type", "source", "schema", "profile")
    tags = {tag.key: tag.value for tag in given.tags or ()}
    return {name: getattr(dataset, name) for name in names} | {"tags": tags}


def log_outputs(store: Any, run_id: str, models: Any) -> Steps:
    run = of_this_process().run(store, run_id)
    if run is not None:
        yield None
        run.append("outputs", models=[[model.model_id, int(model.step or 0)] for model in models])


# -- logged models ------------------------------------------------------------------------------


def create_logged_model(store: Any, *args: Any, **kwargs: Any) -> Steps:
    model = yield None
    _append_model(store, model)


def finalize_logged_model(store: Any, model_id: str, status: Any) -> Steps:
    model = yield None
    _append_model(store, model)


def change_logged_model(store: Any, model_id: str, *args: Any, **kwargs: Any) -> Steps:
    """Parameters or tags changed: other processes may have changed others, so ask for all."""
    yield None
    _append_model(store, store.get_logged_model(model_id))


def delete_logged_model(store: Any, model_id: str) -> Steps:
    model = store.get_logged_model(model_id)
    yield None
    _append_model(store, model, status="DELETED")


def _append_model(store: Any, model: Any, status: str | None = None) -> None:
    mirror = of_this_process()
    mirror.made(model)
    run = mirror.run_of_model(store, model.model_id)
    if run is not None:
        run.append(
            "model",
            id=model.model_id,
            name=model.name,
            type=model.model_type,
            params=dict(model.params or {}),
            tags=dict(model.tags or {}),
            status=status or str(getattr(model.status, "name", model.status)),
        )


def record_logged_model(store: Any, run_id: str, mlflow_model: Any) -> Steps:
    """The way of MLflow 2: a tag lists the models that lie among the run's files."""
    run = of_this_process().run(store, run_id)
    if run is not None:
        yield None
        tag = store.get_run(run_id).data.tags.get(MODEL_HISTORY)
        if tag is not None:
            run.append("batch", metrics=[], params={}, tags={MODEL_HISTORY: tag})


# -- traces -------------------------------------------------------------------------------------


def start_trace(store: Any, *args: Any, **kwargs: Any) -> Steps:
    """Given a trace, or, before MLflow 3.2, what makes one."""
    yield None
    warn_once("traces stay in MLflow: W&B keeps them in Weave alone, which is not mirrored to")
    given = [*args, *kwargs.values()]
    metadata = [getattr(value, "trace_metadata", value) for value in given]
    found = [each[TRACE_RUN] for each in metadata if isinstance(each, dict) and TRACE_RUN in each]
    run_id = found[0] if found else None
    run = of_this_process().run(store, run_id) if run_id else None
    if run is not None:
        run.append("trace", count=1)


OPERATIONS: dict[str, Operation] = {
    "create_run": create_run,
    "update_run_info": update_run_info,
    "delete_run": delete_run,
    "restore_run": restore_run,
    "rename_experiment": rename_experiment,
    "log_metric": log_metric,
    "log_param": log_param,
    "set_tag": set_tag,
    "log_batch": log_batch,
    "delete_tag": delete_tag,
    "log_inputs": log_inputs,
    "log_outputs": log_outputs,
    "record_logged_model": record_logged_model,
    "create_logged_model": create_logged_model,
    "finalize_logged_model": finalize_logged_model,
    "log_logged_model_params": change_logged_model,
    "set_logged_model_tags": change_logged_model,
    "delete_logged_model_tag": change_logged_model,
    "delete_logged_model": delete_logged_model,
    "start_trace": start_trace,
}
