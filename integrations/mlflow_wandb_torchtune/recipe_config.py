"""A recipe's config in plain values, and as it may be shown: without secrets."""

from __future__ import annotations

import os
import re
from typing import Any

from mlflow_wandb_plugin.mapping import without_credentials

HIDDEN = "***"
_SECRET_KEYS = frozenset(
    {"api_key", "apikey", "access_token", "auth_token", "hf_token", "password", "secret", "token"}
)
_SECRET_VARIABLE = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)(_|$)")
_SHORTEST_SECRET = 8


def resolved(config: Any) -> dict[str, Any]:
    """The config with its interpolations filled in, as far as they can be."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        document: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:
        document = OmegaConf.to_container(config, resolve=False)
    return document


def shown(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` without passwords in URIs, keys and tokens."""
    without: dict[str, Any] = _shown(document, _secrets_of_environment())
    return without


def as_yaml(config: Any) -> str:
    """The config as it was written, interpolations and all, so that ``tune run --config`` takes it;
    without secrets."""
    from omegaconf import OmegaConf

    document = OmegaConf.to_container(config, resolve=False)
    text: str = OmegaConf.to_yaml(OmegaConf.create(shown(document)))
    return text


def plain(value: Any) -> Any:
    """An argument that torchtune took from a config: OmegaConf's containers as dicts and lists."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _shown(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _shown_at(str(key), below, secrets) for key, below in value.items()}
    if isinstance(value, list):
        return [_shown(below, secrets) for below in value]
    if isinstance(value, str):
        if any(secret in value for secret in secrets):
            return HIDDEN
        return without_credentials(value)
    return value


def _shown_at(key: str, value: Any, secrets: tuple[str, ...]) -> Any:
    if key.lower() in _SECRET_KEYS and isinstance(value, str) and value:
        return HIDDEN
    return _shown(value, secrets)


def _secrets_of_environment() -> tuple[str, ...]:
    """What an interpolation such as ``${oc.env:WANDB_API_KEY}`` would bring into the open."""
    return tuple(
        value
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name.upper()) and len(value) >= _SHORTEST_SECRET
    )
