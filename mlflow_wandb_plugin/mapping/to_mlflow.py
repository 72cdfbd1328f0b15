"""The rule book: what each W&B thing becomes in MLflow.

Pure functions of what W&B recorded; the live path and every backfill go through them, so that
both give equal runs. Change a rule and `MAPPING_VERSION` goes up.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mlflow_wandb_plugin.core.model import Key, RunInfo, RunState, as_float, flatten

MAPPING_VERSION = "2"

INTERNAL_CONFIG_KEY = "_wandb"
STEP_METRIC_CONFIG_KEY = "mlflow_step_metric"
"""A config key of the user's: the dotted key of the metric whose values are MLflow's steps."""
GIVEN_RUN_CONFIG_KEY = "mlflow_run_given"
"""True where ``mlflow_run_id`` names a run that the user gave us to write."""
PARENT_RUN_KEY = "mlflow_parent_run_id"
PARENT_GROUP_KEY = "mlflow_parent_group"
"""Config keys that say below which MLflow run a run belongs: one that exists, or one that is made
for the runs that name the same group."""
IDENTITY_CONFIG_KEYS = (
    "mlflow_run_id",
    "mlflow_experiment_id",
    "mlflow_tracking_uri",
    STEP_METRIC_CONFIG_KEY,
    GIVEN_RUN_CONFIG_KEY,
    PARENT_RUN_KEY,
    PARENT_GROUP_KEY,
)

STATUS: Mapping[RunState, str] = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "crashed": "FAILED",
    "killed": "KILLED",
    "preempted": "KILLED",
}
"""W&B's run states as MLflow's run status."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Lengths in characters that MLflow accepts."""

    key: int
    param_value: int
    tag_value: int
    experiment_name: int
    batch_metrics: int
    batch_params: int
    run_name: int = 250

    @classmethod
    @lru_cache
    def installed(cls) -> Limits:
        """The limits of the installed MLflow, where it states them."""
        from mlflow.utils import validation

        return cls(
            key=getattr(validation, "MAX_ENTITY_KEY_LENGTH", 250),
            param_value=getattr(validation, "MAX_PARAM_VAL_LENGTH", 6000),
            tag_value=getattr(validation, "MAX_TAG_VAL_LENGTH", 5000),
            experiment_name=getattr(validation, "MAX_EXPERIMENT_NAME_LENGTH", 500),
            batch_metrics=getattr(validation, "MAX_METRICS_PER_BATCH", 1000),
            batch_params=getattr(validation, "MAX_PARAMS_TAGS_PER_BATCH", 100),
        )


# -- names ------------------------------------------------------------------------------------

_ILLEGAL = re.compile(r"[^/\w.\- :]")


def legal_name(name: str, limit: int) -> str:
    """``name`` if MLflow takes it as a metric, param or tag key, else its rewritten form.

    Illegal characters become ``_``, path parts that are empty, ``.`` or ``..`` and two dots at
    the start too; a name over ``limit`` characters is cut and ends in a hash of the whole.
    Source: mlflow.utils.validation, which wants ``[/\\w.\\- :]*`` and a normalised path.
    """
    parts = _ILLEGAL.sub("_", name).split("/")
    clean = "/".join("_" * max(1, len(part)) if part in ("", ".", "..") else part for part in parts)
    if clean.startswith(".."):
        clean = "__" + clean[2:]
    return clean if len(clean) <= limit else _with_hash(clean, name, limit)


def _with_hash(clean: str, original: str, limit: int) -> str:
    digest = hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[: limit - 9]}-{digest}"


class Namer:
    """Gives each W&B key of a run its MLflow name; no two keys get the same one.

    A key whose name is taken by another key gets a hash suffix. ``renamed`` holds the originals
    of all names that differ from the dotted key.

    Args:
        limit: the longest name, in characters.
        known: what ``renamed`` held when the run was written before.
        taken: all names that the run has; those not in ``known`` are their keys' own.
    """

    def __init__(
        self,
        limit: int,
        known: Mapping[str, list[str]] | None = None,
        taken: Iterable[str] = (),
    ) -> None:
        self.renamed: dict[str, list[str]] = {
            name: list(key) for name, key in (known or {}).items()
        }
        self._limit = limit
        self._names: dict[Key, str] = {tuple(key): name for name, key in self.renamed.items()}
        self._taken: set[str] = {*self._names.values(), *taken}
        self._unclaimed = self._taken - self.renamed.keys()

    def name(self, key: Key) -> str:
        known = self._names.get(key)
        if known is not None:
            return known
        dotted = ".".join(key)
        name = legal_name(dotted, self._limit)
        if name == dotted and name in self._unclaimed:
            self._unclaimed.discard(name)
        elif name in self._taken:
            name = self._free_name(name, key)
        self._names[key] = name
        self._taken.add(name)
        if name != dotted or (len(key) > 1 and any("." in label for label in key)):
            self.renamed[name] = list(key)
        return name

    def _free_name(self, name: str, key: Key) -> str:
        original = json.dumps(key)
        while True:
            hashed = _with_hash(name, original, self._limit)
            if hashed not in self._taken:
                return hashed
            original += "'"


SYSTEM_NAMES: Mapping[str, str] = {
    "cpu": "cpu_utilization_percentage",
    "memory_percent": "system_memory_usage_percentage",
    "memory": "system_memory_usage_percentage",
    "proc.memory.rssMB": "process_memory_usage_megabytes",
    "proc.memory.percent": "process_memory_usage_percentage",
    "proc.memory.availableMB": "system_memory_available_megabytes",
    "network.sent": "network_transmit_megabytes",
    "network.recv": "network_receive_megabytes",
    "disk": "disk_usage_percentage",
    "disk./.usagePercent": "disk_usage_percentage",
}
_GPU_NAMES: Mapping[str, str] = {
    "gpu": "utilization_percentage",
    "memoryAllocated": "memory_usage_percentage",
    "memoryAllocatedBytes": "memory_usage_megabytes",
    "powerWatts": "power_usage_watts",
    "powerPercent": "power_usage_percentage",
    "temp": "temperature_celsius",
}
_BYTES = re.compile(r"^network\.(sent|recv)$|\.memoryAllocatedBytes$")


def system_metric(key: str, value: float) -> tuple[str, float]:
    """MLflow's name and unit of a W&B system metric; bytes become megabytes (10**6).

    Names that MLflow's System metrics tab knows are used where W&B measures the same thing;
    anything else keeps W&B's name below ``system/``.
    """
    if key.startswith("system."):
        key = key.removeprefix("system.")
    scaled = value / 1e6 if _BYTES.search(key) else value
    gpu = re.fullmatch(r"gpu\.(\d+)\.(\w+)", key)
    if gpu and gpu[2] in _GPU_NAMES:
        return f"system/gpu_{gpu[1]}_{_GPU_NAMES[gpu[2]]}", scaled
    return f"system/{SYSTEM_NAMES.get(key, key)}", scaled


# -- config and summary -----------------------------------------------------------------------


def params(info: RunInfo) -> dict[Key, str]:
    """Config leaves as param values, untruncated: text as it is, lists as JSON."""
    return {
        path: param_value(value)
        for path, value in info.first_config.items()
        if path[0] != INTERNAL_CONFIG_KEY and path[0] not in IDENTITY_CONFIG_KEYS
    }


def param_value(value: Any) -> str:
    if isinstance(value, (list, tuple, dict)):
        value = json.dumps(value, ensure_ascii=False)
    return str(value)


def storable(text: str) -> str:
    """``text`` without what databases and protocols refuse: NUL and lone surrogates."""
    return _UNSTORABLE.sub("\ufffd", text)


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def changed_params(info: RunInfo) -> int:
    """How many config leaves no longer hold the value that became their param."""
    now = flatten(info.config)
    return sum(
        1
        for path, first in info.first_config.items()
        if path[0] != INTERNAL_CONFIG_KEY
        and path[0] not in IDENTITY_CONFIG_KEYS
        # As MLflow stores them: wandb-core may have replaced the odd characters in between.
        and (path not in now or storable(param_value(now[path])) != storable(param_value(first)))
    )


def config_document(info: RunInfo) -> dict[str, Any]:
    """The user's whole config as it stands, for ``wandb/config.json``."""
    return {key: value for key, value in info.config.items() if key != INTERNAL_CONFIG_KEY}


def step_metric(info: RunInfo) -> str:
    """The dotted key of the metric whose values are MLflow's steps; empty for W&B's own step."""
    named = info.config.get(STEP_METRIC_CONFIG_KEY)
    return named if isinstance(named, str) else ""


def is_step(value: float) -> bool:
    """Whether MLflow takes the number as a step: a whole one of 64 bits."""
    return float(value).is_integer() and abs(value) < 2**63


def last_step(info: RunInfo, step_metric: str = "") -> int:
    """The step of the last history row, by ``step_metric`` where the row has it as a number."""
    for path, value in info.last.items():
        if ".".join(path) == step_metric and is_step(value):
            return int(value)
    return info.last_step or 0


def summary_points(info: RunInfo, step_metric: str = "") -> dict[Key, tuple[float, int, int]]:
    """Summary numbers that history does not end with: key to (value, step, timestamp in ms).

    They stand at the last step. A key that history has with another last value is stamped 1 ms
    later, so that MLflow's latest value is the one that W&B's summary shows.
    """
    step = last_step(info, step_metric)
    at = info.last_ms if info.last_ms is not None else info.started_ms or 0
    points: dict[Key, tuple[float, int, int]] = {}
    for path, value in flatten(info.summary).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or _in_media(info, path):
            continue
        logged = info.last.get(path)
        number = as_float(value)
        if logged is None:
            points[path] = (number, step, at)
        elif logged != number and not (math.isnan(logged) and math.isnan(number)):
            points[path] = (number, step, at + 1)
    return points


def _in_media(info: RunInfo, path: Key) -> bool:
    node: Any = info.summary
    for label in path[:-1]:
        node = node[label]
        if isinstance(node, Mapping) and "_type" in node:
            return True
    return False


# -- the run itself ---------------------------------------------------------------------------


def run_name(info: RunInfo) -> str:
    return (info.name or info.run_id)[: Limits.installed().run_name]


def run_tags(info: RunInfo) -> dict[str, str]:
    """All tags that describe the run, uncut. Identity tags are `identity.py`'s."""
    facts = info.facts
    tags = {
        "mlflow.user": facts.get("user") or facts.get("email") or "",
        "mlflow.note.content": info.notes,
        "mlflow.source.name": facts.get("program", ""),
        "mlflow.source.type": "LOCAL" if facts.get("program") else "",
        "mlflow.source.git.commit": facts.get("git_commit", ""),
        "mlflow.source.git.repoURL": without_credentials(facts.get("git_remote", "")),
        "wandb.name": info.name,
        "wandb.url": info.url,
        "wandb.group": info.group,
        "run_group": info.group,
        "wandb.job_type": info.job_type,
        "wandb.sweep_id": info.sweep_id,
        "wandb.state": info.state if info.state != "running" else "",
        "wandb.exit_code": "" if info.exit_code is None else str(info.exit_code),
        "wandb.tags": json.dumps(list(info.tags), ensure_ascii=False) if info.tags else "",
    }
    for name in ("host", "os", "python", "executable", "docker", "gpu", "gpu_count", "cuda"):
        tags[f"wandb.{name}"] = str(facts.get(name, ""))
    if facts.get("args"):
        tags["wandb.args"] = json.dumps(facts["args"], ensure_ascii=False)
    for tag in info.tags:
        tags[f"wandb.tag.{tag}"] = "true"
    changed = changed_params(info)
    if changed:
        tags["wandb.config.changed"] = str(changed)
    return {key: value for key, value in tags.items() if value}


def experiment_name(template: str, entity: str, project: str) -> str:
    """The experiment of a project. ``{entity}`` and ``{project}`` are filled in."""
    name = template.replace("{entity}", entity).replace("{project}", project)
    return name[: Limits.installed().experiment_name]


def experiment_tags(entity: str, project: str) -> dict[str, str]:
    """The tags that export-wandb-to-mlflow writes too."""
    path = f"{entity}/{project}" if entity else project
    return {"migrate_from_wandb_project": path, "wandb_project_name": project}


def project_name(template: str, experiment: str) -> str:
    """The W&B project of an MLflow experiment. ``{experiment}`` is filled in.

    What W&B refuses in a project's name (``/ \\ # ? % :`` and control characters) becomes ``-``,
    and a name over 128 characters is cut and ends in a hash of the whole.
    Source: the validation of `wandb.init` (wandb.sdk.wandb_settings).
    """
    name = template.replace("{experiment}", experiment)
    clean = _NOT_IN_PROJECT.sub("-", name).strip("-") or "mlflow"
    return clean if len(clean) <= _PROJECT_LIMIT else _with_hash(clean, name, _PROJECT_LIMIT)


_NOT_IN_PROJECT = re.compile(r"[/\\#?%:\x00-\x1f\x7f]")
_PROJECT_LIMIT = 128


def without_credentials(uri: str) -> str:
    """``uri`` without a user name or password: ``scheme://user:pw@host`` to ``scheme://host``.

    A password may hold ``@`` and ``/``, or stand in the query; ``uri`` may be a whole sentence.
    """
    return _SECRET_IN_QUERY.sub(r"\1***", _SECRET_IN_AUTHORITY.sub("", uri))


_SECRET_IN_AUTHORITY = re.compile(r"(?<=://)(?:[^/\s]*@|[^/@:\s]*:(?!\d+/)[^@\s]*@)")
_SECRET_IN_QUERY = re.compile(r"([?&;](?:password|passwd|pwd|token|access_token|api_key)=)[^&;\s]+")


# -- artifacts --------------------------------------------------------------------------------

FILES_DIR = "wandb/files"
ARTIFACTS_DIR = "wandb/artifacts"
CONFIG_FILE = "wandb/config.json"
SUMMARY_FILE = "wandb/summary.json"
HISTORY_FILE = "wandb/history.jsonl"
RENAMED_FILE = "wandb/renamed.json"
SWEEP_CONFIG_FILE = "wandb/sweep_config.json"
LINEAGE_FILE = "wandb/lineage.json"
_UNSAFE = re.compile('[\x00-\x1f\x7f\\\\:*?"<>|#%\ud800-\udfff]')
_PART_BYTES = 200


def safe_path(path: str) -> str:
    """A relative posix path that stays in its folder, whatever a server or user called it.

    Parts that are empty, ``.`` or ``..`` and characters that some file system or MLflow's
    artifact paths refuse are rewritten; a rewritten path ends its name in a hash of the
    original, so that two different names stay different.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    clean = [_cut(_UNSAFE.sub("_", "__" if part == ".." else part)) for part in parts] or ["_"]
    joined = "/".join(clean[-16:])
    if joined == path:
        return joined
    stem, dot, suffix = clean[-1].rpartition(".")
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    clean[-1] = f"{stem}-{digest}.{suffix}" if dot and stem else f"{clean[-1]}-{digest}"
    return "/".join(clean[-16:])


def _cut(part: str) -> str:
    """A file name within what file systems take, which count bytes."""
    return part.encode()[:_PART_BYTES].decode(errors="ignore")


def canonical_json(value: Any, indent: int | None = None) -> str:
    """JSON with sorted keys; a float without fraction is written as an integer.

    W&B's core and its server rewrite ``1.0`` as ``1``: without this rule a document would depend
    on which way it came.
    """
    document = _canonical(value)
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, default=str, indent=indent)
    # UTF-8 has no place for a lone surrogate; wandb-core writes the same in its stead.
    return _LONE_SURROGATE.sub("\ufffd", text)


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(below) for below in value]
    return value
