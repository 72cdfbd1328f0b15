"""Rules that map an MLflow run to W&B, as pure functions. `docs/mapping.md` lists them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mlflow_wandb_plugin.core.identity import IDENTITY_CONFIG_KEYS
from mlflow_wandb_plugin.core.mlflow_terms import NAME_TAG, NOTES_TAG, PARENT_TAG
from mlflow_wandb_plugin.core.model import as_float
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.mapping.names import name_with_hash, safe_path

ABOUT = "mlflow"
"""The config key below which everything is kept that W&B has no field for."""
STEP = "mlflow_step"
"""The metric that holds MLflow's step: W&B's own must rise, MLflow's need not."""

EXIT_CODES: Mapping[str, int] = {"FINISHED": 0, "FAILED": 1, "KILLED": 255}
"""MLflow's run status as the exit code of the W&B run: 0 is finished, the others are failed."""
DIED = EXIT_CODES["KILLED"]
"""Exit code of a run whose script was killed or lost: it reported no end."""

LABEL_LENGTH = 64
"""Longest tag that W&B accepts, in characters. Source: wandb.Settings."""
NAME_LENGTH = 128
"""Longest artifact name that W&B accepts and run name that it shows, in characters."""
DELETED_LABEL = "mlflow-deleted"

FILES_DIR = "artifacts"
"""Folder of the MLflow run's files among the W&B run's files, apart from W&B's own."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"})
TABLE_ROWS = 10_000
"""A longer table stays a file: wandb's Table would cut it."""

_NOT_IN_PROJECT = re.compile(r"[/\\#?%:\x00-\x1f\x7f]")
_PROJECT_LIMIT = 128


def project_name(template: str, experiment: str) -> str:
    """The W&B project of an MLflow experiment. ``{experiment}`` is filled in.

    Characters that W&B refuses (``/ \\ # ? % :`` and control characters) become ``-``, and a name
    over 128 characters is cut and ends in a hash of the full name.
    Source: the validation of `wandb.init` (wandb.sdk.wandb_settings).
    """
    name = template.replace("{experiment}", experiment)
    clean = _NOT_IN_PROJECT.sub("-", name).strip("-") or "mlflow"
    return clean if len(clean) <= _PROJECT_LIMIT else name_with_hash(clean, name, _PROJECT_LIMIT)


def config_value(text: str) -> int | float | bool | str:
    """A param's text as the number or truth value that reads the same, else the text.

    MLflow turns all values into text; W&B's charts want numbers.
    """
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        exact = str(value) == text and math.isfinite(value) and abs(value) < 2**53
        return value if exact else text
    return text


def config_key(param: str) -> str:
    """A param's key; one that W&B or this package reserves gets the prefix ``mlflow.``."""
    taken = param in (*IDENTITY_CONFIG_KEYS, ABOUT, "_wandb", "wandb_version", "")
    return f"{ABOUT}.{param}" if taken else param


class Row(NamedTuple):
    """A row of W&B's history. ``timestamp_ms`` is Unix ms."""

    step: int
    timestamp_ms: int
    values: dict[str, float]

    def document(self) -> dict[str, Any]:
        """The argument of ``run.log``; `_timestamp` is in seconds."""
        return {**self.values, STEP: self.step, "_timestamp": self.timestamp_ms / 1000}


def metric_key(key: str) -> str:
    """A metric's key; one that W&B or this package reserves gets the prefix ``mlflow.``."""
    return f"{ABOUT}.{key}" if key in ("_step", "_timestamp", "_runtime", "_wandb", STEP) else key


def rows(metrics: Iterable[Sequence[Any]]) -> Iterator[Row]:
    """The rows of one batch of [key, value, timestamp in ms, step], in its order: neighbours of the
    same step and time share a row unless they have the same key."""
    row = Row(0, 0, {})
    for key, value, timestamp_ms, step in metrics:
        name = metric_key(str(key))
        if (row.step, row.timestamp_ms) != (step, timestamp_ms) or name in row.values:
            if row.values:
                yield row
            row = Row(int(step), int(timestamp_ms), {})
        row.values[name] = as_float(value)
    if row.values:
        yield row


def labels(tags: Mapping[str, str], deleted: bool = False) -> tuple[str, ...]:
    """W&B's tags: each of the user's MLflow tags that is short enough, as ``key:value``, or as
    ``key`` where the value is empty or "true". All are in the config too."""
    own = {key: value for key, value in tags.items() if not key.startswith(("mlflow.", "wandb."))}
    named = [
        key if value.lower() in ("", "true") else f"{key}:{value}"
        for key, value in sorted(own.items())
    ]
    found = tuple(label for label in named if 0 < len(label) <= LABEL_LENGTH)
    return (*found, DELETED_LABEL) if deleted else found


def run_name(name: str | None) -> str | None:
    """The W&B run's name, cut to W&B's limit; the config has all of it."""
    return name[:NAME_LENGTH] if name else None


def shown_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags for the config, without identity tags and those that W&B has a field for."""
    return {
        key: without_credentials(value)
        for key, value in tags.items()
        if not key.startswith("wandb.") and key not in (NOTES_TAG, NAME_TAG, PARENT_TAG)
    }


def source(tags: Mapping[str, str]) -> dict[str, str]:
    """W&B's program, git commit and git remote, from MLflow's source tags."""
    found = {
        "program": tags.get("mlflow.source.name", ""),
        "git_commit": tags.get("mlflow.source.git.commit", ""),
        "git_remote_url": without_credentials(tags.get("mlflow.source.git.repoURL", "")),
    }
    return {name: value for name, value in found.items() if value}


_STEP_IMAGE = re.compile(
    r"images/(?P<key>[^/]+)[+%]step[+%](?P<step>-?\d+)[+%]timestamp[+%](?P<ms>\d+)[+%]"
    r"(?P<id>[^/+%]+)(?P<small>[+%]compressed)?\.(?P<kind>\w+)"
)


class Picture(NamedTuple):
    """An image file of a run. ``step`` and ``timestamp_ms`` are None where its name has none."""

    key: str
    step: int | None = None
    timestamp_ms: int | None = None


def picture(path: str) -> Picture | None:
    """A run's file as W&B's image: MLflow's step images have their key, other images their path.
    None for the small copies that MLflow makes for its UI, and for other files."""
    found = _STEP_IMAGE.fullmatch(path)
    if found:
        if found["small"]:
            return None
        key = re.sub("[~#]", "/", found["key"])
        return Picture(metric_key(key), int(found["step"]), int(found["ms"]))
    dot = path.rfind(".")
    is_image = dot > 0 and path[dot:].lower() in IMAGE_SUFFIXES
    return Picture(path) if is_image and not path.startswith("table_images/") else None


def table(text: str) -> tuple[list[str], list[list[Any]]] | None:
    """Columns and rows, if ``text`` is a table as MLflow logs it: JSON, pandas' "split"."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    if not isinstance(document, dict) or document.keys() - {"columns", "data", "index"}:
        return None
    columns, data = document.get("columns"), document.get("data")
    if not isinstance(columns, list) or not isinstance(data, list):
        return None
    if not all(isinstance(row, list) and len(row) == len(columns) for row in data):
        return None
    return [str(column) for column in columns], [[_cell(cell) for cell in row] for row in data]


def _cell(cell: Any) -> Any:
    return json.dumps(cell, ensure_ascii=False) if isinstance(cell, (list, dict)) else cell


def file_path(path: str) -> str:
    """Path of a file of the MLflow run among the W&B run's files."""
    return f"{FILES_DIR}/{safe_path(path)}"


def artifact_name(name: str) -> str:
    """A name that W&B accepts for an artifact: letters, digits, ``-``, ``_`` and ``.``."""
    clean = re.sub(r"[^A-Za-z0-9_.\-]", "_", name) or "unnamed"
    fits = clean == name and len(name) <= NAME_LENGTH
    return name if fits else name_with_hash(clean, name, NAME_LENGTH)


def version_alias(name: str, version: str) -> str:
    """The alias of a model that is version ``version`` of the registered model ``name``."""
    return f"{artifact_name(name)}-v{version}"


class Version(NamedTuple):
    """A version of a registered model, with the aliases that point to it."""

    name: str
    version: str
    aliases: tuple[str, ...] = ()
    source: str = ""
    description: str = ""
    tags: Mapping[str, str] = {}
    deleted: bool = False

    def with_alias(self, name: str, alias: str, version: str | None) -> Version:
        """This version once ``alias`` of the registered model ``name`` points to ``version``."""
        if name != self.name:
            return self
        rest = tuple(other for other in self.aliases if other != alias)
        if version != self.version:
            return self._replace(aliases=rest)
        return self if alias in self.aliases else self._replace(aliases=(*rest, alias))

    @classmethod
    def told(cls, document: Mapping[str, Any]) -> Version:
        """The inverse of `document`."""
        return cls(
            str(document.get("name")),
            str(document.get("version")),
            tuple(document.get("aliases") or ()),
            description=str(document.get("description") or ""),
            tags=dict(document.get("tags") or {}),
        )

    def document(self) -> dict[str, Any]:
        """The version as metadata of the artifact."""
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "description": self.description,
            "tags": dict(self.tags),
        }


def aliases(
    before: Iterable[str], registered: Iterable[Mapping[str, Any]], versions: Iterable[Version]
) -> set[str]:
    """The aliases of a model's artifact after ``versions`` have been registered.

    Args:
        before: its present aliases.
        registered: `Version.document` of each version in its metadata; aliases of those that are
            in ``versions`` as well are replaced.
    """
    versions = list(versions)
    replaced = {(version.name, version.version) for version in versions}
    found = set(before)
    for entry in registered:
        if (entry.get("name"), entry.get("version")) in replaced:
            found -= _aliases_of(str(entry["name"]), str(entry["version"]), entry["aliases"])
    for version in versions:
        if not version.deleted:
            found |= _aliases_of(version.name, version.version, version.aliases)
    return found


def _aliases_of(name: str, version: str, named: Iterable[str]) -> set[str]:
    # MLflow has no alias like "v3": these never equal a `version_alias`.
    aliases_named = (f"{artifact_name(name)}-{artifact_name(alias)}" for alias in named)
    return {version_alias(name, version), *aliases_named}
