"""The rule book's other direction: what each MLflow thing becomes in W&B.

Pure functions of what MLflow's API was told. `docs/mapping.md` lists the rules.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mlflow_wandb_plugin.core.identity import IDENTITY_CONFIG_KEYS
from mlflow_wandb_plugin.core.model import as_float
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.mapping.names import name_with_hash, safe_path

ABOUT = "mlflow"
"""The config key below which everything stands that MLflow knows and W&B has no place for."""
STEP = "mlflow_step"
"""The metric that holds MLflow's step: W&B's own must rise, MLflow's need not."""
PARENT_TAG = "mlflow.parentRunId"
NOTES_TAG = "mlflow.note.content"
NAME_TAG = "mlflow.runName"

TERMINAL = frozenset({"FINISHED", "FAILED", "KILLED"})
EXIT_CODES: Mapping[str, int] = {"FINISHED": 0, "FAILED": 1, "KILLED": 255}
"""MLflow's run status as the exit code of the W&B run: 0 is finished, the others are failed."""
DIED = EXIT_CODES["KILLED"]
"""Exit code of a run whose script went away without a word."""

LABEL_LENGTH = 64
"""What W&B takes as a tag, in characters. Source: wandb.Settings."""
NAME_LENGTH = 128
"""What W&B takes as the name of an artifact, and shows of a run's, in characters."""
DELETED_LABEL = "mlflow-deleted"

FILES_DIR = "artifacts"
"""Below a W&B run's files: where the files of an MLflow run go, out of the way of W&B's own."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"})
TABLE_ROWS = 10_000
"""A longer table stays a file: wandb's Table would cut it."""


_NOT_IN_PROJECT = re.compile(r"[/\\#?%:\x00-\x1f\x7f]")
_PROJECT_LIMIT = 128


def project_name(template: str, experiment: str) -> str:
    """The W&B project of an MLflow experiment. ``{experiment}`` is filled in.

    What W&B refuses in a project's name (``/ \\ # ? % :`` and control characters) becomes ``-``,
    and a name over 128 characters is cut and ends in a hash of the whole.
    Source: the validation of `wandb.init` (wandb.sdk.wandb_settings).
    """
    name = template.replace("{experiment}", experiment)
    clean = _NOT_IN_PROJECT.sub("-", name).strip("-") or "mlflow"
    return clean if len(clean) <= _PROJECT_LIMIT else name_with_hash(clean, name, _PROJECT_LIMIT)


# -- config -----------------------------------------------------------------------------------


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
    """A param's key; one that W&B or this package needs for itself gets ``mlflow.`` before it."""
    taken = param in (*IDENTITY_CONFIG_KEYS, ABOUT, "_wandb", "wandb_version", "")
    return f"{ABOUT}.{param}" if taken else param


# -- metrics ----------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of W&B's history. ``timestamp_ms`` is Unix ms."""

    step: int
    timestamp_ms: int
    values: dict[str, float]

    def document(self) -> dict[str, Any]:
        """What ``run.log`` is given; `_timestamp` is in seconds."""
        return {**self.values, STEP: self.step, "_timestamp": self.timestamp_ms / 1000}


def metric_key(key: str) -> str:
    """A metric's key; one that W&B or this package needs for itself gets ``mlflow.`` before it."""
    return f"{ABOUT}.{key}" if key in ("_step", "_timestamp", "_runtime", "_wandb", STEP) else key


def rows(metrics: Iterable[Sequence[Any]]) -> Iterator[Row]:
    """The rows of one batch of [key, value, timestamp in ms, step], in its order: neighbours of
    one step and time share a row unless they have one key."""
    row: Row | None = None
    for key, value, timestamp_ms, step in metrics:
        name = metric_key(str(key))
        fits = row is not None and (row.step, row.timestamp_ms) == (step, timestamp_ms)
        if row is None or not fits or name in row.values:
            if row is not None:
                yield row
            row = Row(int(step), int(timestamp_ms), {})
        row.values[name] = as_float(value)
    if row is not None:
        yield row


# -- tags -------------------------------------------------------------------------------------


def labels(tags: Mapping[str, str], deleted: bool = False) -> tuple[str, ...]:
    """W&B's tags: each of the user's MLflow tags that is short enough, as ``key:value``, or as
    ``key`` where the value says no more than that it is set. All are in the config too."""
    found = []
    for key, value in sorted(tags.items()):
        if key.startswith(("mlflow.", "wandb.")):
            continue
        label = key if value.lower() in ("", "true") else f"{key}:{value}"
        if 0 < len(label) <= LABEL_LENGTH:
            found.append(label)
    return (*found, DELETED_LABEL) if deleted else tuple(found)


def run_name(name: str | None) -> str | None:
    """The W&B run's name; a longer one stands whole in the config."""
    return name[:NAME_LENGTH] if name else None


def shown_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that go to the config: not those that tie the homes, nor what has its own place."""
    return {
        key: without_credentials(value)
        for key, value in tags.items()
        if not key.startswith("wandb.") and key not in (NOTES_TAG, NAME_TAG, PARENT_TAG)
    }


def source(tags: Mapping[str, str]) -> dict[str, str]:
    """What W&B calls program, git commit and git remote, from MLflow's source tags."""
    found = {
        "program": tags.get("mlflow.source.name", ""),
        "git_commit": tags.get("mlflow.source.git.commit", ""),
        "git_remote_url": without_credentials(tags.get("mlflow.source.git.repoURL", "")),
    }
    return {name: value for name, value in found.items() if value}


# -- files ------------------------------------------------------------------------------------

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
    """What a run's file is as W&B media: MLflow's step images by their key, other images by
    their path; nothing for the small copies that MLflow makes for its UI, and no other file."""
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
    """Columns and rows, where ``text`` is a table as MLflow logs them: JSON, pandas' "split"."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    if not isinstance(document, dict) or not {"columns", "data"} <= document.keys():
        return None
    columns, data = document["columns"], document["data"]
    if document.keys() - {"columns", "data", "index"} or not isinstance(columns, list):
        return None
    if not isinstance(data, list) or not all(
        isinstance(row, list) and len(row) == len(columns) for row in data
    ):
        return None
    return [str(column) for column in columns], [[_cell(cell) for cell in row] for row in data]


def _cell(cell: Any) -> Any:
    if isinstance(cell, (list, dict)):
        return json.dumps(cell, ensure_ascii=False)
    return cell


def file_path(path: str) -> str:
    """Where a file of the MLflow run stands among the W&B run's files."""
    return f"{FILES_DIR}/{safe_path(path)}"


# -- artifacts --------------------------------------------------------------------------------


def artifact_name(name: str) -> str:
    """A name that W&B takes for an artifact: letters, digits, ``-``, ``_`` and ``.``."""
    clean = re.sub(r"[^A-Za-z0-9_.\-]", "_", name) or "unnamed"
    if clean == name and len(name) <= NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[: NAME_LENGTH - 9]}-{digest}"


def version_alias(name: str, version: str) -> str:
    """The alias of a model that is version ``version`` of the registered model ``name``."""
    return f"{artifact_name(name)}-v{version}"


def named_alias(name: str, alias: str) -> str:
    """The alias of a model that ``alias`` of the registered model ``name`` points to. MLflow has
    no alias like ``v3``, so this never meets a `version_alias`."""
    return f"{artifact_name(name)}-{artifact_name(alias)}"


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
        """What the artifact's metadata says of it."""
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
    """The aliases of a model's artifact once ``versions`` are what is registered of it.

    Args:
        before: its aliases as they are.
        registered: what its metadata says was registered (`Version.document`): the aliases of
            versions that are told anew give way.
    """
    versions = list(versions)
    told = {(version.name, version.version) for version in versions}
    found = set(before)
    for entry in registered:
        if (entry.get("name"), entry.get("version")) in told:
            found -= _aliases_of(str(entry["name"]), str(entry["version"]), entry["aliases"])
    for version in versions:
        if not version.deleted:
            found |= _aliases_of(version.name, version.version, version.aliases)
    return found


def _aliases_of(name: str, version: str, named: Iterable[str]) -> set[str]:
    return {version_alias(name, version), *(named_alias(name, alias) for alias in named)}
