"""How a tracking store's methods are mirrored; those that are not in `OPERATIONS` are not.

Each function is a `swap.Operation` with the parameters of the method of the same name. Metrics come
one by one and in batches: neither SQL nor REST stores implement one by the other.
"""

from __future__ import annotations

import inspect
import time
from itertools import islice
from typing import Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.messages import log_once
from mlflow_wandb_plugin.core.mlflow_terms import TERMINAL
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.mapping.names import Limits
from mlflow_wandb_plugin.mlflow_access.point_blocks import metrics_of
from mlflow_wandb_plugin.store.mirrored_runs import MirroredRun, current_mirror
from mlflow_wandb_plugin.store.swap import Changed, Operation, Steps, by_name

TRACE_RUN = "mlflow.sourceRun"
"""Metadata key of a trace: id of the run in which it was recorded."""

MODEL_HISTORY = "mlflow.log-model.history"


def create_run(store: Any, *args: Any, **kwargs: Any) -> Steps:
    """Add the tags of the run's mirror, unless the caller gives tags of another one."""
    from mlflow.entities import RunTag

    call = inspect.signature(type(store).create_run).bind(store, *args, **kwargs)
    given = {tag.key: tag.value for tag in call.arguments.get("tags") or []}
    mirror = current_mirror()
    present = identity.present_tags(given)
    mirrored = identity.OWNER not in present and identity.ORIGIN not in present
    if mirrored:
        tags = mirror.tags_of_new_run(store, call.arguments["experiment_id"])
        more = [RunTag(key, value) for key, value in tags.items() if key not in given]
        call.arguments["tags"] = [*(call.arguments.get("tags") or []), *more]
    run = yield Changed(call.args[1:], call.kwargs)
    if mirrored:
        mirror.add_new_run(store, run)
    else:
        mirror.ignore(run.info.run_id)


def update_run_info(
    store: Any, run_id: str, run_status: Any, end_time: Any, run_name: Any = None
) -> Steps:
    run = current_mirror().run(store, run_id)
    yield None
    if run is not None:
        status = _status(run_status)
        run.append("update", status=status, end_time=end_time, name=run_name)
        if status in TERMINAL:
            run.close()


def _status(status: Any) -> str | None:
    if status is None:
        return None
    from mlflow.entities import RunStatus

    return RunStatus.to_string(status) if isinstance(status, int) else str(status)


def delete_run(store: Any, run_id: str) -> Steps:
    run = current_mirror().run(store, run_id)
    yield None
    if run is not None:
        run.append("delete")
        run.close()


def restore_run(store: Any, run_id: str) -> Steps:
    # First restore it: MLflow sets no tags on a deleted run, which adopting it may need.
    yield None
    run = current_mirror().run(store, run_id)
    if run is not None:
        run.append("restore")


def rename_experiment(store: Any, experiment_id: str, new_name: str) -> Steps:
    """Runs keep the W&B project that they began in; later ones get that of the new name."""
    yield None
    current_mirror().stores.forget_experiment(store, str(experiment_id))


def log_metric(store: Any, run_id: str, metric: Any) -> Steps:
    return log_batch(store, run_id, (metric,))


def log_param(store: Any, run_id: str, param: Any) -> Steps:
    return log_batch(store, run_id, params=(param,))


def set_tag(store: Any, run_id: str, tag: Any) -> Steps:
    return log_batch(store, run_id, tags=(tag,))


def log_batch(
    store: Any, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()
) -> Steps:
    run = current_mirror().run(store, run_id)
    if run is not None:
        yield None
        _append_batch(run, metrics or (), params or (), tags or ())


def _append_batch(run: MirroredRun, metrics: Any, params: Any, tags: Any) -> None:
    named = {param.key: str(param.value) for param in params} if params else {}
    tagged = {tag.key: str(tag.value) for tag in tags} if tags else {}
    at = time.time_ns() // 1_000_000
    run.append_encoded(outbox.encode_batch(at, metrics, named, tagged))


def log_points(store: Any, run_id: str, blocks: Any) -> Steps:
    """Journal the points in batches of the size that MLflow's have."""
    run = current_mirror().run(store, run_id)
    if run is not None:
        yield None
        metrics = metrics_of(blocks)
        while some := list(islice(metrics, Limits.installed().batch_metrics)):
            _append_batch(run, some, (), ())


def delete_tag(store: Any, run_id: str, key: str) -> Steps:
    run = current_mirror().run(store, run_id)
    if run is not None:
        yield None
        run.append("untag", key=key)


def log_inputs(store: Any, run_id: str, datasets: Any = None, models: Any = None) -> Steps:
    run = current_mirror().run(store, run_id)
    if run is not None:
        yield None
        used = [model.model_id for model in models or ()]
        run.append("inputs", datasets=[_dataset(each) for each in datasets or ()], models=used)


def _dataset(given: Any) -> dict[str, Any]:
    dataset = given.dataset
    names = ("name", "digest", "source_type", "source", "schema", "profile")
    tags = {tag.key: tag.value for tag in given.tags or ()}
    return {name: getattr(dataset, name) for name in names} | {"tags": tags}


def log_outputs(store: Any, run_id: str, models: Any) -> Steps:
    run = current_mirror().run(store, run_id)
    if run is not None:
        yield None
        run.append("outputs", models=[[model.model_id, int(model.step or 0)] for model in models])


def create_logged_model(store: Any, *args: Any, **kwargs: Any) -> Steps:
    """Also for MLflow's `finalize_logged_model`, which returns the model, too."""
    model = yield None
    _append_model(store, model)


def change_logged_model(store: Any, model_id: str, *args: Any, **kwargs: Any) -> Steps:
    """Read all params and tags again, because other processes may have changed some."""
    yield None
    _append_model(store, store.get_logged_model(model_id))


def log_model_params(store: Any, model_id: str, params: Any) -> Steps:
    """Journal the params alone: the replicator adds them to those that it knows."""
    run = current_mirror().run_of_model(store, model_id)
    if run is not None:
        yield None
        run.append("model", id=model_id, params={each.key: str(each.value) for each in params})


def delete_logged_model(store: Any, model_id: str) -> Steps:
    model = store.get_logged_model(model_id)
    yield None
    _append_model(store, model, status="DELETED")


def _append_model(store: Any, model: Any, status: str | None = None) -> None:
    mirror = current_mirror()
    mirror.add_model(model)
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
    """MLflow 2 lists models, which are files of the run, in a tag."""
    run = current_mirror().run(store, run_id)
    if run is not None:
        yield None
        tag = store.get_run(run_id).data.tags.get(MODEL_HISTORY)
        if tag is not None:
            run.append("batch", metrics=[], params={}, tags={MODEL_HISTORY: tag})


def start_trace(store: Any, *args: Any, **kwargs: Any) -> Steps:
    """Count a trace. The arguments are a trace, or, before MLflow 3.2, the fields of one."""
    yield None
    log_once("traces stay in MLflow: W&B keeps them only in Weave, which is not supported")
    given = [*args, *kwargs.values()]
    metadata = [getattr(value, "trace_metadata", value) for value in given]
    found = [each[TRACE_RUN] for each in metadata if isinstance(each, dict) and TRACE_RUN in each]
    run = current_mirror().run(store, found[0]) if found and found[0] else None
    if run is not None:
        run.append("trace", count=1)


OPERATIONS: dict[str, Operation] = {
    **by_name(create_run, update_run_info, delete_run, restore_run, rename_experiment),
    **by_name(log_metric, log_param, set_tag, log_batch, log_points, delete_tag),
    **by_name(log_inputs, log_outputs),
    **by_name(create_logged_model, delete_logged_model, record_logged_model, start_trace),
    "start_trace_v3": start_trace,
    "finalize_logged_model": create_logged_model,
    "log_logged_model_params": log_model_params,
    "set_logged_model_tags": change_logged_model,
    "delete_logged_model_tag": change_logged_model,
}
