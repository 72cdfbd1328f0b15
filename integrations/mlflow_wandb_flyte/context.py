"""Configuration for child tasks: `wandb_config`, `wandb_sweep_config` and `mlflow_config`.

Each returns a dataclass that unpacks like a dict into Flyte's custom_context, and that is a context
manager that adds itself to the custom_context of the tasks called inside it.
"""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterator, KeysView, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

import flyte
from flyte._context import internal_ctx

from mlflow_wandb_flyte.config_codec import decode, encode
from mlflow_wandb_plugin.core.arguments import ArgumentValueError, check_arguments, check_choice

RunMode: TypeAlias = Literal["auto", "new", "shared"]
RankScope: TypeAlias = Literal["global", "worker"]
MlflowRunMode: TypeAlias = Literal["auto", "new", "nested"]
TrackRunMode: TypeAlias = Literal["auto", "new", "shared", "nested"]
OnBackendError: TypeAlias = Literal["raise", "warn"]

Config = TypeVar("Config", bound="_Config")


class _Config:
    """The dict protocol and the context manager of a configuration."""

    prefix: ClassVar[str]
    _entered: ExitStack

    def to_dict(self) -> dict[str, str]:
        """Return the strings for Flyte's custom_context."""
        return encode(self, self.prefix)

    @classmethod
    def from_dict(cls: type[Config], context: Mapping[str, str]) -> Config:
        """Return the configuration in a custom_context."""
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

    # The next four methods change the custom_context of the running task, if there is one.

    def __setitem__(self, key: str, value: str) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        if context := flyte.ctx().custom_context:
            del context[key]

    def pop(self, key: str, default: Any = None) -> Any:
        return (flyte.ctx().custom_context or {}).pop(key, default)

    def update(self, *args: Any, **kwargs: str) -> None:
        if (context := flyte.ctx().custom_context) is not None:
            context.update(*args, **kwargs)

    def arguments(self, *without: str) -> dict[str, Any]:
        """Return the fields and ``kwargs`` that are set, except the fields ``without``."""
        given = asdict(self)  # type: ignore[call-overload]
        given |= given.pop("kwargs") or {}
        named = {key: value for key, value in given.items() if key not in without}
        return {key: value for key, value in named.items() if value is not None}

    def __enter__(self: Config) -> Config:
        self._entered = ExitStack()
        # Entries of the surrounding configuration that this one does not set stay in force.
        self._entered.enter_context(flyte.custom_context(**self.to_dict()))
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()


@dataclass
class WandbConfig(_Config):
    """What `wandb_config` returns. Other arguments of ``wandb.init`` are in ``kwargs``."""

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
        """Return the arguments for ``wandb.init``."""
        return self.arguments("host", "run_mode", "rank_scope", "download_logs")


@dataclass
class WandbSweepConfig(_Config):
    """What `wandb_sweep_config` returns. Other keys of a W&B sweep are in ``kwargs``."""

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
        """Return the sweep for ``wandb.sweep``."""
        return self.arguments("project", "entity", "prior_runs", "download_logs")


@dataclass
class MlflowConfig(_Config):
    """What `mlflow_config` returns. Other arguments of ``mlflow.start_run`` are in ``kwargs``."""

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
    kwargs: dict[str, Any] | None = None


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
    """Return W&B configuration for the tasks of a Flyte run, or of a ``with`` block.

    Args:
        host: URL of the W&B server; runs are sent there and links point there.
        id: id of the first run that is opened under this configuration; child tasks do not use
            it for runs of their own.
        run_mode, rank_scope, download_logs: as of `wandb_init`, whose arguments take precedence.
        kwargs: other arguments of ``wandb.init``. Secrets among them do not reach tasks.

    Raises:
        UnknownArgumentError, ArgumentValueError: an argument is unknown, or cannot have this value.
    """
    given = locals() | {"kwargs": kwargs or None}
    check_wandb_arguments("wandb_config", kwargs, run_mode, rank_scope)
    return WandbConfig(**given)


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
    """Return the sweep that `wandb_sweep` is to create.

    Args:
        name: of the sweep; by default the Flyte run's and action's names.
        kwargs: other keys of a W&B sweep configuration, such as ``early_terminate``.
    """
    return WandbSweepConfig(**locals() | {"kwargs": kwargs or None})


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
    """Return MLflow configuration for the tasks of a Flyte run, or of a ``with`` block.

    Args:
        link_host: URL of MLflow's UI, for links.
        link_template: of a run's link, with {host}, {experiment_id} and {run_id}.
        kwargs: other arguments of ``mlflow.start_run``.

    Raises:
        UnknownArgumentError, ArgumentValueError: an argument is unknown, cannot have this value, or
            excludes another one.
    """
    given = locals() | {"kwargs": kwargs or None}
    check_mlflow_arguments("mlflow_config", kwargs, given)
    return MlflowConfig(**given)


def check_wandb_arguments(
    name: str,
    given: Mapping[str, Any],
    run_mode: str | None,
    rank_scope: str | None,
    of_track: Collection[str] = (),
) -> None:
    """Check what ``name``, a function of this package, is given for ``wandb.init``.

    Args:
        of_track: other arguments of `track`, which takes more; empty for the others.

    Raises:
        UnknownArgumentError, ArgumentValueError: an argument is unknown, or cannot have this value.
    """
    import wandb

    check_arguments(name, given, wandb.init, of_track)
    modes = get_args(TrackRunMode if of_track else RunMode)
    check_choice(f"{name}(run_mode=…)", run_mode, (None, *modes))
    check_choice(f"{name}(rank_scope=…)", rank_scope, (None, *get_args(RankScope)))
    # A task's run lives beside those of other tasks in its process.
    check_choice(f"{name}(reinit=…)", given.get("reinit"), (None, "default", "create_new"))


def check_mlflow_arguments(
    name: str, kwargs: Collection[str], given: Mapping[str, Any], also: Collection[str] = ()
) -> None:
    """Check what ``name``, a function of this package, is given for ``mlflow.start_run``.

    Args:
        kwargs: names of arguments that it does not have itself.
        given: all arguments. An experiment, and a run, is named by its name or its id.

    Raises:
        UnknownArgumentError, ArgumentValueError: as for `check_wandb_arguments`.
    """
    check_choice(f"{name}(run_mode=…)", given["run_mode"], get_args(MlflowRunMode))
    for names in (("experiment_name", "experiment_id"), ("run_name", "run_id")):
        if all(map(given.get, names)):
            both = " and ".join(map(repr, names))
            raise ArgumentValueError(f"Cannot provide both {both}: use one of them")
    if set(kwargs) - set(also):
        import mlflow

        check_arguments(name, kwargs, mlflow.start_run, also)


def get_wandb_context() -> WandbConfig | None:
    """Return the running task's W&B configuration, or None."""
    context = flyte.ctx().custom_context or {}
    ours = [key for key in context if key.startswith("wandb_")]
    if all(key.startswith("wandb_sweep_") for key in ours):
        return None
    return WandbConfig.from_dict(context)


def get_wandb_sweep_context() -> WandbSweepConfig | None:
    """Return the running task's sweep configuration, or None."""
    return _configured(WandbSweepConfig)


def get_mlflow_context() -> MlflowConfig | None:
    """Return the running task's MLflow configuration, or None."""
    return _configured(MlflowConfig)


def _configured(config: type[Config]) -> Config | None:
    context = flyte.ctx().custom_context or {}
    found = any(key.startswith(f"{config.prefix}_") for key in context)
    return config.from_dict(context) if found else None


@contextmanager
def changed_context(
    add: Mapping[str, str] | None = None,
    drop: tuple[str, ...] = (),
    data: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Change what the running task passes on; outside a task nothing happens.

    Args:
        add, drop: changes of the custom_context, which child tasks inherit.
        data: more data of the task, which its traces see and its children do not.
    """
    outer = internal_ctx()
    if (task := outer.data.task_context) is None:
        yield
        return
    kept = {key: value for key, value in (task.custom_context or {}).items() if key not in drop}
    changed = task.replace(custom_context={**kept, **(add or {})}, data=dict(data or {}))
    with outer.replace_task_context(changed):
        yield
