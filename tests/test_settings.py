"""Settings: arguments before variables before defaults, each of its own type."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature

import pytest

from mlflow_wandb_plugin.core import messages
from mlflow_wandb_plugin.core.training_settings import load_settings
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.settings import CHOICES, PREFIX, Settings


def test_nothing_given_means_the_defaults() -> None:
    """An empty environment, and variables that are set but empty, change nothing."""
    assert Settings.load({}) == Settings()
    assert Settings.load({PREFIX + "LINGER": "", PREFIX + "HOMES": ""}) == Settings()


def test_arguments_win_over_variables() -> None:
    """And None means that an argument was not given."""
    environ = {PREFIX + "EXPERIMENT": "from the environment", PREFIX + "LINGER": "5"}
    settings = Settings.load(environ, experiment="argument", linger=None)
    assert (settings.experiment, settings.linger) == ("argument", 5.0)


def test_no_setting_takes_an_argument_of_wandbs_init() -> None:
    """`dual_write` hands to `wandb.init` what is not a setting."""
    import wandb

    assert not {field.name for field in fields(Settings)} & {*signature(wandb.init).parameters}


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_every_field_is_a_variable(field: object) -> None:
    """Its value has the type of the default."""
    name = field.name  # type: ignore[attr-defined]
    default = getattr(Settings(), name)
    variable = "MLFLOW_WANDB_ACTIVE" if name == "mlflow_active" else PREFIX + name.upper()
    texts: dict[type, str] = {float: "12.5", bool: "1", str: "text"}
    text = CHOICES[name][-1] if name in CHOICES else texts[type(default)]
    value = getattr(Settings.load({variable: text}), name)
    assert value == type(default)(text)
    assert type(value) is type(default)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({PREFIX + "HOMES": "nowhere"}, "MLFLOW_WANDB_HOMES must be one of both, wandb, mlflow"),
        ({PREFIX + "LINGER": "soon"}, "MLFLOW_WANDB_LINGER must be a float: not 'soon'"),
        ({PREFIX + "ACTIVE": "perhaps"}, "MLFLOW_WANDB_ACTIVE must be 1 or 0: not 'perhaps'"),
    ],
)
def test_a_value_that_does_not_fit_names_its_variable(
    environ: dict[str, str], message: str
) -> None:
    """The user sees what to change."""
    with pytest.raises(UsageError, match=message):
        Settings.load(environ)


def test_an_unknown_setting_is_an_error() -> None:
    """A misspelt argument is not silently ignored."""
    with pytest.raises(UsageError, match="no such setting: tracking_url"):
        Settings.load({}, tracking_url="x")


@pytest.mark.parametrize("value", ["-1", "nan", "soon"])
def test_a_malformed_variable_does_not_stop_training(
    value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is shown, and its default is used; the other settings count."""
    monkeypatch.setattr(messages, "_shown", set())
    monkeypatch.setenv(PREFIX + "INIT_TIMEOUT", value)
    monkeypatch.setenv(PREFIX + "EXPERIMENT", "mine")
    settings = load_settings(linger=7)
    assert settings == Settings(experiment="mine", linger=7.0)
    assert f"{PREFIX}INIT_TIMEOUT must be" in caplog.text
    with pytest.raises(UsageError, match="INIT_TIMEOUT"):
        load_settings(init_timeout=value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("1", True), ("TRUE", True), ("on", True), ("0", False), ("no", False), (True, True)],
)
def test_a_setting_that_is_on_or_off(given: object, meant: bool) -> None:
    """As an argument and as a variable, where "0" is off."""
    assert Settings.load({}, mlflow_active=given).mlflow_active is meant
    assert Settings.load({PREFIX + "ACTIVE": str(given)}).mlflow_active is meant
