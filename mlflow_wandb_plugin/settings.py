"""All settings: from arguments, else MLFLOW_WANDB_* variables, else defaults."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from mlflow_wandb_plugin.errors import UsageError

Homes: TypeAlias = Literal["both", "wandb", "mlflow"]
Steps: TypeAlias = Literal["defined", "wandb"]

PREFIX = "MLFLOW_WANDB_"
CHOICES: Mapping[str, tuple[str, ...]] = {"homes": get_args(Homes), "steps": get_args(Steps)}
"""The values that a setting may have, where they are few."""
OTHER_VARIABLES = {"mlflow_active": "ACTIVE"}
"""Fields whose variable does not have their name, with what follows `PREFIX` in it."""
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
"""The texts of a setting that is true or false, in lower case."""
SECRETS_SHOWN = "off"
"""The value of `Settings.secret_names` with which no value is hidden."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings. `variable_of` names the variable of a field.

    Attributes:
        homes: where runs are kept: "both"; "wandb" (the package does nothing); or "mlflow" (wandb
            runs offline, and its local files are removed once MLflow has everything).
        tracking_uri: MLflow's tracking URI; empty means MLflow's own setting.
        experiment: template of the experiment's name, with {entity} and {project}.
        init_timeout: seconds that ``wandb.init`` waits for the MLflow run id, which is otherwise
            printed and added to the config as soon as it is known.
        finish_timeout: seconds that ``finish()`` waits until MLflow has the run.
        linger: seconds for which the replicator retries to reach MLflow after the training process
            has ended; ``mlflow-wandb sync`` or the next start delivers the rest.
        journal_dir: folder of the journals; empty means ``mlflow`` inside wandb's own folder.
        mirror_project: template of the W&B project of a run that is created in MLflow, with
            {experiment}.
        mirror_wait: seconds that a process that mirrors waits at its end until W&B has its runs;
            for containers, in which the replicator ends with the process.
        mirror_entity: W&B entity of such runs; empty means ``WANDB_ENTITY``, else W&B's default.
        secret_names: names of config keys and options, separated by commas, whose values are
            secrets beside those known by their name or form; `SECRETS_SHOWN` hides nothing.
        steps: what MLflow's steps of a new run are: "defined", the values of the step metric that
            `define_metric` gives to a key, or "wandb", W&B's own steps.
        mlflow_active: whether a W&B run's replica is MLflow's active run while the W&B run is open.
    """

    homes: Homes = "both"
    tracking_uri: str = ""
    experiment: str = "{project}"
    init_timeout: float = 0.1
    finish_timeout: float = 60.0
    linger: float = 30.0
    journal_dir: str = ""
    mirror_project: str = "{experiment}"
    mirror_entity: str = ""
    mirror_wait: float = 0.0
    secret_names: str = ""
    steps: Steps = "defined"
    mlflow_active: bool = False

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        malformed: Callable[[UsageError], object] | None = None,
        **arguments: Any,
    ) -> Settings:
        """Make settings from ``arguments`` (None means "not given"), the environment and defaults.

        Args:
            malformed: is called with the error of a malformed variable, whose default is then used.

        Raises:
            UsageError: a setting is unknown or its value is malformed; the message names it.
        """
        environ = os.environ if environ is None else environ
        known = {field.name for field in fields(cls)}
        unknown = set(arguments) - known
        if unknown:
            raise UsageError(f"no such setting: {', '.join(sorted(unknown))}")
        values: dict[str, Any] = {}
        for field in fields(cls):
            given, variable = arguments.get(field.name), environ.get(variable_of(field.name))
            try:
                if given is not None or variable:
                    value = variable if given is None else given
                    values[field.name] = _converted(field.name, field.default, value)
            except UsageError as error:
                if given is not None or malformed is None:
                    raise
                malformed(error)
        return cls(**values)


def variable_of(name: str) -> str:
    """Return the environment variable of the field ``name``."""
    return PREFIX + OTHER_VARIABLES.get(name, name.upper())


def _converted(name: str, default: Any, given: Any) -> Any:
    kind, variable = type(default), variable_of(name)
    if name in CHOICES and given not in CHOICES[name]:
        raise UsageError(f"{variable} must be one of {', '.join(CHOICES[name])}: not {given!r}")
    if kind is bool:
        return _truth(variable, given)
    try:
        value = kind(given)
    except (TypeError, ValueError):
        raise UsageError(f"{variable} must be a {kind.__name__}: not {given!r}") from None
    if isinstance(value, float) and not value >= 0:
        raise UsageError(f"{variable} must be a number of seconds, not less than 0: not {given!r}")
    return value


def _truth(variable: str, given: Any) -> bool:
    text = str(given).lower()
    if text not in (*TRUE, *FALSE):
        raise UsageError(f"{variable} must be 1 or 0: not {given!r}")
    return text in TRUE
