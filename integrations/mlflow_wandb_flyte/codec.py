"""Configuration as strings: what Flyte's custom_context carries to every child, without secrets."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import UsageError

logger = logging.getLogger(__name__)

_SECRET = re.compile(
    r"(^|[_-])(api_?key|password|passwd|secret|secret_key|access_token|auth_token|identity_token"
    r"|bearer_token|credentials)$",
    re.IGNORECASE,
)


def encode(config: Any, prefix: str) -> dict[str, str]:
    """The fields of a dataclass that are set, as ``prefix_field`` strings.

    Texts stay texts; everything else is JSON. Secrets are left out with a warning, for Flyte
    stores the context in plain text and hands it to every child.

    Raises:
        UsageError: a value is no JSON.
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
            raise ConfigError(
                f"{prefix} config field '{field.name}' must be JSON-serializable "
                f"to reach child tasks: {error}"
            ) from error
        encoded[f"{prefix}_{field.name}"] = text
    return encoded


def decode(config: type[Any], context: Mapping[str, str], prefix: str) -> Any:
    """The dataclass that `encode` made strings of. The field's type says how a string is read:
    a project called "123" stays text. Keys that are no field are somebody else's."""
    hints = get_type_hints(config)
    values = {}
    for field in fields(config):
        text = context.get(f"{prefix}_{field.name}")
        if text is not None:
            values[field.name] = text if _is_text(hints[field.name]) else _parsed(text)
    return config(**values)


def without_secrets(value: Any, where: str) -> Any:
    """``value`` without entries and credentials in URIs that nobody else is to read."""
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


class ConfigError(UsageError, ValueError):
    """A configuration that cannot be; also a ValueError, as in the plugins this one replaces."""


def _warn(where: str) -> None:
    logger.warning(
        "%s holds a secret: it is not passed to tasks, for Flyte keeps the context in plain text; "
        "use flyte.Secret(key=..., as_env_var=...)",
        where,
    )


def _is_text(hint: Any) -> bool:
    """str, Optional[str] or a Literal of texts."""
    options = get_args(hint) or (hint,)
    return all(option is str or option is type(None) or _literal(option) for option in options)


def _literal(option: Any) -> bool:
    inner = get_args(option)
    return isinstance(option, str) or (bool(inner) and all(isinstance(one, str) for one in inner))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, TypeError):
        return text
