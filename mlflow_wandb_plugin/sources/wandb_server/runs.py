"""List the runs of a W&B server, and convert its descriptions of runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from mlflow_wandb_plugin.core import step_axes
from mlflow_wandb_plugin.core.identity import SERVER
from mlflow_wandb_plugin.core.model import RunInfo, RunState, Selection, flatten
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.mapping import to_mlflow
from mlflow_wandb_plugin.sources.wandb_server.sweep_config import sweep_config
from mlflow_wandb_plugin.wandb_api.client import WandbClient
from mlflow_wandb_plugin.wandb_log.metadata_file import facts_of
from mlflow_wandb_plugin.wandb_log.summary import INTERNAL_KEYS

RUNS_A_PAGE = 100

_FIELDS = """
    name displayName state config summaryMetrics tags notes group jobType commit sweepName
    createdAt heartbeatAt historyLineCount user { username name }
"""

RUNS = f"""
query Runs($entity: String!, $project: String!, $cursor: String, $perPage: Int,
           $order: String, $filters: JSONString) {{
  project(name: $project, entityName: $entity) {{
    runs(filters: $filters, after: $cursor, first: $perPage, order: $order) {{
      edges {{ node {{ {_FIELDS} }} cursor }}
      pageInfo {{ endCursor hasNextPage }}
    }}
  }}
}}
"""

RUN = f"""
query Run($entity: String!, $project: String!, $run: String!) {{
  project(name: $project, entityName: $entity) {{
    run(name: $run) {{ {_FIELDS} historyKeys systemMetrics eventsLineCount logLineCount }}
  }}
}}
"""

COUNT = """
query RunCount($entity: String!, $project: String!, $filters: JSONString) {
  project(name: $project, entityName: $entity) { runCount(filters: $filters) }
}
"""

SWEEP = """
query GetSweep($entity: String!, $project: String!, $name: String!) {
  project(name: $project, entityName: $entity) {
    sweep(sweepName: $name) { name displayName description config }
  }
}
"""

STATES: Mapping[str, RunState] = {
    "running": "running", "pending": "running", "preempting": "running", "finished": "finished",
    "failed": "failed", "crashed": "crashed", "killed": "killed", "preempted": "preempted",
}  # fmt: skip
_PLAIN_NAME = re.compile(r"[^\\^$.|?*+()\[\]{}]*")


class RunLister:
    """Lists the runs of a client's project, a page at a time."""

    def __init__(self, client: WandbClient) -> None:
        self._client = client
        self._sweeps: dict[str, dict[str, Any]] = {}

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """Yield the selected runs as the server orders them.

        Raises:
            SourceError: the project cannot be listed.
        """
        run_id = self._client.address.run_id
        if run_id:
            nodes: Iterator[dict[str, Any]] = iter((self.node(run_id),))
        else:
            nodes = self._client.pages(lambda cursor: self._page(selection, cursor))
        seen: set[str] = set()
        for node in nodes:
            info = self.info(node)
            # Runs that are added or deleted meanwhile move others to another page.
            if info.run_id not in seen and selection.takes(info):
                yield info
            seen.add(info.run_id)

    def count(self, selection: Selection) -> int:
        """Return how many runs the server finds, before `Selection.takes` filters them.

        Raises:
            SourceError: the project cannot be listed.
        """
        if self._client.address.run_id:
            return 1
        filters = json.dumps(server_filter(selection))
        return int(self._client.project(COUNT, filters=filters).get("runCount") or 0)

    def _page(self, selection: Selection, cursor: str | None) -> Any:
        order = "-created_at" if selection.newest_first else "+created_at"
        page = {"cursor": cursor, "perPage": RUNS_A_PAGE, "order": order}
        filters = json.dumps(server_filter(selection))
        return self._client.project(RUNS, **page, filters=filters).get("runs")

    def node(self, run_id: str) -> dict[str, Any]:
        """Return the server's full description of a run; SourceError if there is no such run."""
        return self._client.run(RUN, run_id)

    def info(self, node: Mapping[str, Any]) -> RunInfo:
        """Convert a run of a listing, or a `node`."""
        address = self._client.address
        run_id = str(node["name"])
        config, environments = _config(node.get("config"))
        environment = max(environments, key=lambda one: str(one.get("startedAt", "")), default={})
        state = STATES.get(str(node.get("state")), "running")
        user = node.get("user") or {}
        sweep_id = node.get("sweepName") or ""
        facts = facts_of(environment)
        starts = (iso_to_ms(one.get("startedAt")) for one in environments)
        facts.update({name: value for name, value in {
            "process_started_ms": min((at for at in starts if at is not None), default=None),
            "account": user.get("username") or user.get("name"),
            "git_commit": node.get("commit") or facts.get("git_commit"),
            **(self._sweep(sweep_id) if sweep_id else {}),
        }.items() if value})  # fmt: skip
        described = RunInfo(
            run_id=run_id,
            project=address.project,
            entity=address.entity,
            name=node.get("displayName") or "",
            notes=node.get("notes") or "",
            tags=tuple(map(str, node.get("tags") or ())),
            group=node.get("group") or "",
            job_type=node.get("jobType") or "",
            sweep_id=sweep_id,
            url=address.run_url(run_id),
            segments=(SERVER,),
            state=state,
            started_ms=iso_to_ms(node.get("createdAt")),
            ended_ms=None if state == "running" else iso_to_ms(node.get("heartbeatAt")),
            config=config,
            first_config=flatten({key: value for key, value in config.items() if key != "_wandb"}),
            summary=document(node.get("summaryMetrics"), without=INTERNAL_KEYS),
            rows={SERVER: int(node.get("historyLineCount") or 0)},
            facts=facts,
        )
        defined = step_axes.of_entries(to_mlflow.metric_definitions(described))
        return replace(described, step_definitions=defined)

    def _sweep(self, name: str) -> dict[str, Any]:
        """Return facts about a sweep, requested once; of a deleted sweep only its id."""
        if name not in self._sweeps:
            try:
                sweep = self._client.project(SWEEP, name=name).get("sweep") or {}
            except SourceUnavailableError:
                raise
            except SourceError:
                sweep = {}
            self._sweeps[name] = {
                "sweep_name": sweep.get("displayName") or name,
                "sweep_config": sweep_config(sweep.get("config")),
            }
        return self._sweeps[name]


def with_metadata(info: RunInfo, metadata: Mapping[str, Any]) -> RunInfo:
    """Return ``info`` with the facts of the run's wandb-metadata.json."""
    return replace(info, facts={**facts_of(metadata), **info.facts})


def server_filter(selection: Selection) -> dict[str, Any]:
    """Return the part of ``selection`` that the server can apply; `Selection.takes` does the rest.

    Times are widened by a day, because the service's time zone is not known.
    """
    parts: list[dict[str, Any]] = (
        [dict(selection.filter)]
        if isinstance(selection.filter, Mapping) and selection.filter
        else []
    )
    if selection.states:
        wanted = set(selection.states)
        parts.append({"state": {"$in": [name for name, ours in STATES.items() if ours in wanted]}})
    if selection.groups:
        parts.append({"group": {"$in": list(selection.groups)}})
    day = 86_400_000
    if selection.since_ms is not None:
        parts.append({"createdAt": {"$gte": _iso(selection.since_ms - day)}})
    if selection.until_ms is not None:
        parts.append({"createdAt": {"$lt": _iso(selection.until_ms + day)}})
    if selection.runs and all(_PLAIN_NAME.fullmatch(name) for name in selection.runs):
        names = {"$in": list(selection.runs)}
        parts.append({"$or": [{"name": names}, {"displayName": names}]})
    return {"$and": parts} if parts else {}


def iso_to_ms(text: Any) -> int | None:
    """Convert an ISO 8601 time to Unix ms, None if it is not one; without a zone it is UTC."""
    found = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?", str(text or "")
    )
    if found is None:
        return None
    zone = found[4] or "Z"
    zone = "+0000" if zone == "Z" else zone.replace(":", "")
    moment = datetime.strptime(f"{found[1]}T{found[2]}{zone}", "%Y-%m-%dT%H:%M:%S%z")
    return int(moment.timestamp()) * 1000 + int(float(found[3] or 0) * 1000)


def _iso(at_ms: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=max(0, at_ms))
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _config(text: Any) -> tuple[dict[str, Any], Sequence[Mapping[str, Any]]]:
    """Return the user's config, unwrapped, and the environments of the processes."""
    config: dict[str, Any] = {}
    environments: list[Mapping[str, Any]] = []
    for key, item in document(text).items():
        value = item["value"] if isinstance(item, Mapping) and "value" in item else item
        config[key] = value
        if key == "_wandb" and isinstance(value, Mapping) and isinstance(value.get("e"), Mapping):
            environments = [one for one in value["e"].values() if isinstance(one, Mapping)]
    return config, environments


def document(text: Any, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Parse a JSON object that the server sends as text; empty if there is none."""
    try:
        found = json.loads(text, strict=False) if isinstance(text, str) and text else text
    except ValueError:
        # A damaged document must neither stop the listing nor be dropped.
        found = {"unreadable": text}
    if not isinstance(found, Mapping):
        return {}
    return {str(key): value for key, value in found.items() if key not in without}
