"""How a model registry's methods are mirrored: versions of mirrored runs' models, and aliases.

Each function is a `swap.Operation`. Methods that are not in `OPERATIONS` are not mirrored.
"""

from __future__ import annotations

import re
from typing import Any

from mlflow_wandb_plugin.mapping.models import model_of_version
from mlflow_wandb_plugin.store.mirrored_runs import MirroredRun, current_mirror
from mlflow_wandb_plugin.store.swap import Operation, Steps

_RUN_URI = re.compile(r"runs:/([^/]+)")


def create_version(store: Any, *args: Any, **kwargs: Any) -> Steps:
    version = yield None
    _append(store, version)


def change_version(store: Any, name: str, version: Any, *args: Any, **kwargs: Any) -> Steps:
    """Read the version again, because other processes may have changed it, too."""
    yield None
    _append(store, store.get_model_version(name, version))


def delete_version(store: Any, name: str, version: Any) -> Steps:
    before = store.get_model_version(name, version)
    yield None
    _append(store, before, deleted=True)


def set_alias(store: Any, name: str, alias: str, version: Any) -> Steps:
    yield None
    run = _run_of(store, store.get_model_version(name, version))
    if run is not None:
        run.append("alias", name=name, alias=alias, version=str(version))


def delete_alias(store: Any, name: str, alias: str) -> Steps:
    run = _run_of(store, store.get_model_version_by_alias(name, alias))
    if run is not None:
        yield None
        run.append("alias", name=name, alias=alias, version=None)


def _append(store: Any, version: Any, deleted: bool = False) -> None:
    run = _run_of(store, version)
    if run is not None:
        run.append(
            "version",
            name=version.name,
            version=str(version.version),
            model=model_of_version(version, store.get_model_version),
            source=version.source,
            aliases=list(version.aliases or ()),
            tags=dict(version.tags or {}),
            description=version.description,
            deleted=deleted,
        )


def _run_of(store: Any, version: Any) -> MirroredRun | None:
    """The mirrored run of the version's model; None if there is none."""
    mirror = current_mirror()
    tracking = mirror.stores.store_of(store)
    if tracking is None:
        return None
    found = _RUN_URI.match(version.source or "")
    run_id = version.run_id or (found[1] if found else "")
    if run_id:
        return mirror.run(tracking, run_id)
    model = model_of_version(version, store.get_model_version)
    return mirror.run_of_model(tracking, model) if model else None


OPERATIONS: dict[str, Operation] = {
    "create_model_version": create_version,
    "copy_model_version": create_version,
    "update_model_version": change_version,
    "set_model_version_tag": change_version,
    "delete_model_version_tag": change_version,
    "delete_model_version": delete_version,
    "set_registered_model_alias": set_alias,
    "delete_registered_model_alias": delete_alias,
}
