"""The roots of mutations: runs and sweeps here, artifacts in their own module."""

from __future__ import annotations

import json
import uuid
from typing import Any

from ..state import Agent, Project, Run, Sweep, now
from .artifact_mutation import ArtifactMutation
from .connection import global_id
from .context import Context, run_id
from .execute import GraphQLFailure, obj
from .query import ProjectView
from .runs import RunView
from .sweeps import SweepView, agent_id, next_commands, sweep_id

Json = dict[str, Any]

_RUN_TEXTS = {
    "displayName": "display_name",
    "description": "description",
    "notes": "notes",
    "groupName": "group",
    "jobType": "job_type",
    "commit": "commit",
    "host": "host",
    "jobProgram": "program",
    "sweep": "sweep_name",
    "tags": "tags",
}


class Mutation(ArtifactMutation):
    typename = "Mutation"
    strict = True

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._ctx = ctx
        self._store = ctx.store

    def upsertBucket(self, input: Json) -> Json:
        run, inserted = self._upserted(input)
        for key, attribute in _RUN_TEXTS.items():
            if input.get(key) is not None:
                setattr(run, attribute, input[key])
        if input.get("config") is not None:
            run.config = json.loads(input["config"])
        if input.get("summaryMetrics") is not None:
            run.summary = json.loads(input["summaryMetrics"])
        if input.get("state") is not None:
            run.state = input["state"]
        run.display_name = run.display_name or run.name
        return obj("UpsertBucketPayload", bucket=RunView(self._ctx, run), inserted=inserted)

    def _upserted(self, input: Json) -> tuple[Run, bool]:
        """A run is addressed by its storage id, or by names, and then created when missing."""
        if input.get("id"):
            found = [run for run in self._store.runs() if run_id(run) == input["id"]]
            if found:
                return found[0], False
            if not input.get("name"):
                raise GraphQLFailure("run not found")
        project = self._project(input.get("entityName"), input.get("modelName"))
        name = input.get("name") or uuid.uuid4().hex[:8]
        if name in project.runs:
            return project.runs[name], False
        run = project.runs[name] = Run(project, name, user=self._store.user)
        return run, True

    def _project(self, entity: str | None, name: str | None) -> Project:
        project = self._store.project(entity, name, create=True)
        assert project is not None
        return project

    def createRunFiles(self, input: Json) -> Json:
        run = self._run_named(input)
        files = []
        for name in input["files"]:
            blob = run.files.get(name) or self._store.new_blob()
            run.files[name] = blob
            url = self._ctx.storage_url(blob, name)
            files.append(obj("File", name=name, uploadUrl=url))
        return obj("CreateRunFilesPayload", runID=run_id(run), uploadHeaders=[], files=files)

    def markRunFilesUploaded(self, input: Json) -> Json:
        self._run_named(input).marked_uploaded.update(input["files"])
        return obj("MarkRunFilesUploadedPayload", success=True)

    def deleteFiles(self, input: Json) -> Json:
        wanted = set(input["files"])
        for run in self._store.runs():
            for name in list(run.files):
                if global_id("File", run.path, name) in wanted:
                    del run.files[name]
        return obj("DeleteFilesPayload", success=True)

    def deleteRun(self, input: Json) -> Json:
        run = self._run_with(input["id"])
        del run.project.runs[run.name]
        self._store.deleted_runs.append(run)
        return obj("DeleteRunPayload", clientMutationId=None)

    def stopRun(self, input: Json) -> Json:
        self._run_with(input["id"]).stopped = True
        return obj("StopRunPayload", success=True)

    def updateRunState(self, input: Json) -> Json:
        self._run_with(input["id"]).state = input["state"]
        return obj("UpdateRunStatePayload", success=True)

    def rewindRun(self, input: Json) -> Json:
        if input["metricName"] != "_step":
            raise GraphQLFailure("only a rewind to a step is known here")
        run = self._run_named(input)
        run.history.truncate(int(input["metricValue"]))
        run.state = "running"
        return obj("RewindRunPayload", rewoundRun=RunView(self._ctx, run))

    def notifyScriptableRunAlert(self, input: Json) -> Json:
        self._run_named(input).alerts.append(input)
        return obj("NotifyScriptableRunAlertPayload", success=True)

    def createCustomChart(self, input: Json) -> Json:
        return obj("CreateCustomChartPayload", chart=obj("Chart", id=input["name"]))

    def upsertModel(self, input: Json) -> Json:
        known = self._store.project(input.get("entityName"), input.get("name"))
        project = self._project(input.get("entityName"), input.get("name"))
        view = ProjectView(self._ctx, project)
        return obj("UpsertModelPayload", project=view, model=view, inserted=known is None)

    def upsertSweep(self, input: Json) -> Json:
        sweep = self._upserted_sweep(input)
        for key in ("config", "state", "description"):
            if input.get(key) is not None:
                setattr(sweep, key, input[key])
        sweep.display_name = input.get("displayName") or sweep.display_name
        sweep.updated_at = now()
        view = SweepView(self._ctx, sweep)
        return obj("UpsertSweepPayload", sweep=view, configValidationWarnings=[])

    def _upserted_sweep(self, input: Json) -> Sweep:
        if input.get("id"):
            sweeps = [s for p in self._store.projects.values() for s in p.sweeps.values()]
            for sweep in sweeps:
                if input["id"] in (sweep_id(sweep), sweep.name):
                    return sweep
            raise GraphQLFailure("sweep not found")
        project = self._project(input.get("entityName"), input.get("projectName"))
        name = uuid.uuid4().hex[:8]
        sweep = project.sweeps[name] = Sweep(project, name, input["config"], user=self._store.user)
        return sweep

    def createAgent(self, input: Json) -> Json:
        project = self._project(input.get("entityName"), input.get("projectName"))
        sweep = project.sweeps.get(input["sweep"])
        if sweep is None:
            raise GraphQLFailure(f"sweep {input['sweep']} not found")
        agent = Agent(sweep, self._store.number(), input["host"])
        sweep.agents.append(agent)
        self._store.agents[agent.number] = agent
        return obj("CreateAgentPayload", agent=obj("Agent", id=agent_id(agent)))

    def agentHeartbeat(self, input: Json) -> Json:
        found = [a for a in self._store.agents.values() if agent_id(a) == input["id"]]
        if not found:
            raise GraphQLFailure("agent not found")
        commands = next_commands(found[0], json.loads(input.get("runState") or "{}"))
        agent = obj("Agent", id=input["id"])
        return obj("AgentHeartbeatPayload", agent=agent, commands=json.dumps(commands))

    def _run_named(self, input: Json) -> Run:
        project = self._store.project(input.get("entityName"), input.get("projectName"))
        run = project.runs.get(input["runName"]) if project else None
        if run is None:
            raise GraphQLFailure(f"run {input['runName']} not found")
        return run

    def _run_with(self, identifier: str) -> Run:
        for run in self._store.runs():
            if run_id(run) == identifier:
                return run
        raise GraphQLFailure("run not found")
