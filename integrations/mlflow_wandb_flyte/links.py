"""Links from Flyte's UI to the runs of a task.

Flyte asks for a link before the task runs, with placeholders such as ``{{.actionName}}`` where it
runs elsewhere: a link says where the run will be.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

from flyte import Link

from mlflow_wandb_flyte.context import RankScope, RunMode
from mlflow_wandb_plugin.core.redaction import without_credentials

WANDB_HOST = "https://wandb.ai"
RUN_TEMPLATE = "{host}/#/experiments/{experiment_id}/runs/{run_id}"


@dataclass
class Wandb(Link):
    """A link to the W&B run of a task, or to the group of its runs.

    Args:
        host: URL of the W&B server, unless ``wandb_config`` names one, as upstream has it. The
            default stands for ``WANDB_BASE_URL`` of the task, else of this process, else W&B's
            cloud.
        project, entity: of the run; by default those of the configuration.
        run_mode, rank_scope: as of `wandb_init`; "auto" and "global" let ``wandb_config`` decide.
        id: of the run; by default the Flyte run's and action's names.
        name: of the link.
    """

    host: str = WANDB_HOST
    project: str | None = None
    entity: str | None = None
    run_mode: RunMode = "auto"
    rank_scope: RankScope = "global"
    id: str | None = None
    name: str = "Weights & Biases"
    _is_distributed: bool = False
    _worker_index: int | None = None
    _several_nodes: bool = False
    _mode_said: bool = False
    _scope_said: bool = False
    _task_host: str = ""

    def get_link(
        self,
        run_name: str,
        project: str,
        domain: str,
        context: dict[str, str],
        parent_action_name: str,
        action_name: str,
        pod_name: str,
        **kwargs: Any,
    ) -> str:
        context = context or {}
        host = wandb_host(self.host, context, self._task_host)
        mode = self.run_mode
        if mode == "auto" and not self._mode_said:
            mode = cast(RunMode, context.get("wandb_run_mode", mode))
        parent = context.get("_wandb_run_id")
        base = self.id or context.get("wandb_id") or f"{run_name}-{action_name}"
        if self._is_distributed:
            place = _place(self, context)
            kind = "groups" if mode in ("new", "nested") else "runs"
            return _url(host, *place, kind, f"{base}{self._worker(context)}") if place else host
        reuses = mode == "shared" or (mode == "auto" and parent)
        place = _place(self, context, reuses=bool(reuses))
        if place is None:
            return host
        if reuses:
            return _url(host, *place, "runs", parent) if parent else _url(host, *place)
        return _url(host, *place, "runs", base)

    def _worker(self, context: dict[str, str]) -> str:
        scope: str = self.rank_scope
        if scope == "global" and not self._scope_said:
            scope = context.get("wandb_rank_scope", scope)
        if scope != "worker":
            return ""
        if self._worker_index is not None:
            return f"-worker-{self._worker_index}"
        # How many links a task has is said before its context is known: one stands for all.
        return "-worker-0" if self._several_nodes else ""


@dataclass
class WandbSweep(Link):
    """A link to the W&B sweep of a task; until there is one, to the project's sweeps.

    Args:
        host, project, entity: as of `Wandb`; ``wandb_sweep_config`` comes before ``wandb_config``.
        id: of the sweep.
        name: of the link.
    """

    host: str = WANDB_HOST
    project: str | None = None
    entity: str | None = None
    id: str | None = None
    name: str = "Weights & Biases Sweep"
    _task_host: str = ""

    def get_link(
        self,
        run_name: str,
        project: str,
        domain: str,
        context: dict[str, str],
        parent_action_name: str,
        action_name: str,
        pod_name: str,
        **kwargs: Any,
    ) -> str:
        context = context or {}
        host = wandb_host(self.host, context, self._task_host)
        sweep = self.id or context.get("_wandb_sweep_id")
        given = {
            key: getattr(self, key)
            or (context.get(f"_wandb_sweep_{key}") if sweep else None)
            or context.get(f"wandb_sweep_{key}")
            or context.get(f"wandb_{key}")
            for key in ("entity", "project")
        }
        entity, name = given["entity"], given["project"]
        if not entity or not name:
            return host
        return _url(host, entity, name, "sweeps", *([sweep] if sweep else []))


@dataclass
class Mlflow(Link):
    """A link to the MLflow run of a task.

    It is ``link`` if that is given, else the run that the parent task shares. A task with a run of
    its own is linked to its experiment, filtered by the run's name, where ``link_host`` and the
    experiment's id are configured; MLflow says the run's id only once it exists.

    Args:
        name: of the link.
        link: an address to show as it is.
    """

    name: str = "MLflow"
    link: str = ""
    _decorator_run_mode: str = ""
    _link_host: str = ""
    _experiment_id: str = ""
    _of_wandb_run: bool = False

    def get_link(
        self,
        run_name: str,
        project: str,
        domain: str,
        context: dict[str, str],
        parent_action_name: str,
        action_name: str,
        pod_name: str,
        **kwargs: Any,
    ) -> str:
        if self.link:
            return self.link
        context = context or {}
        said = "wandb_run_mode" if self._of_wandb_run else "mlflow_run_mode"
        mode = self._decorator_run_mode or context.get(said)
        inherited = context.get("_mlflow_link", "")
        if inherited and mode != "new":
            return inherited
        return self._to_experiment(context, f"{run_name}-{action_name}")

    def _to_experiment(self, context: dict[str, str], run: str) -> str:
        host = (self._link_host or context.get("mlflow_link_host", "")).rstrip("/")
        experiment = self._experiment_id or context.get("mlflow_experiment_id", "")
        if not host:
            return ""
        host = without_credentials(host)
        if not experiment:
            return f"{host}/#/experiments"
        tag = "tags.`wandb.run_id`" if self._of_wandb_run else "attributes.run_name"
        found = _quoted(f"{tag} = '{run}'")
        return f"{host}/#/experiments/{experiment}?searchFilter={found}"


def wandb_host(host: str, context: dict[str, str], task_host: str = "") -> str:
    """The address of W&B's pages, without a slash at its end."""
    from wandb import util

    if host == WANDB_HOST:
        host = task_host or os.environ.get("WANDB_BASE_URL") or host
    host = context.get("wandb_host") or host
    if host.rstrip("/") in (WANDB_HOST, "https://api.wandb.ai"):
        return WANDB_HOST
    return without_credentials(str(util.app_url(host)).rstrip("/"))


def run_link(host: str, template: str | None, experiment_id: str, run_id: str) -> str:
    """The page of an MLflow run."""
    shown = without_credentials(host.rstrip("/"))
    return (template or RUN_TEMPLATE).format(host=shown, experiment_id=experiment_id, run_id=run_id)


def _place(link: Wandb, context: dict[str, str], reuses: bool = False) -> tuple[str, str] | None:
    """(entity, project) of the run; a shared run's are its parent's."""
    inherited = [context.get(f"_wandb_{key}") if reuses else None for key in ("entity", "project")]
    entity = inherited[0] or link.entity or context.get("wandb_entity")
    project = inherited[1] or link.project or context.get("wandb_project")
    return (entity, project) if entity and project else None


def _url(host: str, *parts: str) -> str:
    return "/".join((host, *map(_quoted, parts)))


def _quoted(part: str) -> str:
    # Flyte fills in {{.actionName}} later.
    return quote(part, safe="{}.")
