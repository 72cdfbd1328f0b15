"""Give what MLflow's calls log to a run that is MLflow's and W&B's, to the open W&B run as well.

MLflow has it already, as a rule. A row of W&B's history that comes from MLflow's calls has MLflow's
step and time in it: the replicator writes the same point again, which MLflow ignores.
"""

from __future__ import annotations

import atexit
import copy
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias, cast

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.mlflow_terms import NOTES_TAG
from mlflow_wandb_plugin.core.model import flatten
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.live.forked_calls import ForkedCalls
from mlflow_wandb_plugin.live.logged_by_mlflow import LoggedFiles, LoggedModels, UsedDatasets
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.journal_state import JournalState
from mlflow_wandb_plugin.store import active_run
from mlflow_wandb_plugin.wandb_log.steps import typed_json

POINTS_AT_MOST = 100_000
"""Points that wait for W&B; of more, only the number is kept."""
FORKED = "mlflow-calls"
"""The folder in the run's own for what forked children log."""
PATIENCE_S = 10.0
"""How long the end of the run waits for what MLflow logs in threads."""
MLFLOW_ALONE = 100
"""Points after which a script without a row in W&B is taken to log its metrics by MLflow alone."""

Point: TypeAlias = "tuple[str, float, int, int]"
"""Key, value, time in Unix ms and step in MLflow."""


class MlflowCalls:
    """A `store.active_run.Receiver`: the open W&B run ``run``.

    Args:
        secret_names: as `Settings.secret_names`.
        waits: MLflow does not have it already: it gets from the W&B run what its calls log.

    W&B's steps rise, and a script may choose them: a row in between would push later ones out. So
    rows of MLflow's calls wait while a row of the script's is open, and, until it has logged one
    that W&B numbered, altogether; at the end of the run they follow.

    A number that both APIs log is logged once. If W&B has it first, MLflow's call adds none. If
    MLflow has it first, W&B's row notes with which step and time (`rules.POINTS_KEY`); so points
    of MLflow's calls wait for the end of such a row.
    """

    def __init__(self, run: Any, secret_names: str, waits: bool = False) -> None:
        self._run = run
        self._waits = waits
        self._secrets = Secrets(secret_names)
        self._state = JournalState()
        self._files = LoggedFiles(run, self._state)
        self._models = LoggedModels(run, self._state)
        self._datasets = UsedDatasets(run)
        self._forked = ForkedCalls(Path(run.settings.sync_file).absolute().parent / FORKED)
        self._taking = threading.RLock()
        self._lock = threading.Lock()
        self._own = _Own()
        self._waiting: list[Point | dict[str, Any]] = []
        self._ready = 0
        self._places: dict[str, list[int]] = {}
        self._of_wandb: dict[str, float] = {}
        self._of_mlflow: dict[str, Point] = {}
        self._defined: set[str] = set()
        self._row_open = False
        self._script_rows = 0
        self._latest: dict[str, Point] = {}
        self._shown_tags: tuple[str, ...] = ()
        self._described: dict[str, Any] = {"active": True}
        self._config_at_fork: dict[str, Any] = {}
        self._pid = os.getpid()
        self._at_exit = self._ended = False
        if waits:
            self._describe()

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
        # wandb has no config in a forked child.
        config = self._config() if os.getpid() == self._pid else self._config_at_fork
        unknown = []
        for param in params:
            if param.key in self._state.params or param.key not in config:
                unknown.append(param)
            elif str(config[param.key]) != str(param.value):
                warn_once(
                    f"the param {param.key} keeps the value of the W&B config; "
                    "what MLflow's call says is left out, because a param has one value"
                )
        return unknown

    def _config(self) -> dict[str, Any]:
        return {".".join(path): value for path, value in flatten(dict(self._run.config)).items()}

    def append(self, op: str, **fields: Any) -> None:
        """Take an operation; that of a forked child goes to the process that opened the run."""
        if os.getpid() != self._pid:
            self._forked.append(op, **fields)
        else:
            self._take({"op": op, "at": time.time_ns() // 1_000_000, **fields})

    def add_file(self, source: Path, path: str, model: str | None, stored: bool) -> None:
        """Take a file of the run, or of its logged model ``model``; it is copied at once."""
        if os.getpid() != self._pid:
            self._forked.add_file(source, path, model, stored)
        else:
            self.append("file", path=path, local=source, model=model)

    def wait_for_mlflow(self) -> bool:
        """From now on, MLflow gets what is logged from the W&B run; not in a forked child."""
        if os.getpid() == self._pid:
            with self._taking:
                self._waits = True
                self._describe()
        return self._waits

    def before_fork(self) -> None:
        """In the process that opened the run: a child may log to it from now on."""
        if os.getpid() == self._pid and not self._ended:
            self._config_at_fork = self._config()
            self._forked.prepare()
            self._end_at_exit()

    def after_fork(self) -> None:
        """In a forked child, which has logged nothing by W&B: another thread may hold the lock."""
        self._lock = threading.Lock()
        self._of_wandb, self._of_mlflow = {}, {}

    def _take(self, operation: Mapping[str, Any]) -> None:
        with self._taking:
            self._end_at_exit()
            self._take_forked()
            self._apply(operation)

    def _take_forked(self) -> None:
        for operation in self._forked.read():
            self._apply(operation)

    def _end_at_exit(self) -> None:
        if not self._at_exit:
            # Registered after wandb's own exit hook, it runs before it: that one ends the run.
            self._at_exit = True
            atexit.register(self.end)

    def _apply(self, op: Mapping[str, Any]) -> None:
        try:
            self._log(op)
        except Exception as error:
            self._state.lost[f"{op['op']}, for {type(error).__name__}"] += 1
            warn_once(f"what MLflow's calls log does not reach W&B: {error}")

    def _log(self, op: Mapping[str, Any]) -> None:
        self._log_waiting()
        if op["op"] in ("model", "outputs", "version", "alias"):
            self._models.apply(op)
            return
        if op.get("model"):
            self._models.add_file(op["model"], op["path"], op["local"])
            return
        self._models.log()
        self._state.apply(op)
        match op["op"]:
            case "batch":
                self._add_params(op["params"])
                self._add_tags(op["tags"])
                self._add_points(op["metrics"])
            case "untag":
                self._show_tags()
            case "file":
                row = self._files.add(op["path"], op["local"], op["at"])
                if row is not None:
                    self._define_ours()
                    with self._lock:
                        self._wait([row])
            case "inputs":
                for dataset in op["datasets"]:
                    self._datasets.add(dataset)
                self._describe()

    def _add_points(self, metrics: Sequence[Sequence[Any]]) -> None:
        if metrics:
            self._define_ours()
        with self._lock:
            points = []
            for name, value, at_ms, step in metrics:
                key = rules.metric_key(name)
                point = key, value, at_ms, step
                # MLflow keeps one of two equal points: autologging logs some once more.
                if self._latest.get(key) != point:
                    self._of_mlflow[key] = self._latest[key] = point
                    points.append(point)
            self._wait(points)

    def _wait(self, new: Sequence[Point | dict[str, Any]]) -> None:
        free = max(0, POINTS_AT_MOST - len(self._waiting))
        self._waiting += new[:free]
        if new[free:]:
            self._state.lost["points: too many waited for the end of the run"] += len(new[free:])

    def end(self) -> None:
        """At the end of the run, log what has waited. Never raises."""
        atexit.unregister(self.end)
        if self._ended or os.getpid() != self._pid:
            return
        self._ended = True
        try:
            active_run.flush(self, PATIENCE_S)
            with self._taking:
                self._take_forked()
                self._forked.remove()
                self._log_waiting(last=True)
                self._models.log(last=True)
                self._datasets.wait()
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
            for document in self._documents(points):
                step = {"step": self._run.step + 1, "commit": True} if closes else {}
                self._run.log(document, **step)
                closes = False
        finally:
            self._own.logging = False

    def _documents(self, waiting: Sequence[Point | dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows of points, and those of media, in their order."""
        for is_row, group in groupby(waiting, key=lambda one: isinstance(one, dict)):
            if is_row:
                yield from cast("Iterator[dict[str, Any]]", group)
                continue
            for row in rules.rows(cast("Iterator[Point]", group)):
                self._define(row.values)
                yield row.document()

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
        if any(map(_is_own, tags)):
            self._show_tags()

    def _show_tags(self) -> None:
        now = rules.wandb_tags(self._state.tags, self._secrets)
        kept = [tag for tag in self._run.tags or () if tag not in self._shown_tags]
        self._run.tags = (*kept, *(tag for tag in now if tag not in kept))
        self._shown_tags = now
        self._describe()

    def _describe(self) -> None:
        """Keep in the config what W&B has no other place for."""
        state = self._state
        own = {key: text for key, text in state.tags.items() if _is_own(key)}
        removed = dict.fromkeys(filter(_is_own, state.removed_tags))
        section = {
            "active": not self._waits,
            "tags": removed | rules.config_tags(own, self._secrets),
            "datasets": state.datasets,
            "used": self._datasets.names,
            "input_models": state.input_models,
            "registered_files": state.registered_files,
            "traces_not_mirrored": state.traces,
            "lost": dict(state.lost),
        }
        shown = {key: value for key, value in section.items() if value or key == "active"}
        if shown != self._described:
            self._described = copy.deepcopy(shown)
            self._run.config.update({identity.CALLS_CONFIG_KEY: shown}, allow_val_change=True)


class _Own(threading.local):
    """Whether what this thread logs to W&B comes from MLflow's calls."""

    logging = False


def _is_own(tag: str) -> bool:
    """Whether a tag is the user's."""
    return not tag.startswith(("mlflow.", "wandb."))


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
