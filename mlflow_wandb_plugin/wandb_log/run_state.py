"""Collect a run's names, config, origin, times and end from its records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core.model import Key, RunInfo, RunState, flatten
from mlflow_wandb_plugin.core.server_values import is_kept_as
from mlflow_wandb_plugin.wandb_log.step_timeline import StepTimeline

if TYPE_CHECKING:
    from wandb.proto import wandb_internal_pb2 as proto

_SAME_NAMES = (
    "os", "python", "program", "code_path", "host", "email", "executable", "docker", "cpu_count",
    "gpu_count",
)  # fmt: skip
"""Facts that have the same name in wandb's EnvironmentRecord."""
INTERRUPTED = 255
"""The exit code that W&B gives a run ended by Ctrl-C; its server shows such a run as killed."""


class RunFacts:
    """Collects run, config, environment and exit records of one run."""

    def __init__(self) -> None:
        self.segments: list[str] = []
        self.seen_in_segment = False
        self.has_environment = False
        self.config: dict[str, Any] = {}
        self.first_config: dict[Key, Any] = {}
        self.facts: dict[str, Any] = {}
        self.started_ms: int | None = None
        self.last_step: int | None = None
        self.last_ms: int | None = None
        self.preempting = False
        self.run_id = ""
        self.rows: dict[str, int] = {}
        self.axes = StepTimeline()
        self._fields: dict[str, Any] = {}
        self._tags: tuple[str, ...] = ()
        self._segment_started_ms = 0
        self._latest_ms = 0
        self._exit: proto.RunExitRecord | None = None
        self._resumed = False

    def begin(self, segment: str) -> None:
        """Start log ``segment``."""
        self.segments.append(segment)
        self.rows[segment] = 0
        self.seen_in_segment = False
        self.has_environment = False
        self.preempting = False
        self._exit = None

    def count_rows(self, count: int, last_step: int, last_ms: int) -> None:
        """Count more history rows, the last of which is at ``last_step`` and ``last_ms``."""
        if self.segments:
            self.rows[self.segments[-1]] += count
        self.last_step, self.last_ms = last_step, last_ms
        self.note_time(last_ms)

    @property
    def rows_of_log(self) -> int:
        """Number of history rows of the present log."""
        return self.rows[self.segments[-1]] if self.segments else 0

    def continue_after(self, step: int) -> None:
        """Note the last step of the run's earlier logs, if those are not read."""
        if self.last_step is None:
            self.last_step = step

    def note_time(self, timestamp_ms: int) -> None:
        """Move the end of the run to ``timestamp_ms``, if that is later."""
        if timestamp_ms > self._latest_ms:
            self._latest_ms = timestamp_ms

    def add_run(self, run: proto.RunRecord, answered: bool = False) -> None:
        """Add a run record; fields that it leaves empty keep their values.

        Args:
            answered: W&B's server has answered: the config is what it keeps of the run's.
        """
        self.run_id = run.run_id or self.run_id
        same = ("entity", "project", "notes", "job_type", "sweep_id")
        fields = {name: getattr(run, name) for name in same}
        fields |= {"name": run.display_name, "group": run.run_group}
        self._fields.update({name: value for name, value in fields.items() if value})
        # A later record of the same log may have removed a tag; a resumed run's first adds to it.
        self._tags = tuple(run.tags) if run.tags or self.seen_in_segment else self._tags
        facts = {"host": run.host, "git_remote": run.git.remote_url, "git_commit": run.git.commit}
        self.facts.update({name: value for name, value in facts.items() if value})
        if run.HasField("start_time") and not self.seen_in_segment:
            self._segment_started_ms = run.start_time.ToMilliseconds()
            if self.started_ms is None:
                self.started_ms = self._segment_started_ms
            self.note_time(self._segment_started_ms)
        self._resumed = self._resumed or run.resumed
        self.seen_in_segment = True
        self.add_config(run.config, answered)

    def add_config(self, config: proto.ConfigRecord, kept: bool = False) -> None:
        """Apply a config record.

        Args:
            kept: its values are what W&B's server keeps of the run's, which is not all as it was
                logged: a value that is known is no news.
        """
        for item in config.update:
            path = tuple(item.nested_key) or (item.key,)
            if kept and self._is_known(path, json.loads(item.value_json)):
                continue
            node = self.config
            for label in path[:-1]:
                below = node.get(label)
                if not isinstance(below, dict):
                    below = node[label] = {}
                node = below
            value = json.loads(item.value_json)
            node[path[-1]] = value
            leaves = flatten(value, path) if isinstance(value, dict) and value else {path: value}
            for leaf, first in leaves.items():
                self.first_config.setdefault(leaf, first)
        for item in config.remove:
            path = tuple(item.nested_key) or (item.key,)
            node = self.config
            for label in path[:-1]:
                below = node.get(label)
                node = below if isinstance(below, dict) else {}
            node.pop(path[-1], None)

    def _is_known(self, path: Key, kept: Any) -> bool:
        node: Any = self.config
        for label in path:
            if not isinstance(node, dict) or label not in node:
                return False
            node = node[label]
        return is_kept_as(node, kept)

    def add_environment(self, environment: proto.EnvironmentRecord) -> None:
        """Add facts about the machine and the program."""
        self.has_environment = True
        known = {name: getattr(environment, name) for name in _SAME_NAMES} | {
            "args": list(environment.args),
            "user": environment.username,
            "gpu": environment.gpu_type,
            "cuda": environment.cuda_version,
            "git_remote": environment.git.remote_url,
            "git_commit": environment.git.commit,
        }
        self.facts.update({name: value for name, value in known.items() if value})

    def add_alert(self, alert: proto.AlertRecord) -> None:
        """Add what the user said with `wandb.alert`; wandb records no time of it."""
        told = {"title": alert.title, "text": alert.text, "level": alert.level}
        self.facts["alerts"] = [*self.facts.get("alerts", ()), told]

    def add_exit(self, exit_record: proto.RunExitRecord) -> None:
        """Add the exit; the run time of a resumed run is that of all its logs."""
        self._exit = exit_record
        resumed = self._resumed or len(self.segments) > 1
        if exit_record.runtime and not resumed:
            self.note_time(self._segment_started_ms + exit_record.runtime * 1000)

    def state(self) -> RunState:
        """Return the run's state; "running" while there is no exit record."""
        # wandb 0.22 has no such field: its exits are always complete.
        if self._exit is None or getattr(self._exit, "not_complete", False):
            return "running"
        if self._exit.exit_code == 0:
            return "finished"
        if self.preempting:
            return "preempted"
        return "killed" if self._exit.exit_code == INTERRUPTED else "failed"

    def info(
        self, summary: Mapping[str, Any], last: Mapping[Key, float], carried: Mapping[Key, Any]
    ) -> RunInfo:
        """Return the run as known so far; the arguments are fields of `RunInfo`."""
        state = self.state()
        return RunInfo(
            run_id=self.run_id,
            tags=self._tags,
            segments=tuple(self.segments),
            state=state,
            exit_code=self._exit.exit_code if self._exit is not None else None,
            started_ms=self.started_ms,
            ended_ms=None if state == "running" else self.ended_ms,
            config=dict(self.config),
            first_config=dict(self.first_config),
            summary=summary,
            last=dict(last),
            carried=dict(carried),
            rows=dict(self.rows),
            last_step=self.last_step,
            last_ms=self.last_ms if self.rows_of_log else self._segment_started_ms or None,
            facts=dict(self.facts),
            step_definitions=tuple(self.axes.definitions),
            **{"project": "uncategorized", **self._fields},
        )

    @property
    def ended_ms(self) -> int | None:
        """Time of the latest record, Unix ms."""
        return self._latest_ms or self.started_ms
