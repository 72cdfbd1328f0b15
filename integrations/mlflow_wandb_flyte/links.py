"""Links from Flyte's UI to the runs of a task.

Flyte asks for a task's links before the task runs, with placeholders such as ``{{.actionName}}``
where it runs remotely. A link therefore has to predict the address of the run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

from flyte import Link

from mlflow_wandb_flyte import keys
from mlflow_wandb_flyte.context import RankScope, RunMode
from mlflow_wandb_plugin.core.redaction import without_credentials

WANDB_HOST = "https://wandb.ai"
RUN_TEMPLATE = "{host}/#/experiments/{experiment_id}/runs/{run_id}"


class TaskLink(Link):
    """Flyte's interface of a link, reduced to the two values that our links use.

    Attributes:
        of_decorator: whether a decorator has added it to the task.
        task_host: address of the server, if the decorator or the task's environment names one.
    """

    of_decorator = False
    task_host = ""

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
        return self._address(context or {}, f"{run_name}-{action_name}")

    def _address(self, context: dict[str, str], task_id: str) -> str:
        """Return the link's address in the task's context; ``task_id``: its run's default name."""
        raise NotImplementedError


@dataclass
class Wandb(TaskLink):
    """A link to the W&B run of a task, or to the group of its runs.

    Args:
        host: URL of the W&B server, unless ``wandb_config`` names one, as in the upstream plugin.
            The default stands for ``WANDB_BASE_URL`` of the task, else of this process, else W&B's
            cloud.
        project, entity: of the run; by default those of the configuration.
        run_mode, rank_scope: as of `wandb_init`; "auto" and "global" let ``wandb_config`` decide.
        id: of the run; by default the Flyte run's and action's names.
        name: of the link.

    Attributes:
        several_nodes, mode_given, scope_given: what a decorator knows: whether the task has several
            nodes, and whether it was given ``run_mode`` and ``rank_scope``.
    """

    several_nodes = mode_given = scope_given = False

    host: str = WANDB_HOST
    project: str | None = None
    entity: str | None = None
    run_mode: RunMode = "auto"
    rank_scope: RankScope = "global"
    id: str | None = None
    name: str = "Weights & Biases"
    _is_distributed: bool = False
    _worker_index: int | None = None

    def _address(self, context: dict[str, str], task_id: str) -> str:
        host = wandb_host(self.host, context, self.task_host)
        mode = self.run_mode
        if mode == "auto" and not self.mode_given:
            mode = cast(RunMode, context.get("wandb_run_mode", mode))
        parent = context.get(keys.WANDB_RUN_ID)
        base = self.id or context.get("wandb_id") or task_id
        alone = not self._is_distributed
        shares = alone and (mode == "shared" or (mode == "auto" and bool(parent)))
        project = self._project_path(context, shares)
        if project is None:
            return host
        if shares:
            return _url(host, *project, "runs", parent) if parent else _url(host, *project)
        if alone:
            return _url(host, *project, "runs", base)
        kind = "groups" if mode in ("new", "nested") else "runs"
        return _url(host, *project, kind, f"{base}{self._worker(context)}")

    def _worker(self, context: dict[str, str]) -> str:
        scope: str = self.rank_scope
        if scope == "global" and not self.scope_given:
            scope = context.get("wandb_rank_scope", scope)
        if scope != "worker":
            return ""
        if self._worker_index is not None:
            return f"-worker-{self._worker_index}"
        # The number of a task's links is fixed before its context is known: link to the first node.
        return "-worker-0" if self.several_nodes else ""

    def _project_path(self, context: dict[str, str], shares: bool) -> tuple[str, str] | None:
        """Return (entity, project) of the run; a shared run's are its parent's."""
        parent = context if shares else {}
        entity = parent.get(keys.WANDB_ENTITY) or self.entity or context.get("wandb_entity")
        project = parent.get(keys.WANDB_PROJECT) or self.project or context.get("wandb_project")
        return (entity, project) if entity and project else None


@dataclass
class WandbSweep(TaskLink):
    """A link to the W&B sweep of a task; until it exists, to the project's sweeps.

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

    def _address(self, context: dict[str, str], task_id: str) -> str:
        host = wandb_host(self.host, context, self.task_host)
        sweep = self.id or context.get(keys.SWEEP_ID)
        opened = context if sweep else {}
        entity, project = (
            given
            or opened.get(opened_key)
            or context.get(f"wandb_sweep_{name}")
            or context.get(f"wandb_{name}")
            for name, given, opened_key in (
                ("entity", self.entity, keys.SWEEP_ENTITY),
                ("project", self.project, keys.SWEEP_PROJECT),
            )
        )
        if not entity or not project:
            return host
        return _url(host, entity, project, "sweeps", *([sweep] if sweep else []))


@dataclass
class Mlflow(TaskLink):
    """A link to the MLflow run of a task.

    It is ``link`` if that is given, else the run that the parent task shares. A task with a run of
    its own is linked to its experiment, filtered by the run's name, if ``link_host`` and the
    experiment's id are configured: MLflow assigns the run's id only when it creates the run.

    Args:
        name: of the link.
        link: an address to show as it is.

    Attributes:
        experiment_id, of_wandb_run: what a decorator knows: the experiment, and whether the run is
            the replica of a W&B run.
    """

    experiment_id = ""
    of_wandb_run = False

    name: str = "MLflow"
    link: str = ""
    _decorator_run_mode: str = ""

    def _address(self, context: dict[str, str], task_id: str) -> str:
        if self.link:
            return self.link
        mode_key = "wandb_run_mode" if self.of_wandb_run else "mlflow_run_mode"
        mode = self._decorator_run_mode or context.get(mode_key)
        inherited = context.get(keys.MLFLOW_LINK, "")
        if inherited and mode != "new":
            return inherited
        host = (self.task_host or context.get("mlflow_link_host", "")).rstrip("/")
        experiment = self.experiment_id or context.get("mlflow_experiment_id", "")
        if not host:
            return ""
        host = without_credentials(host)
        if not experiment:
            return f"{host}/#/experiments"
        field = "tags.`wandb.run_id`" if self.of_wandb_run else "attributes.run_name"
        search = _quoted(f"{field} = '{task_id}'")
        return f"{host}/#/experiments/{experiment}?searchFilter={search}"


def wandb_host(host: str, context: dict[str, str], task_host: str = "") -> str:
    """Return the address of W&B's web pages, without a trailing slash."""
    from wandb import util

    if host == WANDB_HOST:
        host = task_host or os.environ.get("WANDB_BASE_URL") or host
    host = context.get("wandb_host") or host
    if host.rstrip("/") in (WANDB_HOST, "https://api.wandb.ai"):
        return WANDB_HOST
    return without_credentials(str(util.app_url(host)).rstrip("/"))


def run_link(host: str, template: str | None, experiment_id: str, run_id: str) -> str:
    """Return the address of an MLflow run's page."""
    shown = without_credentials(host.rstrip("/"))
    return (template or RUN_TEMPLATE).format(host=shown, experiment_id=experiment_id, run_id=run_id)


def _url(host: str, *parts: str) -> str:
    return "/".join((host, *map(_quoted, parts)))


def _quoted(part: str) -> str:
    # Braces stay: Flyte replaces {{.actionName}} later.
    return quote(part, safe="{}.")
