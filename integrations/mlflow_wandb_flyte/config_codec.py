"""Encode configuration as the strings of Flyte's custom_context, without secrets."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mlflow_wandb_plugin.core.arguments import ArgumentValueError
from mlflow_wandb_plugin.core.redaction import without_credentials

logger = logging.getLogger(__name__)

TEXTS = ("str | None", "RunMode", "RankScope", "MlflowRunMode")
"""Types, as the source has them, of the fields that are text."""
_SECRET = re.compile(
    r"(^|[_-])(api_?key|password|passwd|secret|secret_key|access_token|auth_token|identity_token"
    r"|bearer_token|credentials)$",
    re.IGNORECASE,
)


def encode(config: Any, prefix: str) -> dict[str, str]:
    """Encode the fields of a dataclass that are not None as ``prefix_field`` strings.

    A str stays as it is; everything else becomes JSON. Secrets are left out with a warning, because
    Flyte stores the context in plain text and passes it to every child.

    Raises:
        ArgumentValueError: a value cannot be written as JSON.
    """
    encoded = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if value is None:
            continue
        value = without_secrets(value, f"{prefix}_{field.name}")
        try:
            text = value if isinstance(value, str) else json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ArgumentValueError(
                f"{prefix} config field '{field.name}' must be JSON-serializable "
                f"to reach child tasks: {error}"
            ) from error
        encoded[f"{prefix}_{field.name}"] = text
    return encoded


def decode(config: type[Any], context: Mapping[str, str], prefix: str) -> Any:
    """Decode what `encode` returned; keys that are no field are ignored.

    The type of a field decides how its string is read: a project called "123" stays a str.
    """
    values = {}
    for field in fields(config):
        if (text := context.get(f"{prefix}_{field.name}")) is not None:
            values[field.name] = text if field.type in TEXTS else _parsed(text)
    return config(**values)


def without_secrets(value: Any, where: str) -> Any:
    """Return ``value`` without secret entries and without credentials in URIs."""
    if isinstance(value, Mapping):
        kept = {}
        for key, inner in value.items():
            if _SECRET.search(str(key)):
                _warn(f"{where}.{key}")
            else:
                kept[key] = without_secrets(inner, f"{where}.{key}")
        return kept
    if isinstance(value, str) and "://" in value and without_credentials(value) != value:
        _warn(where)
        return without_credentials(value)
    return value


def _warn(where: str) -> None:
    logger.warning(
        "%s holds a secret and is not passed to tasks: Flyte stores the context in plain text; "
        "use flyte.Secret(key=..., as_env_var=...)",
        where,
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, TypeError):
        return text
