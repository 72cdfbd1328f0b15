"""Sweeps: how they are read, and which parameters an agent is given next."""

from __future__ import annotations

import itertools
import json
import math
import random
import uuid
from collections.abc import Iterator
from typing import Any

import yaml

from ..state import Agent, Run, Sweep, now
from .connection import connection, global_id
from .context import Context, project_info
from .execute import View, obj
from .runs import RunView, select_runs

Json = dict[str, Any]


def sweep_id(sweep: Sweep) -> str:
    return global_id("Sweep", "v1", sweep.name, sweep.project.name, sweep.project.entity)


def agent_id(agent: Agent) -> str:
    return global_id("Agent", agent.number)


class SweepView(View):
    typename = "Sweep"

    def __init__(self, ctx: Context, sweep: Sweep) -> None:
        self._ctx = ctx
        self._sweep = sweep
        self.id = sweep_id(sweep)
        self.name = sweep.name
        self.displayName = sweep.display_name
        self.description = sweep.description
        self.state = sweep.state
        self.config = sweep.config
        self.method = _config(sweep).get("method", "grid")
        self.createdAt = sweep.created_at
        self.updatedAt = sweep.updated_at
        self.heartbeatAt = sweep.updated_at
        self.runCount = len(sweep.runs)
        self.runCountExpected = _expected(sweep)
        self.controller = None
        self.controllerRunName = None
        self.scheduler = None
        self.earlyStopJobRunning = False

    def project(self) -> Json:
        return project_info(self._sweep.project)

    def bestLoss(self) -> float | None:
        metric = _config(self._sweep).get("metric", {})
        values = [run.summary.get(metric.get("name")) for run in self._sweep.runs]
        numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
        best = max if metric.get("goal") == "maximize" else min
        return best(numbers, default=None)

    def runs(
        self,
        first: int | None = None,
        after: str | None = None,
        filters: str | None = None,
        order: str | None = None,
    ) -> Json:
        return self._runs(self._sweep.runs, first, after, filters, order)

    def agents(self) -> Json:
        return connection("Agent", self._sweep.agents, self._agent)

    def agent(self, agentName: str) -> Json | None:
        found = [agent for agent in self._sweep.agents if agent_id(agent) == agentName]
        return self._agent(found[0]) if found else None

    def _agent(self, agent: Agent) -> Json:
        mine = [run for run in self._sweep.runs if run.name in agent.given]
        return obj(
            "Agent",
            id=agent_id(agent),
            name=agent_id(agent),
            host=agent.host,
            state=self._sweep.state,
            totalRuns=len(agent.given),
            createdAt=agent.created_at,
            heartbeatAt=agent.heartbeat_at,
            runs=lambda first=None, after=None: self._runs(mine, first, after),
        )

    def _runs(
        self,
        runs: list[Run],
        first: int | None,
        after: str | None,
        filters: str | None = None,
        order: str | None = None,
    ) -> Json:
        chosen = select_runs(runs, filters, order)
        return connection("Run", chosen, lambda run: RunView(self._ctx, run), first, after)


def next_commands(agent: Agent, running: dict[str, bool]) -> list[Json]:
    """What an agent is to do: one run at a time, and to leave when nothing is left."""
    agent.heartbeat_at = now()
    sweep = agent.sweep
    if any(running.values()):
        return []
    if sweep.state in ("FINISHED", "CANCELED"):
        return [{"type": "exit"}]
    if sweep.state == "PAUSED":
        return []
    if sweep.pending is None:
        sweep.pending = _parameters(_config(sweep))
    given = sum(len(each.given) for each in sweep.agents)
    cap = _config(sweep).get("run_cap")
    chosen = None if cap is not None and given >= cap else next(sweep.pending, None)
    if chosen is None:
        sweep.state = "FINISHED"
        return [{"type": "exit"}]
    sweep.state = "RUNNING"
    sweep.updated_at = now()
    name = uuid.uuid4().hex[:8]
    agent.given.append(name)
    program = _config(sweep).get("program")
    args = {key: {"value": value, "desc": None} for key, value in chosen.items()}
    return [{"id": name, "type": "run", "run_id": name, "program": program, "args": args}]


def _config(sweep: Sweep) -> Json:
    loaded: Json = yaml.safe_load(sweep.config) or {}
    return loaded


def _expected(sweep: Sweep) -> int | None:
    config = _config(sweep)
    cap = config.get("run_cap")
    if config.get("method") != "grid":
        return cap
    return len(list(itertools.islice(_parameters(config), cap)))


def _parameters(config: Json) -> Iterator[Json]:
    """Every combination of a grid; an endless series, always the same, for other methods."""
    spaces = config.get("parameters", {})
    if config.get("method", "grid") == "grid":
        choices = [_choices(space) for space in spaces.values()]
        for values in itertools.product(*choices):
            yield dict(zip(spaces, values, strict=True))
        return
    source = random.Random(json.dumps(config, sort_keys=True))
    while True:
        yield {key: _draw(source, space) for key, space in spaces.items()}


def _choices(space: Json) -> list[Any]:
    return list(space["values"]) if "values" in space else [space.get("value")]


def _draw(source: random.Random, space: Json) -> Any:
    if "min" not in space:
        return source.choice(_choices(space))
    if isinstance(space["min"], int) and isinstance(space["max"], int):
        return source.randint(space["min"], space["max"])
    return source.uniform(space["min"], space["max"])
