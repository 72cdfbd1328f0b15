"""How a run is read: attributes, history, files, console, artifacts."""

from __future__ import annotations

import fnmatch
import json
import mimetypes
from collections.abc import Iterable
from functools import partial
from typing import Any

from ..filters import MISSING, BadFilter, matches, sort_key
from ..state import Blob, Run
from .artifacts import ArtifactView
from .connection import connection, global_id
from .context import Context, project_info, run_id
from .execute import GraphQLFailure, View, obj

Json = dict[str, Any]


class RunView(View):
    typename = "Run"

    def __init__(self, ctx: Context, run: Run) -> None:
        self._ctx = ctx
        self._run = run
        self.id = run_id(run)
        self.name = run.name
        self.displayName = run.display_name
        self.description = run.description
        self.notes = run.notes
        self.tags = list(run.tags)
        self.sweepName = run.sweep_name
        self.state = run.state
        self.group = run.group
        self.jobType = run.job_type
        self.commit = run.commit
        self.host = run.host
        self.readOnly = False
        self.createdAt = run.created_at
        self.heartbeatAt = run.heartbeat_at
        self.updatedAt = run.heartbeat_at
        self.projectId = run.project.number
        self.stopped = run.stopped
        self.shouldStop = run.stopped
        self.running = run.state == "running"
        self.failed = run.state in ("failed", "crashed")
        self.exitcode = run.exit_code
        self.eventsLineCount = len(run.events)
        self.logLineCount = len(run.console)

    def project(self) -> Json:
        return project_info(self._run.project)

    def user(self) -> Json:
        user = self._run.user or self._ctx.store.user
        return obj("User", name=user.name, username=user.username)

    def config(self) -> str:
        return json.dumps(self._run.config)

    def wandbConfig(self, keys: list[str]) -> str:
        internal = self._run.config.get("_wandb", {}).get("value", {})
        return json.dumps({key: internal[key] for key in keys if key in internal})

    def summaryMetrics(self) -> str:
        return json.dumps(self._run.summary)

    def systemMetrics(self) -> str:
        return json.dumps(self._run.system_metrics)

    def historyLineCount(self) -> int:
        return self._run.history.line_count

    def historyKeys(self) -> Json | None:
        return self._run.history.keys()

    def historyTail(self) -> str:
        return json.dumps(self._run.history.tail)

    def eventsTail(self) -> str:
        return json.dumps(self._run.events[-1:])

    def history(
        self, samples: int = 500, minStep: int | None = None, maxStep: int | None = None
    ) -> list[str]:
        if minStep is None and maxStep is None:
            return self._run.history.sampled(samples)
        low, high = minStep or 0, maxStep if maxStep is not None else 1 << 62
        return self._run.history.page(low, high, samples)

    def events(self, samples: int = 500) -> list[str]:
        lines = self._run.events
        if len(lines) <= samples:
            return lines
        return [lines[i * (len(lines) - 1) // max(1, samples - 1)] for i in range(samples)]

    def sampledHistory(self, specs: list[str]) -> list[list[Json]]:
        return [self._run.history.sampled_keys(json.loads(spec)) for spec in specs]

    def parquetHistory(self, liveKeys: list[str]) -> Json:
        history, store = self._run.history, self._ctx.store
        blobs = [store.blobs[export.path.name] for export in history.exports]
        return obj(
            "ParquetHistory",
            parquetUrls=[self._ctx.storage_url(blob, "history.parquet") for blob in blobs],
            liveData=history.live_data(liveKeys),
        )

    def logLines(
        self, first: int | None = None, after: str | None = None, last: int | None = None
    ) -> Json:
        numbered = list(enumerate(self._run.console))
        if last is not None:
            numbered = numbered[-last:] if last else []
        return connection("LogLine", numbered, _log_line, first, after)

    def fileCount(self) -> int:
        return len(self._uploaded())

    def files(
        self,
        names: list[str] | None = None,
        pattern: str | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Json:
        found = self._uploaded()
        if names:
            found = [(name, blob) for name, blob in found if name in names]
        elif pattern:
            like = pattern.replace("[", "[[]").replace("%", "*").replace("_", "?")
            found = [(name, blob) for name, blob in found if fnmatch.fnmatchcase(name, like)]
        return connection("File", found, lambda item: self._file(*item), first, after)

    def outputArtifacts(self, first: int | None = None, after: str | None = None) -> Json:
        return self._artifacts(self._run.logged_artifacts, first, after)

    def inputArtifacts(self, first: int | None = None, after: str | None = None) -> Json:
        return self._artifacts(self._run.used_artifacts, first, after)

    def _artifacts(self, items: list[Any], first: int | None, after: str | None) -> Json:
        committed = [artifact for artifact in items if artifact.state == "COMMITTED"]
        return connection(
            "Artifact", committed, lambda item: ArtifactView(self._ctx, item), first, after
        )

    def _uploaded(self) -> list[tuple[str, Blob]]:
        return [(name, blob) for name, blob in self._run.files.items() if blob.uploaded]

    def _file(self, name: str, blob: Blob) -> Json:
        return obj(
            "File",
            id=global_id("File", self._run.path, name),
            name=name,
            displayName=name,
            url=self._ctx.file_url(self._run, name),
            directUrl=self._ctx.storage_url(blob, name),
            sizeBytes=blob.size,
            mimetype=mimetypes.guess_type(name)[0] or "application/octet-stream",
            updatedAt=blob.updated_at,
            md5=blob.digest,
            digest=blob.digest,
        )


def _log_line(item: tuple[int, str]) -> Json:
    number, text = item
    fields: Json = {"timestamp": None, "level": "info", "label": "", "line": text}
    try:
        sent = json.loads(text)
    except ValueError:
        sent = None
    if isinstance(sent, dict) and "content" in sent:
        fields["line"] = sent["content"]
        fields["timestamp"] = sent.get("ts")
        fields["label"] = sent.get("label", "")
        fields["level"] = sent.get("level", "info")
    return obj("LogLine", number=number, **fields)


def filter_runs(runs: Iterable[Run], filters: str | None) -> list[Run]:
    """The runs that match a filter."""
    query = json.loads(filters) if filters else {}
    try:
        return [run for run in runs if matches(partial(run_field, run), query)]
    except BadFilter as error:
        raise GraphQLFailure(str(error)) from None


def select_runs(runs: Iterable[Run], filters: str | None, order: str | None) -> list[Run]:
    """The runs that match a filter, in the order asked for (creation when none is)."""
    found = filter_runs(runs, filters)
    order = order or "+created_at"
    key = order.lstrip("+-")
    return sorted(
        found, key=lambda run: sort_key(run_field(run, key)), reverse=order.startswith("-")
    )


_ATTRIBUTES = {
    "name": "name",
    "displayName": "display_name",
    "display_name": "display_name",
    "state": "state",
    "createdAt": "created_at",
    "created_at": "created_at",
    "heartbeatAt": "heartbeat_at",
    "heartbeat_at": "heartbeat_at",
    "tags": "tags",
    "group": "group",
    "jobType": "job_type",
    "job_type": "job_type",
    "sweep": "sweep_name",
    "sweepName": "sweep_name",
    "notes": "notes",
    "commit": "commit",
    "host": "host",
}


def run_field(run: Run, key: str) -> Any:
    """The value a filter or an order key names."""
    if key in _ATTRIBUTES:
        value = getattr(run, _ATTRIBUTES[key])
        return MISSING if value is None else value
    if key in ("username", "user", "user.username"):
        return run.user.username if run.user else MISSING
    head, _, rest = key.partition(".")
    if head == "config" and rest:
        value = _walk(run.values, rest.split("."))
        return _walk(run.config, rest.split(".")) if value is MISSING else value
    if head in ("summary_metrics", "summaryMetrics") and rest:
        return _walk(run.summary, rest.split("."))
    return MISSING


def _walk(document: Any, parts: list[str]) -> Any:
    """Follow a dotted path, allowing for keys that hold dots themselves."""
    if not parts:
        return document
    if isinstance(document, dict):
        for count in range(len(parts), 0, -1):
            key = ".".join(parts[:count])
            if key in document:
                found = _walk(document[key], parts[count:])
                if found is not MISSING:
                    return found
    return MISSING
