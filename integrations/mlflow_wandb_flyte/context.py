"""``wandb_config``, ``wandb_sweep_config`` and ``mlflow_config``: configuration for child tasks.

Each is a dataclass that unpacks like a dict into Flyte's custom_context, and a context manager
that adds itself to the custom_context of the tasks called inside it.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import flyte
from flyte._context import internal_ctx

from mlflow_wandb_flyte.codec import ConfigError, decode, encode

RunMode: TypeAlias = Literal["auto", "new", "shared"]
RankScope: TypeAlias = Literal["global", "worker"]
MlflowRunMode: TypeAlias = Literal["auto", "new", "nested"]
TrackRunMode: TypeAlias = Literal["auto", "new", "shared", "nested"]

Config = TypeVar("Config", bound="_Config")


class _Config:
    """The dict protocol and the context manager of a configuration."""

    prefix: ClassVar[str]
    _entered: ExitStack

    def to_dict(self) -> dict[str, str]:
        """The strings that go into Flyte's custom_context."""
        return encode(self, self.prefix)

    @classmethod
    def from_dict(cls: type[Config], context: Mapping[str, str]) -> Config:
        """The configuration in a custom_context."""
        config: Config = decode(cls, context, cls.prefix)
        return config

    def keys(self) -> KeysView[str]:
        return self.to_dict().keys()

    def items(self) -> ItemsView[str, str]:
        return self.to_dict().items()

    def __getitem__(self, key: str) -> str:
        return self.to_dict()[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self.to_dict().get(key, default)

    def __setitem__(self, key: str, value: str) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        context = flyte.ctx().custom_context
        if context:
            del context[key]

    def pop(self, key: str, default: Any = None) -> Any:
        context = flyte.ctx().custom_context
        return context.pop(key, default) if context else default

    def update(self, *args: Any, **kwargs: str) -> None:
        """Change the custom_context of the running task, if there is one."""
        context = flyte.ctx().custom_context
        if context is not None:
            context.update(*args, **kwargs)

    def __enter__(self: Config) -> Config:
        self._entered = ExitStack()
        # Entries of the surrounding configuration that this one does not set stay in force.
        self._entered.enter_context(flyte.custom_context(**self.to_dict()))
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()


@dataclass
class WandbConfig(_Config):
    """What `wandb_config` makes. Other arguments of ``wandb.init`` are in ``kwargs``."""

    prefix: ClassVar[str] = "wandb"

    project: str | None = None
    entity: str | None = None
    host: str | None = None
    id: str | None = None
    name: str | None = None
    tags: list[str] | None = None
    config: dict[str, Any] | None = None
    mode: str | None = None
    group: str | None = None
    run_mode: RunMode = "auto"
    rank_scope: RankScope = "global"
    download_logs: bool = False
    kwargs: dict[str, Any] | None = None

    def init_arguments(self) -> dict[str, Any]:
        """What of it ``wandb.init`` is given."""
        given = asdict(self)
        more = given.pop("kwargs") or {}
        for ours in ("host", "run_mode", "rank_scope", "download_logs"):
            del given[ours]
        return {**more, **{key: value for key, value in given.items() if value is not None}}


@dataclass
class WandbSweepConfig(_Config):
    """What `wandb_sweep_config` makes. Other keys of a sweep's configuration are in ``kwargs``."""

    prefix: ClassVar[str] = "wandb_sweep"

    name: str | None = None
    method: str | None = None
    metric: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    project: str | None = None
    entity: str | None = None
    prior_runs: list[str] | None = None
    download_logs: bool = False
    kwargs: dict[str, Any] | None = None

    def to_sweep_config(self) -> dict[str, Any]:
        """What ``wandb.sweep`` is given as the sweep."""
        given = asdict(self)
        more = given.pop("kwargs") or {}
        for ours in ("project", "entity", "prior_runs", "download_logs"):
            del given[ours]
        return {key: value for key, value in {**given, **more}.items() if value is not None}


@dataclass
class MlflowConfig(_Config):
    """What `mlflow_config` makes. Other arguments of ``mlflow.start_run`` are in ``kwargs``."""

    prefix: ClassVar[str] = "mlflow"

    tracking_uri: str | None = None
    experiment_name: str | None = None
    experiment_id: str | None = None
    run_name: str | None = None
    run_id: str | None = None
    tags: dict[str, str] | None = None
    run_mode: MlflowRunMode = "auto"
    autolog: bool = False
    framework: str | None = None
    log_models: bool | None = None
    log_datasets: bool | None = None
    autolog_kwargs: dict[str, Any] | None = None
    link_host: str | None = None
    link_template: str | None = None
    kwargs: dict[str, Any] | None = field(default=None)


def wandb_config(
    project: str | None = None,
    entity: str | None = None,
    host: str | None = None,
    id: str | None = None,
    name: str | None = None,
    tags: list[str] | None = None,
    config: dict[str, Any] | None = None,
    mode: str | None = None,
    group: str | None = None,
    run_mode: RunMode = "auto",
    rank_scope: RankScope = "global",
    download_logs: bool = False,
    **kwargs: Any,
) -> WandbConfig:
    """W&B configuration for the tasks of a run, or of a ``with`` block.

    Args:
        host: URL of the W&B server; runs are sent there and links point there.
        id: id of the first run that is opened under this configuration; its children do not
            take it for runs of their own.
        run_mode, rank_scope, download_logs: as of `wandb_init`, whose arguments come first.
        kwargs: other arguments of ``wandb.init``. Secrets among them do not reach tasks.
    """
    return WandbConfig(
        project, entity, host, id, name, tags, config, mode, group, run_mode, rank_scope,
        download_logs, kwargs or None,
    )  # fmt: skip


def wandb_sweep_config(
    method: str | None = None,
    metric: dict[str, Any] | None = None,
    parameters: dict[str, Any] | None = None,
    project: str | None = None,
    entity: str | None = None,
    prior_runs: list[str] | None = None,
    name: str | None = None,
    download_logs: bool = False,
    **kwargs: Any,
) -> WandbSweepConfig:
    """The sweep that `wandb_sweep` creates.

    Args:
        name: of the sweep; by default the Flyte run's and action's names.
        kwargs: other keys of a W&B sweep configuration, such as ``early_terminate``.
    """
    return WandbSweepConfig(
        name, method, metric, parameters, project, entity, prior_runs, download_logs, kwargs or None
    )


def mlflow_config(
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    experiment_id: str | None = None,
    run_name: str | None = None,
    run_id: str | None = None,
    tags: dict[str, str] | None = None,
    run_mode: MlflowRunMode = "auto",
    autolog: bool = False,
    framework: str | None = None,
    log_models: bool | None = None,
    log_datasets: bool | None = None,
    autolog_kwargs: dict[str, Any] | None = None,
    link_host: str | None = None,
    link_template: str | None = None,
    **kwargs: Any,
) -> MlflowConfig:
    """MLflow configuration for the tasks of a run, or of a ``with`` block.

    Args:
        link_host: URL of MLflow's UI, for links.
        link_template: of a run's link, with {host}, {experiment_id} and {run_id}.
        kwargs: other arguments of ``mlflow.start_run``.

    Raises:
        ConfigError: arguments exclude each other.
    """
    only_one_of(experiment_name=experiment_name, experiment_id=experiment_id)
    only_one_of(run_name=run_name, run_id=run_id)
    return MlflowConfig(
        tracking_uri, experiment_name, experiment_id, run_name, run_id, tags, run_mode, autolog,
        framework, log_models, log_datasets, autolog_kwargs, link_host, link_template,
        kwargs or None,
    )  # fmt: skip


def only_one_of(**given: Any) -> None:
    """
    Raises:
        ConfigError: more than one is given.
    """
    names = [name for name, value in given.items() if value]
    if len(names) > 1:
        raise ConfigError(f"Cannot provide both {' and '.join(map(repr, names))}: use one of them")


def get_wandb_context() -> WandbConfig | None:
    """The W&B configuration that the running task was given, or None."""
    context = flyte.ctx().custom_context or {}
    ours = [key for key in context if key.startswith("wandb_")]
    if all(key.startswith("wandb_sweep_") for key in ours):
        return None
    return WandbConfig.from_dict(context)


def get_wandb_sweep_context() -> WandbSweepConfig | None:
    """The sweep configuration that the running task was given, or None."""
    context = flyte.ctx().custom_context or {}
    if not any(key.startswith("wandb_sweep_") for key in context):
        return None
    return WandbSweepConfig.from_dict(context)


def get_mlflow_context() -> MlflowConfig | None:
    """The MLflow configuration that the running task was given, or None."""
    context = flyte.ctx().custom_context or {}
    if not any(key.startswith("mlflow_") for key in context):
        return None
    return MlflowConfig.from_dict(context)


@contextmanager
def changed_context(
    add: Mapping[str, str] | None = None,
    drop: tuple[str, ...] = (),
    data: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Inside, the running task has another custom_context, which its children are given, and more
    data, which its traces see and its children do not. Outside a task nothing happens."""
    around = internal_ctx()
    task = around.data.task_context
    if task is None:
        yield
        return
    kept = {key: value for key, value in (task.custom_context or {}).items() if key not in drop}
    changed = task.replace(custom_context={**kept, **(add or {})}, data=dict(data or {}))
    with around.replace_task_context(changed):
        yield
