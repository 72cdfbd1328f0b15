"""Keys on the node at hand: found, or missed in one line that says what to do."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_ray.credentials import check_mlflow, provide_wandb_key

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logged_out: None) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("WANDB_API_KEY", "WANDB_API_KEY_FILE", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("DATABRICKS_HOST", "DATABRICKS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_no_key_is_one_line_that_says_what_to_do() -> None:
    """It names the node, what wandb would have said, and the ways to a key that keep it secret."""
    with pytest.raises(UsageError) as caught:
        provide_wandb_key({})
    said = str(caught.value)
    assert "\n" not in said
    assert os.uname().nodename in said
    for part in (
        "api_key not configured",
        "WANDB_API_KEY_FILE",
        "api_key_file=",
        "http://127.0.0.1:9",
    ):
        assert part in said
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_run_that_is_offline_needs_no_key(mode: str) -> None:
    """Offline, credentials are no one's business."""
    provide_wandb_key({"mode": mode})
    assert "WANDB_API_KEY" not in os.environ


def test_keys_are_taken_in_rays_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments stand over the environment's key, that over the file that a variable names,
    and that over the function that Ray's variable names. Of a file the first line counts."""
    file, other = tmp_path / "key", tmp_path / "other"
    file.write_text(f"{KEY}\nsomething else\n")
    other.write_text("of the variable\n")
    monkeypatch.setenv("WANDB_API_KEY_FILE", "~/other")
    monkeypatch.setenv("WANDB_SETUP_API_KEY_HOOK", f"{__name__}.key_of_hook")

    def taken(in_environment: str, **given: str) -> str:
        monkeypatch.setenv("WANDB_API_KEY", in_environment)
        provide_wandb_key({}, **given)
        return os.environ["WANDB_API_KEY"]

    assert taken("the environment's", key_file=str(file)) == KEY
    assert taken("the environment's", key="the argument's") == "the argument's"
    assert taken("the environment's") == "the environment's"
    assert taken("") == "of the variable"
    monkeypatch.delenv("WANDB_API_KEY_FILE")
    assert taken("") == "of the hook"
    with pytest.raises(ValueError, match="both api_key and api_key_file"):
        taken("", key="one", key_file=str(file))


def key_of_hook() -> str:
    return "of the hook"


def test_a_key_in_the_netrc_file_is_enough(tmp_path: Path) -> None:
    """As `wandb login` leaves it on this node."""
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1:9\n  login user\n  password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    provide_wandb_key({})


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_a_key_file_of_no_use_is_named(tmp_path: Path, content: str | None) -> None:
    """One that is missing on this node, or empty."""
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match="the W&B key file "):
        provide_wandb_key({}, key_file=str(file))


def test_databricks_without_configuration_is_one_line(tmp_path: Path) -> None:
    """It names the node's file and how to share it; other servers are not asked."""
    with pytest.raises(UsageError) as caught:
        check_mlflow("databricks")
    said = str(caught.value)
    assert "\n" not in said
    assert "You haven't configured the CLI yet!" in said
    assert "databricks_config_file=" in said
    check_mlflow("http://host:5000")
    shared = tmp_path / "shared.cfg"
    shared.write_text("[DEFAULT]\nhost = https://x\ntoken = y\n")
    check_mlflow("databricks", str(shared))
    assert os.environ["DATABRICKS_CONFIG_FILE"] == str(shared)


def test_the_callbacks_take_no_key_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray sends to the controller, and Tune writes beside the experiment, holds the driver's
    settings without keys, passwords in URIs and tokens, also where they were arguments."""
    from mlflow_wandb_ray import DualLoggerCallback, DualTrainCallback

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:open-sesame@host/")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    given = {"api_key": KEY, "tracking_token": "a-token"}
    for callback in (DualTrainCallback(), DualLoggerCallback("mine", **given)):
        sent = pickle.dumps(callback)
        assert b"mine" in sent
        for secret in (KEY, "open-sesame", "a-token"):
            assert secret.encode() not in sent
