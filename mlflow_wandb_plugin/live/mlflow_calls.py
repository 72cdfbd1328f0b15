"""Give what MLflow's calls log to a run that is MLflow's and W&B's, to the open W&B run as well.

MLflow has it already. A row of W&B's history that comes from MLflow's calls has MLflow's step and
time in it: the replicator writes the same point again, which MLflow ignores.
"""

from __future__ import annotations

import atexit
import glob
import json
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.atomic_files import copy_file, replaced
from mlflow_wandb_plugin.core.mlflow_terms import NOTES_TAG
from mlflow_wandb_plugin.core.model import flatten
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.models import EMPTY_FILE, TYPE, Model
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.wandb_log.steps import typed_json

POINTS_AT_MOST = 100_000
"""Points that wait for W&B; of more, only the number is kept."""
MLFLOW_ALONE = 100
"""Points after which a script without a row in W&B is taken to log its metrics by MLflow alone."""

Point: TypeAlias = "tuple[str, float, int, int]"
"""Key, value, time in Unix ms and step in MLflow."""


class MlflowCalls:
    """A `store.active_run.Receiver`: the open W&B run ``run``.

    Args:
        secret_names: as `Settings.secret_names`.

    W&B's steps rise, and a script may choose them: a row in between would push later ones out. So
    rows of MLflow's calls wait while a row of the script's is open, and, until it has logged one
    that W&B numbered, altogether; at the end of the run they follow.

    A number that both APIs log is logged once. If W&B has it first, MLflow's call adds none. If
    MLflow has it first, W&B's row notes with which step and time (`rules.POINTS_KEY`); so points
    of MLflow's calls wait for the end of such a row.
    """

    def __init__(self, run: Any, secret_names: str) -> None:
        self._run = run
        self._secrets = Secrets(secret_names)
        self._lock = threading.Lock()
        self._own = _Own()
        self._waiting: list[Point] = []
        self._ready = 0
        self._places: dict[str, list[int]] = {}
        self._of_wandb: dict[str, float] = {}
        self._of_mlflow: dict[str, Point] = {}
        self._defined: set[str] = set()
        self._row_open = False
        self._script_rows = 0
        self._latest: dict[str, Point] = {}
        self._models: dict[str, Any] = {}
        self._params: set[str] = set()
        self._tags: dict[str, str] = {}
        self._lost: Counter[str] = Counter()
        self._pid = os.getpid()
        self._at_exit = self._ended = False

    # -- what the script's W&B calls log ----------------------------------------------------------

    def see(self, record: Any) -> None:
        """Take note of a row that the script logs by W&B, and note in it which of its numbers
        MLflow's calls have logged already; called before it is sent and journalled."""
        if self._own.logging:
            return
        request = record.request.partial_history
        has_step = request.HasField("step")
        ends = request.action.flush if request.HasField("action") else not has_step
        with self._lock:
            known = list(filter(None, map(self._known_point, request.item)))
            self._places |= {key: [step, at_ms] for key, _, at_ms, step in known}
            if known:
                text = json.dumps(self._places)
                request.item.add(key=rules.POINTS_KEY, value_json=json.dumps(text))
            self._row_open = not ends
            self._script_rows += ends and not has_step
            if ends:
                # What comes now belongs to a later row.
                self._places, self._ready = {}, len(self._waiting)

    def _known_point(self, item: Any) -> Point | None:
        """MLflow's point that is a number of a row; else note that W&B has it. The lock is held."""
        key = item.key or ".".join(item.nested_key)
        value = _number(item.value_json or typed_json(item))
        if value is None or key.startswith("_"):
            return None
        self._defined.add(key)
        point = self._of_mlflow.pop(key, None)
        if point is None or not _equal(point[1], value):
            self._of_wandb[key] = value
            return None
        self._waiting = [one for one in self._waiting if one is not point]
        return point

    # -- what MLflow's calls log ------------------------------------------------------------------

    def unknown_metrics(self, metrics: Sequence[Any]) -> list[Any]:
        """Leave out a number that the script's latest W&B row of the key has: the replica gets it
        from there."""
        with self._lock:
            return [metric for metric in metrics if not self._wandb_has(metric)]

    def _wandb_has(self, metric: Any) -> bool:
        key = rules.metric_key(metric.key)
        if key not in self._of_wandb or not _equal(self._of_wandb[key], metric.value):
            return False
        del self._of_wandb[key]
        return True

    def unknown_params(self, params: Sequence[Any]) -> list[Any]:
        """Leave out params that the W&B config has: MLflow would refuse another text of a value."""
        config = {".".join(path): value for path, value in flatten(dict(self._run.config)).items()}
        unknown = []
        for param in params:
            if param.key in self._params or param.key not in config:
                unknown.append(param)
            elif str(config[param.key]) != str(param.value):
                warn_once(
                    f"the param {param.key} keeps the value of the W&B config; "
                    "what MLflow's call says is left out, because a param has one value"
                )
        return unknown

    def add(self, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]) -> None:
        if not self._at_exit:
            # Registered after wandb's own exit hook, it runs before it: that one ends the run.
            self._at_exit = True
            atexit.register(self.end)
        if params:
            self._params.update(param.key for param in params)
            self._add_params({param.key: str(param.value) for param in params})
        if tags:
            self._add_tags({tag.key: str(tag.value) for tag in tags})
        self._log_waiting()
        if metrics:
            self._define_ours()
        with self._lock:
            points = []
            for metric in metrics:
                key = rules.metric_key(metric.key)
                point = key, metric.value, metric.timestamp, metric.step
                # MLflow keeps one of two equal points: autologging logs some once more.
                if self._latest.get(key) != point:
                    self._of_mlflow[key] = self._latest[key] = point
                    points.append(point)
            free = max(0, POINTS_AT_MOST - len(self._waiting))
            self._waiting += points[:free]
            if points[free:]:
                self._lost["points: too many waited for the end of the run"] += len(points[free:])

    def add_files(self, files: Mapping[str, Path]) -> None:
        """Save files below `rules.FILES_DIR`; they are copied at once."""
        root = Path(self._run.dir)
        for path, local in files.items():
            target = root / rules.file_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            # In one step: wandb-core may be reading the file that was there before.
            with replaced(target) as temporary:
                copy_file(local, temporary)
            self._run.save(glob.escape(str(target)), base_path=str(root), policy="now")

    def add_model_files(self, model: Any, files: Mapping[str, Path]) -> None:
        """Add files to the artifact of a logged model; they are copied at once."""
        artifact = self._artifact_of(model)
        for path, local in sorted(files.items()):
            artifact.add_file(str(local), name=safe_path(path), skip_cache=True, overwrite=True)

    def end_model(self, model: Any) -> None:
        """Log a model as an artifact."""
        artifact = self._artifact_of(model)
        del self._models[model.model_id]
        known = Model(
            model.model_id,
            model.name,
            model.model_type or "",
            model.status.name,
            dict(model.params or {}),
            dict(model.tags or {}),
        )
        artifact.metadata = known.metadata
        if not artifact.manifest.entries:
            # W&B identifies artifacts by content: models without files would all be one artifact.
            with artifact.new_file(EMPTY_FILE) as file:
                json.dump(known.metadata, file)
        self._run.log_artifact(artifact, aliases=sorted(known.aliases))

    def _artifact_of(self, model: Any) -> Any:
        import wandb

        if model.model_id not in self._models:
            name = rules.artifact_name(model.name)
            self._models[model.model_id] = wandb.Artifact(name, type=TYPE)
        return self._models[model.model_id]

    def end(self) -> None:
        """At the end of the run, log what has waited. Never raises."""
        atexit.unregister(self.end)
        if self._ended or os.getpid() != self._pid:
            return
        self._ended = True
        try:
            self._log_waiting(last=True)
            if self._lost:
                self._describe()
        except Exception as error:
            # Whatever the error is, the user's run ends as it would.
            warn_once(f"W&B lacks some of what MLflow's calls have logged: {error}")

    # -- into the W&B run -------------------------------------------------------------------------

    def _log_waiting(self, last: bool = False) -> None:
        with self._lock:
            by_mlflow_alone = not self._script_rows and len(self._waiting) >= MLFLOW_ALONE
            if not last and (self._row_open or not (self._script_rows or by_mlflow_alone)):
                return
            many = last or len(self._waiting) >= MLFLOW_ALONE
            ready, self._ready = len(self._waiting) if many else self._ready, 0
            points, self._waiting = self._waiting[:ready], self._waiting[ready:]
            closes, self._row_open = self._row_open, False
        self._own.logging = True
        try:
            for row in rules.rows(points):
                self._define(row.values)
                step = {"step": self._run.step + 1, "commit": True} if closes else {}
                self._run.log(row.document(), **step)
                closes = False
        finally:
            self._own.logging = False

    def _define_ours(self) -> None:
        """Leave out of W&B's summary what is only about MLflow's points."""
        for name in (rules.STEP_METRIC, rules.POINTS_KEY):
            if name not in self._defined:
                self._defined.add(name)
                self._run.define_metric(name, summary="none")

    def _define(self, keys: Mapping[str, float]) -> None:
        """Let W&B draw metrics that MLflow's calls alone log over MLflow's step."""
        for key in keys:
            # W&B takes a dot in such a name for nesting.
            if key not in self._defined and "." not in key:
                self._run.define_metric(key, step_metric=rules.STEP_METRIC, step_sync=False)
            self._defined.add(key)

    def _add_params(self, params: Mapping[str, str]) -> None:
        shown = {}
        for key, text in params.items():
            value = rules.config_value(text)
            if self._secrets.value(value, (key,)) == value:
                shown[rules.config_key(key)] = value
        if shown:
            self._run.config.update(shown, allow_val_change=True)

    def _add_tags(self, tags: Mapping[str, str]) -> None:
        if NOTES_TAG in tags:
            self._run.notes = self._secrets.text(tags[NOTES_TAG])
        own = {key: text for key, text in tags.items() if not key.startswith(("mlflow.", "wandb."))}
        if not own:
            return
        before = set(rules.wandb_tags(self._tags, self._secrets))
        self._tags.update(own)
        now = rules.wandb_tags(self._tags, self._secrets)
        kept = [tag for tag in self._run.tags or () if tag not in before]
        self._run.tags = (*kept, *(tag for tag in now if tag not in kept))
        self._describe()

    def _describe(self) -> None:
        section = {
            "active": True,
            "tags": rules.config_tags(self._tags, self._secrets),
            "lost": dict(self._lost),
        }
        shown = {key: value for key, value in section.items() if value}
        self._run.config.update({identity.CALLS_CONFIG_KEY: shown}, allow_val_change=True)


class _Own(threading.local):
    """Whether what this thread logs to W&B comes from MLflow's calls."""

    logging = False


def _number(text: str) -> float | None:
    """The number that a JSON text is; None for another value."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else None


def _equal(one: float, other: float) -> bool:
    return one == other or (one != one and other != other)
