"""Remove credentials, passwords, keys and tokens from what is stored or shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_wandb_plugin.settings import SECRETS_SHOWN, Settings

HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(?:.*_)?(?:api_?key|passwd|password|secret_?key|secret_access_key|access_token|auth_token)"
    r"|secret|hf_token|credentials"
)
"""Names that say as a whole that their value is a secret; ``max_tokens``, ``pad_token`` do not."""
_NOT_IN_KEY = r"(?<![A-Za-z0-9_-])"
_KEY_FORM = re.compile(
    _NOT_IN_KEY + r"(?:"
    r"hf_[A-Za-z0-9]{20,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}"
    r"|sk-(?:proj|svcacct|admin)-[\w-]{20,}|sk-[A-Za-z0-9]{32,}"
    r"|wandb_v\d+_\w{20,}|local-[0-9a-f]{40}(?![A-Za-z0-9])"
    r")"
)
"""Keys of Hugging Face, AWS, GitHub, OpenAI and W&B, by the form that they have."""
_HEX_KEY = re.compile(r"[0-9a-f]{40}")
_NAME_OF_HEX_KEY = re.compile(r"(?:^|.*_)(?:key|wandb|login)(?:_|$)")
"""W&B's older keys look like git commits: they are hidden below a name of a key or of W&B."""
_NO_SECRETS = frozenset({"", "true", "false", "none", "null"})
_ASSIGNMENT = re.compile(r"([-+~]*[\w./-]+)=(.*)", re.DOTALL)
_SECRET_VARIABLE = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)(_|$)")
_SHORTEST_SECRET = 8


class Secrets:
    """Hides secrets in configs, command lines and texts.

    Args:
        names: names of keys whose values are hidden beside those that are known, separated by
            commas; `SECRETS_SHOWN` hides nothing.
    """

    def __init__(self, names: str = "") -> None:
        self._off = names.strip().lower() == SECRETS_SHOWN
        self._names = frozenset(_plain(name) for name in names.split(",") if name.strip())

    @classmethod
    def of_setting(cls) -> Secrets:
        """Return what the setting `Settings.secret_names` says."""
        return cls(Settings.load().secret_names)

    def text(self, text: str, name: str = "") -> str:
        """Return ``text``, the value of key ``name``, without keys and credentials in URLs."""
        if self._off:
            return text
        if _HEX_KEY.fullmatch(text) and _NAME_OF_HEX_KEY.match(_plain(name)):
            return HIDDEN
        return _KEY_FORM.sub(HIDDEN, without_credentials(text))

    def value(self, value: Any, path: Sequence[str] = ()) -> Any:
        """Return ``value``, a leaf or a part of a config, with `HIDDEN` in place of secrets.

        Args:
            path: the keys that lead to it.
        """
        if self._off:
            return value
        name = path[-1] if path else ""
        return self._value(value, name, next(filter(self.is_secret, path), ""))

    def _value(self, value: Any, name: str, secret: str) -> Any:
        """Hide secrets in the value of key ``name``; ``secret`` is a secret's name above it."""
        if isinstance(value, Mapping):
            return {
                key: self._value(below, str(key), secret or (str(key) * self.is_secret(str(key))))
                for key, below in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._value(below, name, secret) for below in value]
        if isinstance(value, str):
            if secret and value.lower() not in _NO_SECRETS:
                return HIDDEN
            return self.text(value, name)
        # A password may be all digits, a key is not.
        digits = isinstance(value, (int, float)) and not isinstance(value, bool)
        return HIDDEN if digits and "passw" in _plain(secret) else value

    def arguments(self, arguments: Sequence[Any]) -> list[Any]:
        """Return a command line with its secrets hidden: ``--api-key X``, ``--api_key=X`` and
        ``api_key=X``."""
        if self._off:
            return list(arguments)
        shown: list[Any] = []
        before = ""
        for text in map(str, arguments):
            named = _ASSIGNMENT.fullmatch(text)
            if named is not None:
                name, value = named.groups()
                shown.append(f"{name}={self.value(value, (name,))}")
            elif before.startswith("-") and not text.startswith("--"):
                shown.append(self.value(text, (before,)))
            else:
                shown.append(self.text(text))
            before = "" if named is not None else text
        return shown

    def is_secret(self, name: str) -> bool:
        """Whether the name of a key or option says that its value is a secret."""
        plain = _plain(name)
        return bool(_SECRET_NAME.fullmatch(plain)) or plain in self._names


def _plain(name: str) -> str:
    """Return the last part of a dotted name, in lower case with underscores."""
    last = re.split(r"[./]", str(name).strip())[-1]
    return re.sub(r"[-\s]+", "_", last.lstrip("-+~")).lower()


def without_secrets(document: dict[str, Any]) -> dict[str, Any]:
    """Return ``document`` without secrets, with those that this process's environment has under
    such a name; for integrations, which log it to W&B, too."""
    hidden: dict[str, Any] = _without(Secrets("token").value(document), _secrets_of_environment())
    return hidden


def _without(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _without(below, secrets) for key, below in value.items()}
    if isinstance(value, list):
        return [_without(below, secrets) for below in value]
    if isinstance(value, str) and any(map(value.__contains__, secrets)):
        return HIDDEN
    return value


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


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without credentials and at most 500 characters."""
    lines = str(error).strip().splitlines()
    return without_credentials(lines[0] if lines else type(error).__name__)[:500]


# The lengths are limited, so that a text of many "://" is not searched to its end from each.
_SECRET_IN_AUTHORITY = re.compile(
    r"(?<=://)(?:[^/\s]{0,1000}@|[^/@:\s]{0,1000}:(?!\d+/)[^@\s]{0,1000}@)"
)
_SECRET_IN_QUERY = re.compile(r"([?&;](?:password|passwd|pwd|token|access_token|api_key)=)[^&;\s]+")
