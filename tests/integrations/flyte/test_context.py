"""Configuration survives its way through Flyte's custom_context, and secrets do not enter it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_wandb_flyte import (
    get_mlflow_context,
    get_wandb_context,
    get_wandb_sweep_context,
    mlflow_config,
    wandb_config,
    wandb_sweep_config,
)
from mlflow_wandb_flyte.context import MlflowConfig, WandbConfig, WandbSweepConfig
from mlflow_wandb_plugin.errors import MlflowWandbError

texts = st.one_of(st.text(min_size=1, max_size=8), st.sampled_from(["123", "1e5", "null", "true"]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=4,
)
tables = st.dictionaries(st.sampled_from(["a", "b", "c"]), values, max_size=3)


@given(project=texts, id=texts, name=texts, tags=st.lists(texts), config=tables, notes=values)
def test_a_wandb_config_is_decoded_as_it_was(**fields: Any) -> None:
    """Text stays text, whatever number it looks like; the rest is JSON."""
    config = wandb_config(**fields)
    context = config.to_dict()
    assert all(isinstance(value, str) for value in context.values())
    assert WandbConfig.from_dict(context) == config


@given(project=texts, method=texts, parameters=tables, early_terminate=tables)
def test_a_sweep_config_is_decoded_as_it_was(**fields: Any) -> None:
    """Its keys do not meet those of `wandb_config`."""
    config = wandb_sweep_config(**fields)
    context = {**wandb_config(project="other", name="n").to_dict(), **config.to_dict()}
    assert WandbSweepConfig.from_dict(context) == config


@given(
    experiment_id=texts,
    run_name=texts,
    tags=st.dictionaries(texts, texts),
    log_models=st.booleans(),
)
def test_an_mlflow_config_is_decoded_as_it_was(**fields: Any) -> None:
    """An experiment id of digits stays text."""
    config = mlflow_config(**fields)
    assert MlflowConfig.from_dict(config.to_dict()) == config


def test_keys_are_those_of_the_upstream_plugins() -> None:
    """Flat strings under `wandb_`, `wandb_sweep_` and `mlflow_`."""
    config = wandb_config(project="p", tags=["t"], download_logs=True, job_type="train")
    assert dict(config) == {
        "wandb_project": "p", "wandb_tags": '["t"]', "wandb_run_mode": "auto",
        "wandb_rank_scope": "global", "wandb_download_logs": "true",
        "wandb_kwargs": '{"job_type": "train"}',
    }  # fmt: skip
    assert (config["wandb_project"], config.get("nothing", 1)) == ("p", 1)
    assert dict(wandb_sweep_config(method="grid"))["wandb_sweep_method"] == "grid"
    assert dict(mlflow_config(autolog=True))["mlflow_autolog"] == "true"


def test_what_wandb_init_is_given() -> None:
    """Named arguments and others alike; what is Flyte's own is not among them."""
    config = wandb_config(project="p", host="https://h", run_mode="new", notes="n", id=None)
    assert config.init_arguments() == {"project": "p", "notes": "n"}
    swept = wandb_sweep_config(method="grid", project="p", early_terminate={"a": 1})
    assert swept.to_sweep_config() == {"method": "grid", "early_terminate": {"a": 1}}


def test_secrets_do_not_enter_the_context(caplog: pytest.LogCaptureFixture) -> None:
    """Keys and passwords are left out, deep inside or in a URI, and it is said."""
    config = wandb_config(
        project="p",
        settings={"api_key": "s3cret", "base_url": "https://me:s3cret@h.example"},
        config={"login": {"password": "s3cret", "token_limit": 5}, "WANDB_API_KEY": "s3cret"},
    )
    uri = mlflow_config(
        tracking_uri="postgresql://me:s3cret@db.example/ml", link_host="http://a:s3cret@h"
    )
    with caplog.at_level(logging.WARNING):
        context = {**config, **uri}
    assert "s3cret" not in json.dumps(context)
    assert "s3cret" not in caplog.text
    assert "flyte.Secret" in caplog.text
    assert json.loads(context["wandb_config"]) == {"login": {"token_limit": 5}}
    assert json.loads(context["wandb_kwargs"])["settings"] == {"base_url": "https://h.example"}


def test_what_is_no_json_is_refused() -> None:
    """The error names the field."""
    with pytest.raises(ValueError, match="'config' must be JSON-serializable"):
        wandb_config(config={"a": object()}).to_dict()


def test_arguments_that_exclude_each_other_are_refused() -> None:
    """Of an experiment's or a run's name and id there is one."""
    with pytest.raises(ValueError, match="experiment_name"):
        mlflow_config(experiment_name="a", experiment_id="1")
    with pytest.raises(MlflowWandbError, match="run_name"):
        mlflow_config(run_name="a", run_id="1")


def test_outside_of_a_task_there_is_no_configuration() -> None:
    """A with block outside of a task changes nothing and fails nowhere."""
    with wandb_config(project="p") as config, mlflow_config():
        assert config.project == "p"
        assert get_wandb_context() is None
        assert get_mlflow_context() is None
        assert get_wandb_sweep_context() is None
        config["wandb_x"] = "y"
        config.update(a="b")
        assert config.pop("wandb_project", "d") == "d"
