"""Rules for MLflow to W&B: what a run's params, metrics, tags, files and models become.

Pure functions of the arguments of MLflow's API. `docs/mapping.md` lists the rules.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import IDENTITY_CONFIG_KEYS, config_keys, is_of_package
from mlflow_wandb_plugin.core.mlflow_terms import NAME_TAG, NOTES_TAG, PARENT_TAG, USER_TAG
from mlflow_wandb_plugin.core.model import as_float
from mlflow_wandb_plugin.core.redaction import Secrets, without_credentials
from mlflow_wandb_plugin.mapping.names import name_with_hash, safe_path

MAPPING_VERSION = "1"
"""Version of the rules of what a run becomes in W&B; raise it when one changes."""
INTERNAL_KEY = "_wandb"
"""The config key that W&B keeps for itself."""
MLFLOW_KEY = "mlflow"
"""The config key of a section with everything of the MLflow run that W&B has no field for."""
FLOAT_PARAMS = "float_params"
"""The section's list of params whose text is a whole number with a fraction, such as ``1.0``."""
STEP_METRIC = "mlflow_step"
"""The metric that holds MLflow's step: W&B's own step must rise, MLflow's need not."""
POINTS_KEY = "mlflow_points"
"""The key in a row with which step and time MLflow's calls have logged numbers of the row already:
the JSON text of an object with [step, Unix ms] by key."""

EXIT_CODES: Mapping[str, int] = {"FINISHED": 0, "FAILED": 1, "KILLED": 255}
"""Exit code of the W&B run by MLflow's run status: 0 is finished, the others are failed."""
KILLED_EXIT_CODE = EXIT_CODES["KILLED"]
"""Also the exit code of a run whose process died without ending it."""

WANDB_TAG_LENGTH = 64
"""The longest tag that W&B accepts, in characters. Source: wandb.Settings."""
NAME_LENGTH = 128
"""The longest artifact name that W&B accepts and run name that it shows, in characters."""
DELETED_WANDB_TAG = "mlflow-deleted"

SEGMENT = "mlflow"
"""The one segment of a run that is read from MLflow; its positions are rows."""
FILES_DIR = "artifacts"
"""The folder of the MLflow run's files among the W&B run's files, apart from W&B's own."""
CALLS_MEDIA = "media/mlflow_calls"
"""The folder of media of an open W&B run that are copies of files that MLflow's calls logged."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"})
TABLE_ROWS = 10_000
"""The most rows of a table that is logged as W&B's Table: wandb cuts longer ones."""
TABLE_BYTES = 50_000_000
"""A larger file is not parsed as a table; it is uploaded as a file only."""
DATASET_TYPE = "dataset"
DATASET_FILE = "mlflow_dataset.json"
"""The one file of a dataset's artifact, with all that MLflow knows of the dataset."""

_NOT_IN_PROJECT = re.compile(r"[/\\#?%:\x00-\x1f\x7f]")
_PROJECT_LIMIT = 128


def project_name(template: str, experiment: str) -> str:
    """The W&B project of an MLflow experiment. ``{experiment}`` is filled in.

    What W&B refuses in a project's name (``/ \\ # ? % :`` and control characters) becomes ``-``,
    and a name over 128 characters is cut and ends in a hash of the full name.
    Source: the validation of `wandb.init` (wandb.sdk.wandb_settings).
    """
    name = template.replace("{experiment}", experiment)
    clean = _NOT_IN_PROJECT.sub("-", name).strip("-") or "mlflow"
    return clean if len(clean) <= _PROJECT_LIMIT else name_with_hash(clean, name, _PROJECT_LIMIT)


# -- config -----------------------------------------------------------------------------------


def config_value(text: str) -> int | float | bool | str:
    """Turn a param's text into the number or bool that prints as this text, else keep the text.

    MLflow stores all values as text; W&B's charts need numbers.
    """
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        exact = str(value) == text and math.isfinite(value) and abs(value) < 2**53
        exact = exact and text != "-0.0"
        return value if exact else text
    return text


_RESERVED_IN_CONFIG = (*IDENTITY_CONFIG_KEYS, MLFLOW_KEY, "_wandb", "wandb_version", "")
_RESERVED_IN_ROWS = ("_step", "_timestamp", "_runtime", "_wandb", STEP_METRIC, POINTS_KEY)


def config_key(param: str) -> str:
    """The config key of a param; keys that W&B or this package reserve get ``mlflow.`` in front."""
    return f"{MLFLOW_KEY}.{param}" if param in _RESERVED_IN_CONFIG else param


def param_of_config_key(key: str) -> str:
    """The inverse of `config_key`."""
    bare = key.removeprefix(f"{MLFLOW_KEY}.")
    return bare if bare in _RESERVED_IN_CONFIG else key


def float_params(params: Mapping[str, str]) -> list[str]:
    """The params that W&B writes without their fraction, which is zero."""
    values = {key: config_value(text) for key, text in params.items()}
    return sorted(
        key for key, value in values.items() if isinstance(value, float) and value.is_integer()
    )


def run_config(
    header: Mapping[str, Any],
    params: Mapping[str, str],
    section: Mapping[str, Any],
    secrets: Secrets,
) -> dict[str, Any]:
    """The config of the W&B run.

    Args:
        header: of the run's journal; it has the run's identity in MLflow.
        section: what else of the MLflow run is kept, below `MLFLOW_KEY`.
    """
    names = config_keys(
        str(header["mlflow_run_id"]),
        str(header.get("experiment_id") or ""),
        str(header.get("tracking_uri") or ""),
    )
    values = {
        config_key(key): secrets.value(config_value(value), (key,)) for key, value in params.items()
    }
    floats = float_params(params)
    whole = {**section, FLOAT_PARAMS: floats} if floats else section
    return {**values, **names, MLFLOW_KEY: whole}


def config_section(
    *,
    name: str | None,
    user: str,
    experiment: str | None,
    status: str,
    start_ms: int | None,
    end_ms: int | None,
    parent: str | None,
    tags: Mapping[str, str],
    secrets: Secrets,
    deleted: bool = False,
    removed_tags: Iterable[str] = (),
    datasets: Sequence[Mapping[str, Any]] = (),
    input_models: Sequence[str] = (),
    registered_files: Mapping[str, Any] | None = None,
    traces: int = 0,
    lost: Mapping[str, int] | None = None,
    journal: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The section `MLFLOW_KEY` of the config, without what is empty.

    Args:
        name: in full.
        experiment: its name.
        start_ms, end_ms: Unix ms.
        parent: id of the parent run.
        tags: all of the run.
        removed_tags: keys of tags that the run has no more. They are null in the section, because
            W&B merges a config into the one it has.
        datasets: as `dataset_entry` returns them.
        registered_files: entries by `models.registered_file`.
        traces: number of traces, which W&B has no place for.
        lost: number of things that W&B lacks, by kind.
        journal: what a mirrored run's replicator keeps there.
    """
    removed: dict[str, str | None] = dict.fromkeys(sorted(removed_tags))
    section = {
        "name": name if name != run_name(name) else None,
        "user": tags.get(USER_TAG) or user,
        "experiment": experiment,
        "status": status,
        "start_time": start_ms,
        "end_time": end_ms,
        "parent_run_id": parent,
        "lifecycle_stage": "deleted" if deleted else "active",
        "tags": removed | config_tags(tags, secrets),
        "datasets": list(datasets),
        "input_models": list(input_models),
        "registered_files": dict(registered_files or {}),
        "traces_not_mirrored": traces,
        "lost": dict(lost or {}),
        "journal": dict(journal or {}),
    }
    return {key: value for key, value in section.items() if value not in (None, "", [], {}, 0)}


def dataset_entry(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What the config lists of a dataset."""
    return {key: dataset.get(key) for key in ("name", "digest", "source_type", "tags")}


# -- metrics ----------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of W&B's history. ``timestamp_ms`` is Unix ms."""

    step: int
    timestamp_ms: int
    values: dict[str, float]

    def document(self) -> dict[str, Any]:
        """The argument of ``run.log``; `_timestamp` is in seconds."""
        return {**self.values, STEP_METRIC: self.step, "_timestamp": seconds(self.timestamp_ms)}


def drops_repeats(tracking_uri: str) -> bool:
    """Whether a store keeps one of several points with equal key, value, time and step: all do but
    MLflow's folders."""
    return "://" in tracking_uri and not tracking_uri.startswith("file:")


def metric_key(key: str) -> str:
    """The W&B key of a metric; keys that W&B or this package reserve get ``mlflow.`` in front."""
    return f"{MLFLOW_KEY}.{key}" if key in _RESERVED_IN_ROWS else key


def metric_of_key(key: str) -> str:
    """The inverse of `metric_key`."""
    bare = key.removeprefix(f"{MLFLOW_KEY}.")
    return bare if bare in _RESERVED_IN_ROWS else key


def seconds(at_ms: int) -> float:
    """A time as seconds, so that ``int(seconds * 1000)``, as it is read, is ``at_ms``."""
    found = at_ms / 1000
    return found if int(found * 1000) == at_ms else math.nextafter(found, math.inf)


def rows(metrics: Iterable[Sequence[Any]]) -> Iterator[Row]:
    """Group a batch of [key, value, timestamp in Unix ms, step] into history rows, in its order.

    Consecutive metrics with equal step and timestamp share a row, unless their keys are equal.
    """
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


def wandb_tags(tags: Mapping[str, str], secrets: Secrets, deleted: bool = False) -> tuple[str, ...]:
    """The W&B tags of a run: its own MLflow tags that are short enough.

    A tag becomes ``key:value``, or ``key`` where the value is empty or "true". The config has all.
    """
    found = []
    for key, value in sorted(tags.items()):
        if key.startswith(("mlflow.", "wandb.")):
            continue
        shown = secrets.value(value, (key,))
        tag = key if value.lower() in ("", "true") else f"{key}:{shown}"
        if 0 < len(tag) <= WANDB_TAG_LENGTH:
            found.append(tag)
    return (*found, DELETED_WANDB_TAG) if deleted else tuple(found)


def run_name(name: str | None) -> str | None:
    """The W&B run's name, cut to `NAME_LENGTH`; the config then has the full name."""
    return name[:NAME_LENGTH] if name else None


def config_tags(tags: Mapping[str, str], secrets: Secrets) -> dict[str, str]:
    """The MLflow tags that the config shows: not this package's, nor those with a W&B field."""
    return {
        key: secrets.value(without_credentials(value), (key,))
        for key, value in tags.items()
        if not is_of_package(key) and key not in (NOTES_TAG, NAME_TAG, PARENT_TAG)
    }


def source_settings(tags: Mapping[str, str]) -> dict[str, str]:
    """The program, git commit and git remote as fields of `wandb.Settings`."""
    found = {
        "program": tags.get("mlflow.source.name", ""),
        "git_commit": tags.get("mlflow.source.git.commit", ""),
        "git_remote_url": without_credentials(tags.get("mlflow.source.git.repoURL", "")),
    }
    return {name: value for name, value in found.items() if value}


_FACTS = {
    "program": "mlflow.source.name",
    "git_commit": "mlflow.source.git.commit",
    "git_remote": "mlflow.source.git.repoURL",
}


def run_facts(tags: Mapping[str, str], user: str) -> dict[str, str]:
    """Return the run's origin for `RunInfo.facts`, by its tags."""
    named = source_settings(tags)
    found = {fact: tags.get(tag, "") for fact, tag in _FACTS.items()}
    found["git_remote"] = named.get("git_remote_url", "")
    found["user"] = tags.get(USER_TAG) or user
    beside = (identity.BESIDE_RUN_ID, identity.BESIDE_PROJECT, identity.BESIDE_ENTITY)
    found |= {tag: tags.get(tag, "") for tag in beside}
    return {fact: value for fact, value in found.items() if value}


# -- files ------------------------------------------------------------------------------------

_STEP_IMAGE = re.compile(
    r"images/(?P<key>[^/]+)[+%]step[+%](?P<step>-?\d+)[+%]timestamp[+%](?P<ms>\d+)[+%]"
    r"(?P<id>[^/+%]+)(?P<small>[+%]compressed)?\.(?P<kind>\w+)"
)


class ImageName(NamedTuple):
    """Key, step and time (Unix ms) of an image file, as far as its path has them."""

    key: str
    step: int | None = None
    timestamp_ms: int | None = None


def image_name(path: str) -> ImageName | None:
    """The W&B media that a run's file at ``path`` is logged as.

    The key of an image that `mlflow.log_image` logged with a step is in its file name; that of
    other images is their path. None for other files, and for the compressed copies that MLflow
    makes for its UI.
    """
    found = _STEP_IMAGE.fullmatch(path)
    if found:
        if found["small"]:
            return None
        key = re.sub("[~#]", "/", found["key"])
        return ImageName(metric_key(key), int(found["step"]), int(found["ms"]))
    dot = path.rfind(".")
    is_image = dot > 0 and path[dot:].lower() in IMAGE_SUFFIXES
    return ImageName(path) if is_image and not path.startswith("table_images/") else None


def parse_table(text: str) -> tuple[list[str], list[list[Any]]] | None:
    """Columns and rows of a table in the format of `mlflow.log_table` (JSON, pandas' "split")."""
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


def may_be_table(path: str, size: int) -> bool:
    """Whether a run's file of ``size`` bytes is parsed as a table."""
    return path.endswith(".json") and size < TABLE_BYTES


def shown_table(text: str) -> tuple[list[str], list[list[Any]]] | None:
    """Columns and rows of a table that W&B shows; None for another text, or too many rows."""
    table = parse_table(text)
    return table if table is not None and len(table[1]) <= TABLE_ROWS else None


def _cell(cell: Any) -> Any:
    if isinstance(cell, (list, dict)):
        return json.dumps(cell, ensure_ascii=False)
    return cell


def file_path(path: str) -> str:
    """The path of an MLflow run's file among the W&B run's files."""
    return f"{FILES_DIR}/{safe_path(path)}"


# -- artifacts --------------------------------------------------------------------------------


def artifact_name(name: str) -> str:
    """``name`` with the characters that W&B accepts in an artifact's name: ``A-Za-z0-9_.-``."""
    clean = re.sub(r"[^A-Za-z0-9_.\-]", "_", name) or "unnamed"
    if clean == name and len(name) <= NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[: NAME_LENGTH - 9]}-{digest}"


class UsedDataset(NamedTuple):
    """A dataset's artifact: its name, metadata, and the content of `DATASET_FILE`."""

    name: str
    metadata: dict[str, Any]
    document: dict[str, Any]


def used_dataset(dataset: Mapping[str, Any]) -> UsedDataset:
    """The artifact of a dataset of MLflow; its content is what MLflow knows of it."""
    known = {key: value for key, value in dataset.items() if value not in (None, "")}
    metadata = {f"mlflow_{key}": known[key] for key in ("digest", "source_type") if key in known}
    return UsedDataset(artifact_name(str(known.get("name", "dataset"))), metadata, known)


def version_alias(name: str, version: str) -> str:
    """The W&B alias of the model artifact that is ``version`` of the registered model ``name``."""
    return f"{artifact_name(name)}-v{version}"


def named_alias(name: str, alias: str) -> str:
    """The W&B alias of the model artifact that ``alias`` of the registered model points to.

    MLflow allows no alias like ``v3``, so this never equals a `version_alias`.
    """
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
        """This version after ``alias`` of the registered model ``name`` moved to ``version``."""
        if name != self.name:
            return self
        rest = tuple(other for other in self.aliases if other != alias)
        if version != self.version:
            return self._replace(aliases=rest)
        return self if alias in self.aliases else self._replace(aliases=(*rest, alias))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Version:
        """The inverse of `document`."""
        return cls(
            str(document.get("name")),
            str(document.get("version")),
            tuple(document.get("aliases") or ()),
            description=str(document.get("description") or ""),
            tags=dict(document.get("tags") or {}),
        )

    def document(self) -> dict[str, Any]:
        """The version in the artifact's metadata."""
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "description": self.description,
            "tags": dict(self.tags),
        }


def aliases(
    before: Iterable[str],
    registered: Iterable[Mapping[str, Any]],
    now: Iterable[Mapping[str, Any]],
) -> set[str]:
    """The aliases of a model's artifact after its registered versions changed.

    Args:
        before: its current aliases; those of users stay.
        registered, now: all its versions before and after the change, as `Version.document`.
    """
    found = set(before)
    for entry in registered:
        found -= _aliases_of(entry)
    for entry in now:
        found |= _aliases_of(entry)
    return found


def _aliases_of(registered: Mapping[str, Any]) -> set[str]:
    version = Version.from_document(registered)
    named = {named_alias(version.name, alias) for alias in version.aliases}
    return {version_alias(version.name, version.version), *named}
