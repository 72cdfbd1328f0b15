"""Remove credentials, passwords, keys and tokens from what is stored or shown."""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "***"
_SECRET_KEYS = frozenset(
    {"api_key", "apikey", "access_token", "auth_token", "hf_token", "password", "secret", "token"}
)
_SECRET_VARIABLE = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)(_|$)")
_SHORTEST_SECRET = 8


def without_secrets(document: dict[str, Any]) -> dict[str, Any]:
    """Return ``document`` without secrets: passwords in URIs, values of keys with a secret's name,
    and values that this process's environment has under such a name."""
    hidden: dict[str, Any] = _shown(document, _secrets_of_environment())
    return hidden


def _shown(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {
            key: HIDDEN if _is_secret(str(key), below) else _shown(below, secrets)
            for key, below in value.items()
        }
    if isinstance(value, list):
        return [_shown(below, secrets) for below in value]
    if isinstance(value, str):
        return HIDDEN if any(map(value.__contains__, secrets)) else without_credentials(value)
    return value


def _is_secret(key: str, value: Any) -> bool:
    return key.lower() in _SECRET_KEYS and isinstance(value, str) and value != ""


def _secrets_of_environment() -> tuple[str, ...]:
    """Return secret values that an interpolation such as ``${oc.env:WANDB_API_KEY}`` would show."""
    return tuple(
        value
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name.upper()) and len(value) >= _SHORTEST_SECRET
    )


def without_credentials(uri: str) -> str:
    """Return ``uri`` without a user name or password: ``scheme://user:pw@host`` is ``scheme://host``.

    A password may contain ``@`` and ``/``, or be in the query; ``uri`` may be a whole sentence.
    """
    return _SECRET_IN_QUERY.sub(r"\1***", _SECRET_IN_AUTHORITY.sub("", uri))


_SECRET_IN_AUTHORITY = re.compile(r"(?<=://)(?:[^/\s]*@|[^/@:\s]*:(?!\d+/)[^@\s]*@)")
_SECRET_IN_QUERY = re.compile(r"([?&;](?:password|passwd|pwd|token|access_token|api_key)=)[^&;\s]+")
