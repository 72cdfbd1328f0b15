"""Where a W&B URI leads, and whose key opens it."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.sources.wandb_server.source import WandbServerSource
from mlflow_wandb_plugin.wandb_api.address import mode, project_address
from tests.support.environment import isolated
from tests.support.processes import run_script

KEY = "k" * 40
HOST = "wandb+http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, logged_out: None) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        ("me/digits", ("me", "digits", "")),
        ("me/digits/", ("me", "digits", "")),
        ("me/digits/abc123", ("me", "digits", "abc123")),
        ("me/digits/runs/abc123", ("me", "digits", "abc123")),
        ("me", ("me", "", "")),
        ("me/", ("me", "", "")),
        ("me/runs", ("me", "runs", "")),
        ("me/sweeps/abc", ("me", "sweeps", "abc")),
        ("me/my%20project/a%2Fb", ("me", "my project", "a/b")),
    ],
)
def test_a_uri_names_an_entity_a_project_or_a_run(rest: str, found: tuple[str, str, str]) -> None:
    """Parts may be percent-encoded, and a run's page may be pasted."""
    place = project_address(f"{HOST}/{rest}")
    assert (place.entity, place.project, place.run_id) == found
    assert (place.base_url, place.api_key) == ("http://127.0.0.1:9", KEY)


@pytest.mark.parametrize("rest", ["", "/", "/me//x", "/a/b/c/d", "/a/b/runs/c/d"])
def test_another_shape_is_refused_with_the_right_one(rest: str) -> None:
    """One line that shows what to pass."""
    with pytest.raises(UsageError, match=r"wandb://ENTITY\[/PROJECT\[/RUN\]\]"):
        project_address(HOST + rest)


def test_a_key_in_the_uri_is_refused_and_not_repeated() -> None:
    """A secret in a URI would end up in logs: the message does not hold it either."""
    with pytest.raises(UsageError, match="WANDB_API_KEY") as caught:
        project_address("wandb+https://user:hunter2@localhost/me/digits")
    assert "hunter2" not in str(caught.value)


def test_wandb_alone_means_the_server_that_wandb_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """WANDB_BASE_URL is heeded as wandb heeds it."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:7/")
    assert project_address("wandb://me/digits").base_url == "http://127.0.0.1:7"


def test_the_hook_opens_w_and_b_servers() -> None:
    """All three schemes are this source's, and opening sends nothing."""
    for uri in (f"{HOST}/me/digits", "wandb+https://localhost/me/digits", "wandb://me/digits"):
        assert isinstance(plugins.open_source(uri), WandbServerSource)


def test_the_key_is_found_in_the_netrc_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As `wandb login` leaves it, for that server only."""
    monkeypatch.delenv("WANDB_API_KEY")
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1:9\n  login user\n  password {'n' * 40}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert project_address(f"{HOST}/me/digits").api_key == "n" * 40
    with pytest.raises(UsageError, match="no API key"):
        project_address("wandb+http://127.0.0.1:8/me/digits")


def test_the_key_of_a_login_is_for_its_own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key in wandb's settings is used for the server in these settings only."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:8")
    assert mode()
    monkeypatch.delenv("WANDB_API_KEY")
    assert project_address("wandb://me/digits").api_key == KEY
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="no API key"):
        project_address("wandb://me/digits")


def test_the_key_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Printing a place, as a traceback might, leaves the key out."""
    print(project_address(f"{HOST}/me/digits"))
    assert KEY not in capsys.readouterr().out


def test_the_user_is_not_asked_for_a_key_even_at_a_terminal(tmp_path: Path) -> None:
    """Without a key there is one line and no prompt, with a terminal as standard input."""
    code = (
        "import os, sys\n"
        "os.dup2(os.open(os.environ['TERMINAL'], os.O_RDWR | os.O_NOCTTY), 0)\n"
        "assert sys.stdin.isatty()\n"
        "from mlflow_wandb_plugin import plugins\n"
        "from mlflow_wandb_plugin.errors import UsageError\n"
        "try:\n"
        f"    plugins.open_source('{HOST}/me/digits')\n"
        "except UsageError as error:\n"
        "    print('refused:', error)\n"
    )
    ours, theirs = pty.openpty()
    try:
        env = isolated(tmp_path, TERMINAL=os.ttyname(theirs), NETRC=str(tmp_path / "none"))
        done = run_script(code, env, tmp_path, timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout.startswith("refused: no API key for the W&B server http://127.0.0.1:9")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
