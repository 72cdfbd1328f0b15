"""Identify the MLflow run that replicates a W&B run, and say whether it is complete.

All state is kept on the target, as tags: any machine can continue a replication.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.redaction import without_credentials

HIDDEN = "mlflow.wandb."
"""Begins the names of tags that only this package reads: MLflow's UI lists no tag whose name begins
with ``mlflow.``; its stores and searches treat it like any other."""

RUN_ID = "wandb.run_id"
PROJECT = "wandb.project"
ENTITY = "wandb.entity"
GROUP = "run_group"
"""The tag with the run's W&B group; export-wandb-to-mlflow writes the same."""
SWEEP = "wandb.sweep"
"""Tag of the parent run of a sweep's runs; these have the tag `wandb.sweep_id`."""
ORIGIN = f"{HIDDEN}origin"
STATE = f"{HIDDEN}state"
POSITION = f"{HIDDEN}position"
ROWS = f"{HIDDEN}rows"
CLAIM = f"{HIDDEN}claim"
EXPERIMENT = f"{HIDDEN}experiment"
"""Tag of an experiment: the name that this package gave it, or found it by."""
PARENT_GROUP = f"{HIDDEN}parent_of_group"
"""Tag of the parent run of the runs whose config names the group."""
MAPPING = f"{HIDDEN}mapping"
RESTORED = f"{HIDDEN}restored"
"""Tag of the replica of a run that was created in MLflow, which is as it was there."""
MODEL_ID = f"{HIDDEN}model_id"
"""Tag of a logged model of such a replica: the id with which the model was created first."""
PARENT_ID = f"{HIDDEN}parent"
"""Tag of such a replica: W&B's id of its parent."""
STEP_METRIC = f"{HIDDEN}step_metric"
"""Which metric's values are the steps of all keys; decided when the run is first written."""
STEPS = f"{HIDDEN}steps"
"""By which definitions of step metrics the run is written, see `step_axes.as_text`; absent where
all keys have W&B's steps, or those of `STEP_METRIC`."""
LOSSES = f"{HIDDEN}losses"
REWRITES = f"{HIDDEN}rewrites"
ADOPTED = f"{HIDDEN}adopted"
"""Tag of a run that another tool writes: see `Twin.adopted`."""
RENAMED = f"{HIDDEN}renamed"
"""The original keys of changed names, of a run whose files cannot be written."""
SELECTION = f"{HIDDEN}selection"
"""Which metrics and artifacts of the run were carried, where not all were; see `Twin.selection`."""
EVERYTHING = ""
"""The selection that leaves nothing out."""
LONGEST_SELECTION = 1000
"""Characters of a selection; a digest stands for a longer one."""
OWNER = f"{HIDDEN}owner"
"""Which outbox mirrors a run that was created in MLflow: a client and its server may both try."""
MIRROR = "mirror"
"""Value of `ORIGIN` of a run that was created in MLflow."""
NAME = f"{HIDDEN}name"
"""The tag with W&B's name of a run, of which MLflow's name was made."""
CONFIG_CHANGED = f"{HIDDEN}config_changed"
"""Number of config leaves that changed; W&B's server knows the latest value only."""

FORMER_NAMES: Mapping[str, str] = {
    "wandb.sync.origin": ORIGIN,
    "wandb.sync.state": STATE,
    "wandb.sync.position": POSITION,
    "wandb.sync.rows": ROWS,
    "wandb.sync.claim": CLAIM,
    "wandb.sync.experiment": EXPERIMENT,
    "wandb.parent_of_group": PARENT_GROUP,
    "wandb.sync.mapping": MAPPING,
    "wandb.sync.restored": RESTORED,
    "wandb.model_id": MODEL_ID,
    "wandb.sync.parent": PARENT_ID,
    "wandb.sync.step_metric": STEP_METRIC,
    "wandb.sync.losses": LOSSES,
    "wandb.sync.rewrites": REWRITES,
    "wandb.sync.adopted": ADOPTED,
    "wandb.sync.renamed": RENAMED,
    "wandb.sync.selection": SELECTION,
    "wandb.sync.owner": OWNER,
    "wandb.name": NAME,
    "wandb.config.changed": CONFIG_CHANGED,
    "wandb.group": GROUP,
}
"""Names of tags up to version 4 of the mapping rules, and those that replace them."""
FORMER_LABEL = "wandb.tag."
"""Began the key of a tag for each W&B tag; ``wandb.tags`` has all of them."""
_FORMER_DUPLICATES = ("wandb.run_path",)

BESIDE_RUN_ID = "wandb.beside.run_id"
BESIDE_PROJECT = "wandb.beside.project"
BESIDE_ENTITY = "wandb.beside.entity"
"""Tags of a run that MLflow code started in a process while a W&B run was open there: which one.
They are not those of a replica, because such a run has what MLflow's calls logged alone."""

EWM_RUN_ID = "wandb_run_id"
"""The tag with W&B's run id that export-wandb-to-mlflow writes."""

STEP_METRIC_CONFIG_KEY = "mlflow_step_metric"
"""A config key that users set: the dotted key of the metric whose values are MLflow's steps."""
RUN_ID_CONFIG_KEY = "mlflow_run_id"
"""The config key with the id of the run's twin."""
GIVEN_RUN_CONFIG_KEY = "mlflow_run_given"
"""True where ``mlflow_run_id`` names a run that the user created for this replica."""
PARENT_RUN_KEY = "mlflow_parent_run_id"
PARENT_GROUP_KEY = "mlflow_parent_group"
"""Config keys that name the parent in MLflow: an existing run, or one that is created for all runs
that name the same group."""
REPLICA_CONFIG_KEY = "mlflow_wandb_replica"
"""The config key of a W&B run that this package wrote, with the tags that an MLflow run would have:
which run it replicates, and how far."""
CALLS_CONFIG_KEY = "mlflow_calls"
"""The config key of a W&B run whose replica is MLflow's active run, with what MLflow's calls logged
that W&B has no other place for."""
BESIDE_CONFIG_KEY = "mlflow_runs_beside"
"""The config key with the ids of the MLflow runs that were started beside the W&B run."""
MOST_BESIDE = 100
"""How many of these ids are used, as a config may come from anybody."""
IDENTITY_CONFIG_KEYS = (
    RUN_ID_CONFIG_KEY,
    "mlflow_experiment_id",
    "mlflow_tracking_uri",
    STEP_METRIC_CONFIG_KEY,
    GIVEN_RUN_CONFIG_KEY,
    PARENT_RUN_KEY,
    PARENT_GROUP_KEY,
    REPLICA_CONFIG_KEY,
    CALLS_CONFIG_KEY,
    BESIDE_CONFIG_KEY,
)

Origin: TypeAlias = Literal["dual", "backfill"]
Verdict: TypeAlias = Literal["new", "dual-written", "partial", "existing", "foreign"]


@dataclass(frozen=True, slots=True)
class Twin:
    """The run in MLflow that replicates a W&B run.

    Attributes:
        position: offset up to which each log was carried, by segment; `TO_THE_END` for all of it.
        rows: number of history rows carried, by segment.
        selection: what the run was carried with, as text, `EVERYTHING` if nothing was left out.
        refused: number of points that MLflow refused.
        foreign: export-wandb-to-mlflow migrated the run.
        end_unknown: it counts as killed, because its log had no end when it was carried.
        beside: it is a W&B run that was open while the MLflow run was logged, and both name the
            other: nothing is to be copied.
        adopted: another tool, such as MosaicML Composer, dual-writes it, with other times and fewer
            points: the W&B config named it when it had none of our tags.
    """

    run_id: str
    experiment_id: str
    origin: str
    state: str
    position: Mapping[str, int]
    rows: Mapping[str, int]
    refused: int = 0
    foreign: bool = False
    adopted: bool = False
    end_unknown: bool = False
    beside: bool = False
    selection: str = EVERYTHING

    def has(self, selection: str) -> bool:
        """Return whether what was carried so far is all that ``selection`` asks for."""
        return self.selection in (EVERYTHING, selection)

    def complete(self, info: RunInfo) -> bool:
        """Return whether all of ``info`` has arrived: each log to its end, or as many rows as W&B's
        server counts."""
        if self.state != "complete" or self.end_is_news(info):
            return False
        counted = info.rows.get(SERVER)
        if counted is not None:
            return counted == total_rows(self.rows)
        return all(self.position.get(segment) == TO_THE_END for segment in info.segments)

    def end_is_news(self, info: RunInfo) -> bool:
        """Return whether W&B has learnt since how the run ended: wandb-core may outlive a process
        that did not call ``finish``, and ends its run later."""
        return self.end_unknown and info.state not in ("killed", "crashed", "running")


TO_THE_END = -1
SERVER = "server"
"""The one segment of a run that is read from W&B's server, which joins the run's logs."""


def ended(position: Mapping[str, int], segments: Sequence[str]) -> dict[str, int]:
    """Return the position of a complete run: the end of each log.

    A server's log goes on when the run is resumed, so its offset is kept.
    """
    journals = {f"journal:{segment}" for segment in segments}
    kept = {key: at for key, at in position.items() if key not in journals}
    return kept | {segment: TO_THE_END for segment in segments if segment != SERVER}


def joined_rows(before: Mapping[str, int], rows: Mapping[str, int]) -> dict[str, int]:
    """Add the row counts of more segments. A server's count includes all logs and replaces them."""
    return dict(rows) if SERVER in rows else {**before, **rows}


def total_rows(rows: Mapping[str, int]) -> int:
    """Return the number of a run's history rows, given the numbers by segment."""
    return rows[SERVER] if SERVER in rows else sum(rows.values())


def selection_of(info: RunInfo, selection: str) -> str:
    """Return the selection with which a run is carried, ``selection`` being what is asked for: a
    source may lack something itself."""
    if selection in (EVERYTHING, info.selection):
        return shortened_selection(info.selection)
    return shortened_selection(f"{selection} of {info.selection}" if info.selection else selection)


def shortened_selection(text: str) -> str:
    """Return the text; one that no tag can hold is replaced by its digest."""
    if len(text) <= LONGEST_SELECTION:
        return text
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def verdict(info: RunInfo, twin: Twin | None, selection: str = EVERYTHING) -> Verdict:
    """Return how complete the replica of ``info`` is for a selection, given its twin on the
    target."""
    if twin is None:
        return "new"
    if twin.origin == MIRROR or twin.beside:
        # Created in MLflow: W&B has the replica, and nothing that MLflow lacks.
        return "dual-written"
    if twin.foreign:
        return "foreign"
    if not (twin.complete(info) and twin.has(selection_of(info, selection))):
        return "partial"
    return "dual-written" if twin.origin == "dual" else "existing"


def identity_tags(info: RunInfo, origin: Origin, mapping_version: str) -> dict[str, str]:
    """Return the tags set when a run is opened. ``origin`` says who opened it first; it stays."""
    tags = {
        RUN_ID: info.run_id,
        PROJECT: info.project,
        ORIGIN: origin,
        STATE: "live",
        MAPPING: mapping_version,
    }
    optional = {ENTITY: info.entity, STEP_METRIC: step_metric(info)}
    return tags | {key: value for key, value in optional.items() if value}


def same_run(info: RunInfo, tags: Mapping[str, str]) -> bool:
    """Return whether ``tags`` identify ``info``. An entity that one side lacks is not compared."""
    if tags.get(RUN_ID) != info.run_id or tags.get(PROJECT, info.project) != info.project:
        return False
    entity = tags.get(ENTITY, "")
    return not entity or not info.entity or entity == info.entity


def present_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run, an experiment or a model under their present names: those who wrote
    it may have used former ones. Where it has both, the present one counts."""
    found = {key: value for key, value in tags.items() if key not in FORMER_NAMES}
    for former, name in FORMER_NAMES.items():
        if former in tags:
            found.setdefault(name, tags[former])
    return found


def tags_in(document: Any) -> dict[str, str]:
    """Return the tags in a document that anybody may have written; empty if it is no mapping."""
    if not isinstance(document, Mapping):
        return {}
    return present_tags({str(key): str(value) for key, value in document.items()})


def former_tags(tags: Iterable[str]) -> list[str]:
    """Return those names of tags that this package has written and no longer writes."""
    return sorted(
        key
        for key in tags
        if key in FORMER_NAMES or key in _FORMER_DUPLICATES or key.startswith(FORMER_LABEL)
    )


def all_names(tag: str) -> tuple[str, ...]:
    """Return the present name of a tag, and the former one if there was one."""
    return (tag, *(former for former, name in FORMER_NAMES.items() if name == tag))


def is_of_package(tag: str) -> bool:
    """Return whether only this package may set a tag, which a W&B config must not choose."""
    return tag.startswith(("wandb.", HIDDEN))


def is_beside(info: RunInfo, tags: Mapping[str, str]) -> bool:
    """Return whether the MLflow run with ``tags`` says that it was started beside the W&B run
    ``info``. An entity that one side lacks is not compared."""
    entity = tags.get(BESIDE_ENTITY, "")
    named = tags.get(BESIDE_RUN_ID), tags.get(BESIDE_PROJECT)
    return named == (info.run_id, info.project) and entity in ("", info.entity or entity)


def runs_beside(config: Mapping[str, Any]) -> list[str]:
    """Return the ids of the MLflow runs that a W&B config says were started beside its run."""
    listed = config.get(BESIDE_CONFIG_KEY)
    found = listed[:MOST_BESIDE] if isinstance(listed, list) else ()
    return [run_id for run_id in found if isinstance(run_id, str)]


def config_keys(run_id: str, experiment_id: str, tracking_uri: str) -> dict[str, str]:
    """Return the keys of a W&B config that name its twin; MosaicML Composer writes the same."""
    return {
        RUN_ID_CONFIG_KEY: run_id,
        "mlflow_experiment_id": experiment_id,
        "mlflow_tracking_uri": without_credentials(tracking_uri),
    }


def write_numbers(numbers: Mapping[str, int], limit: int) -> str:
    """Return the value of a tag with a number per segment (`POSITION`, `ROWS`). The oldest segments
    are left out where the value would be longer than ``limit`` characters."""
    entries = dict(numbers)
    while len(text := json.dumps(entries)) > limit:
        del entries[next(iter(entries))]
    return text


def read_numbers(tags: Mapping[str, str], tag: str) -> dict[str, int]:
    """Read a tag written by `write_numbers`; a malformed one is read as empty."""
    try:
        position = json.loads(tags.get(tag, "{}"))
        return {str(segment): int(offset) for segment, offset in position.items()}
    except (ValueError, AttributeError, TypeError):
        return {}


def step_metric(info: RunInfo) -> str:
    """Return the dotted key of the metric whose values are MLflow's steps; empty for W&B's step."""
    named = info.config.get(STEP_METRIC_CONFIG_KEY)
    return named if isinstance(named, str) else ""
