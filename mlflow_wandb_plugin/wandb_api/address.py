"""Find a W&B project's address and API key as wandb finds them, without asking the user."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from mlflow_wandb_plugin.errors import UsageError

_TARGET_SHAPE = "wandb://ENTITY[/PROJECT] or wandb+https://HOST/ENTITY[/PROJECT]"
_SHAPE = "wandb://ENTITY[/PROJECT[/RUN]] or wandb+https://HOST/ENTITY[/PROJECT[/RUN]]"


@dataclass(frozen=True, slots=True)
class ProjectAddress:
    """Address of a project of a W&B server, or of one run of it.

    Attributes:
        base_url, app_url: URLs of the API and of the web pages, without a trailing slash.
        project: empty for all projects of the entity.
        run_id: empty for the whole project.
    """

    base_url: str
    app_url: str
    entity: str
    project: str
    run_id: str = ""
    api_key: str = field(default="", repr=False)

    @property
    def path(self) -> str:
        """W&B's path of the project."""
        return f"{self.entity}/{self.project}"

    def run_url(self, run_id: str) -> str:
        """Return the URL of a run's page."""
        parts = (self.entity, self.project, "runs", run_id)
        return "/".join([self.app_url, *(quote(part, safe="") for part in parts)])


def project_address(uri: str) -> ProjectAddress:
    """Parse a W&B URI and find the API key for its server.

    Raises:
        UsageError: the URI is malformed, or there is no key for the server.
    """
    base_url, rest = _server_and_rest(uri)
    parts = [unquote(part) for part in rest.strip("/").split("/")]
    if len(parts) == 4 and parts[2] == "runs":
        # The URL of a run's page has this form.
        del parts[2]
    if len(parts) not in (1, 2, 3) or not all(parts):
        raise UsageError(f"{uri} does not name a W&B entity or project: pass {_SHAPE}")
    entity, project, run_id = (*parts, "", "")[:3]
    app_url, key = _app_url(base_url), find_api_key(base_url)
    return ProjectAddress(base_url, app_url, entity, project, run_id, key)


TARGET_KEY = "MLFLOW_WANDB_TARGET_API_KEY"


def target_address(uri: str) -> ProjectAddress:
    """Parse the URI of a W&B target, ``wandb://ENTITY[/PROJECT]``, and find the key for its server.

    ``WANDB_API_KEY`` is for the server that wandb uses: another one never gets it.

    Raises:
        UsageError: the URI is malformed, or there is no key for the server.
    """
    base_url, rest = _server_and_rest(uri)
    parts = [unquote(part) for part in rest.strip("/").split("/")]
    if len(parts) not in (1, 2) or not all(parts):
        raise UsageError(f"{uri} names no place for runs: pass {_TARGET_SHAPE}")
    entity, project = (*parts, "")[:2]
    return ProjectAddress(base_url, _app_url(base_url), entity, project, "", _target_key(base_url))


def target_server(base_url: str = "", api_key: str = "") -> ProjectAddress:
    """Address of a W&B server to write to, without entity and project.

    Args:
        base_url: of its API; empty means the server that wandb itself uses.
        api_key: empty means the one that `target_address` finds.

    Raises:
        UsageError: the URL is malformed, or there is no key for the server.
    """
    base_url = _checked(base_url) if base_url else default_server()
    return server_address(base_url, api_key or _target_key(base_url))


def server_address(base_url: str, api_key: str) -> ProjectAddress:
    """Address of a W&B server whose key is known, without entity and project.

    Raises:
        UsageError: the URL is malformed, or the key is empty.
    """
    base_url = _checked(base_url)
    if not api_key:
        raise UsageError(f"no API key for the W&B server {base_url}: pass one")
    return ProjectAddress(base_url, _app_url(base_url), "", "", "", api_key)


def _checked(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        # The URL is not repeated: it may hold a key.
        raise UsageError("a W&B server's URL is https://HOST, without user and key")
    return base_url.rstrip("/")


def _target_key(base_url: str) -> str:
    key = os.environ.get(TARGET_KEY) or ""
    if not key and base_url == default_server():
        key = os.environ.get("WANDB_API_KEY") or ""
    key = key or _netrc_key(base_url) or _login_key(base_url) or ""
    if not key:
        raise UsageError(
            f"no API key for the W&B server {base_url}, which runs are to be written to: set "
            f"{TARGET_KEY}, or run `wandb login --host {base_url}`"
        )
    return key


def _server_and_rest(uri: str) -> tuple[str, str]:
    if uri.startswith("wandb://"):
        return default_server(), uri.removeprefix("wandb://")
    parts = urlsplit(uri.removeprefix("wandb+"))
    if not parts.hostname:
        raise UsageError(f"{uri} names no host: pass {_SHAPE}")
    if "@" in parts.netloc:
        raise UsageError(
            "a W&B URI takes no user or key: set WANDB_API_KEY or run `wandb login --host HOST`"
        )
    return f"{parts.scheme}://{parts.netloc}", parts.path


def find_api_key(base_url: str) -> str:
    """Return the API key for a server, from WANDB_API_KEY, the netrc file or wandb's settings.

    Raises:
        UsageError: there is none. The user is not asked for it, even at a terminal.
    """
    key = os.environ.get("WANDB_API_KEY") or _netrc_key(base_url) or _login_key(base_url)
    if not key:
        raise UsageError(
            f"no API key for the W&B server {base_url}: set WANDB_API_KEY, "
            f"or run `wandb login --host {base_url}`"
        )
    return key


def _netrc_key(base_url: str) -> str | None:
    try:
        from wandb.sdk.lib.wbauth import wbnetrc
    except ImportError:
        # Up to wandb 0.23, which read the file through requests.
        from requests.utils import get_netrc_auth

        found = get_netrc_auth(base_url)
        return found[1] if found else None
    from wandb.errors import AuthenticationError

    try:
        key: str | None = wbnetrc.read_netrc_auth(host=base_url)
    except (AuthenticationError, ValueError) as error:
        raise UsageError(f"the API key in the netrc file is invalid: {error}") from error
    return key


def _login_key(base_url: str) -> str | None:
    """Return the key in wandb's settings if it is for this server."""
    settings = _settings()
    key: str | None = settings.api_key
    return key if settings.base_url.rstrip("/") == base_url else None


def _app_url(base_url: str) -> str:
    from wandb import util

    # wandb 0.30 renamed the function, and deprecates the old name.
    derived = getattr(util, "api_to_app_url", None) or util.app_url
    url: str = os.environ.get("WANDB_APP_URL") or derived(base_url)
    return url.rstrip("/")


def default_server() -> str:
    """Return the URL of the server that wandb itself uses, without a trailing slash."""
    url: str = os.environ.get("WANDB_BASE_URL") or _settings().base_url
    return url.rstrip("/")


def mode() -> str:
    """Return the mode in wandb's settings: online, offline, disabled, …"""
    return str(_settings().mode)


def wandb_folder() -> Path:
    """Return the folder in which wandb creates run folders."""
    return Path(_settings().wandb_dir).absolute()


def _settings() -> Any:
    """Return wandb's settings, from the environment, its files, and this process's login."""
    from wandb.sdk import wandb_setup

    return wandb_setup.singleton().settings
