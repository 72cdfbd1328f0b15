"""A W&B server as a target: ``wandb://ENTITY[/PROJECT]`` and ``wandb+https://HOST/ENTITY…``."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Origin, Twin
from mlflow_wandb_plugin.core.model import Key, RunInfo
from mlflow_wandb_plugin.core.protocols import Place, Source, Target, TargetOptions, WriteMethod
from mlflow_wandb_plugin.errors import (
    SourceError,
    SourceUnavailableError,
    TargetError,
    TargetUnavailableError,
    TargetUnusableError,
    UsageError,
)
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.targets.wandb import log_records
from mlflow_wandb_plugin.targets.wandb.history_rows import LackingRows
from mlflow_wandb_plugin.targets.wandb.log_records import LogArtifact
from mlflow_wandb_plugin.targets.wandb.log_upload import upload_log
from mlflow_wandb_plugin.targets.wandb.lookup import Access, RemoteRun, RunAddress
from mlflow_wandb_plugin.targets.wandb.replica_folder import (
    ReplicaFolder,
    check_run_id,
    folder_name,
    in_rounds,
)
from mlflow_wandb_plugin.targets.wandb.replica_search import ReplicaSearch
from mlflow_wandb_plugin.targets.wandb.replica_writer import (
    Arrived,
    ReplicaPlace,
    ReplicaWriter,
    end_record,
)
from mlflow_wandb_plugin.targets.wandb.run_changes import RunChanges, artifact_key
from mlflow_wandb_plugin.targets.wandb.run_comparison import WandbRunComparison
from mlflow_wandb_plugin.targets.wandb.turns import Turns
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress
from mlflow_wandb_plugin.wandb_api.config_keys import set_config_keys

PATIENCE_S = 300.0
"""How long a server that has answered before is asked again."""
WRITE_METHOD = WriteMethod("own", "a transaction log that wandb-core uploads")


class Found(NamedTuple):
    """A run of the server with the id of a run of the source."""

    remote: RemoteRun
    replica: Mapping[str, str]
    """Its tags of identity; empty if this package did not write it."""


class WandbTarget(Target):
    """A `Target` that writes runs to a W&B server, each with the id that it has in the source.

    Args:
        address: of the server; without a project, each run goes into the one that the option
            ``experiment`` names.
        options: of the target.
        read_back: opens a project of this server as a source, for comparisons.
    """

    comparable = True
    write_method = WRITE_METHOD

    def __init__(
        self,
        address: ProjectAddress,
        options: TargetOptions,
        read_back: Callable[[ProjectAddress], Source],
    ) -> None:
        self._address = address
        self._options = options
        self._read_back = read_back
        self._access = Access(PATIENCE_S, address)
        self._replicas = ReplicaSearch(self._access)
        self._turns = Turns()

    def check(self) -> None:
        try:
            self._access.entity()
        except SourceUnavailableError as error:
            raise TargetUnavailableError(str(error)) from error
        except (SourceError, UsageError) as error:
            raise TargetUnusableError(str(error)) from error

    def find(self, info: RunInfo) -> Twin | None:
        """Return the run of that id in the target's project; foreign if others wrote it."""
        project = self._project_of(info)
        with as_target_errors():
            config = self._replicas.find(project, info.run_id)
        if config is None:
            return self._beside(info)
        tags = _replica_tags(info, config)
        return Twin(
            run_id=info.run_id,
            experiment_id=project.path,
            origin=tags.get(identity.ORIGIN, ""),
            state=tags.get(identity.STATE, ""),
            position=identity.read_numbers(tags, identity.POSITION),
            rows=identity.read_numbers(tags, identity.ROWS),
            foreign=not tags,
            selection=tags.get(identity.SELECTION, identity.EVERYTHING),
        )

    def _beside(self, info: RunInfo) -> Twin | None:
        """Return the W&B run that was open while an MLflow run was logged, if each of the two names
        the other."""
        run_id, project = (
            str(info.facts.get(tag) or "")
            for tag in (identity.BESIDE_RUN_ID, identity.BESIDE_PROJECT)
        )
        if not run_id or not project or not self._options.find_dual_written:
            return None
        entity = str(info.facts.get(identity.BESIDE_ENTITY) or self._address.entity)
        place = replace(self._address, entity=entity, project=project)
        with as_target_errors():
            config = self._replicas.find(place, run_id)
        if config is None or info.run_id not in identity.runs_beside(config):
            return None
        return Twin(run_id, place.path, "", "complete", {}, {}, beside=True)

    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> ReplicaWriter:
        check_run_id(info.run_id)
        project = self._project_of(info)
        with as_target_errors():
            found = self._found(info)
        arrived, rows = Arrived(), None
        if found is not None:
            remote, replica = found
            _check_replica(found, f"{project.path}/{info.run_id}", self._options.selection)
            arrived = Arrived(remote.rows, remote.lines, remote.system_samples, replica)
            if replica.get(identity.ORIGIN) == "dual":
                rows = self._lacking_rows(project, info, remote.rows)
        place = ServerPlace(project, self._access, lambda: self._turns.wait(_turn(info)))
        return ReplicaWriter(place, info, origin, arrived, self._options.selection, rows=rows)

    def announce(self, info: RunInfo) -> None:
        self._turns.begin(_turn(info))

    def settle(self, info: RunInfo) -> None:
        self._turns.end(_turn(info))

    def place(self, experiment_id: str, run_id: str) -> Place:
        entity, _, project = experiment_id.partition("/")
        address = replace(self._address, entity=entity, project=project)
        return Place(experiment_id, address.run_url(run_id))

    def destination(self, info: RunInfo) -> str:
        return self._project_of(info).path

    def compare(self, info: RunInfo, twin: Twin) -> WandbRunComparison:
        return WandbRunComparison(twin, self._read_back(self._project_of(info)))

    def lacking(self, info: RunInfo, twin: Twin, counts: Mapping[Key, int]) -> str:
        entity, _, project = twin.experiment_id.partition("/")
        source = self._read_back(replace(self._address, entity=entity, project=project))
        there = source.point_counts(RunInfo(twin.run_id, project, entity)) or {}
        lacks = {key: count for key, count in counts.items() if there.get(key, 0) < count}
        return f"W&B lacks points of {len(lacks)} metrics" if lacks else ""

    def _lacking_rows(self, project: ProjectAddress, info: RunInfo, next_row: int) -> LackingRows:
        """Collect what a run lacks whose mirror has ended, such as what came after a full disk."""
        run = RunInfo(info.run_id, project.project, project.entity)
        with as_target_errors():
            return LackingRows(self._read_back(project).history(run), next_row)

    def _project_of(self, info: RunInfo) -> ProjectAddress:
        mapped = self._options.projects.get(info.project_path)
        if mapped:
            entity, _, project = mapped.partition("/")
            return replace(self._address, entity=entity, project=project)
        if self._address.project:
            return self._address
        name = self._options.experiment.replace("{project}", info.project)
        name = rules.project_name(name.replace("{entity}", info.entity), "")
        return replace(self._address, project=name)

    def _found(self, info: RunInfo) -> Found | None:
        project = self._project_of(info)
        address = RunAddress(project.entity, project.project, info.run_id)
        remote = self._access.run(address)
        return Found(remote, _replica_tags(info, remote.config)) if remote.exists else None


def _check_replica(found: Found, path: str, selection: str) -> None:
    """Check that a run of W&B may be written.

    Raises:
        TargetError: others wrote it, its mirror has not ended, or it has other metrics.
    """
    if not found.replica:
        raise TargetError(
            f"{path} exists in W&B, and this package did not write it: choose another project, or "
            "delete that run"
        )
    if (
        found.replica.get(identity.ORIGIN) == "dual"
        and found.replica.get(identity.STATE) != "complete"
    ):
        raise TargetError(
            f"{path} was mirrored while it ran, and is not complete: run mlflow-wandb sync, which "
            "delivers its journal. If there is none any more, write it into another project (--to "
            "or --map)"
        )
    if found.remote.lines:
        _check_selection(found.replica.get(identity.SELECTION, ""), selection)


def _replica_tags(info: RunInfo, config: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the tags of identity in a run's config; empty if it does not replicate ``info``."""
    tags = config.get(identity.REPLICA_CONFIG_KEY)
    if isinstance(tags, Mapping):
        texts = identity.tags_in(tags)
        return texts if identity.same_run(info, texts) else {}
    mirrored = config.get(rules.MLFLOW_KEY)
    named = config.get(identity.RUN_ID_CONFIG_KEY)
    if isinstance(mirrored, Mapping) and named == info.config.get(identity.RUN_ID_CONFIG_KEY):
        # Mirrored by the replicator, which checks that everything has arrived before the end.
        ended = mirrored.get("status") in rules.EXIT_CODES
        position = json.dumps(identity.ended({}, info.segments)) if ended else "{}"
        state = "complete" if ended else "live"
        return {
            identity.RUN_ID: info.run_id,
            identity.ORIGIN: "dual",
            identity.STATE: state,
            identity.POSITION: position,
        }
    return {}


class ServerPlace(ReplicaPlace):
    """A run of a W&B server.

    Args:
        wait_for_earlier: waits until all runs that come before this one have been written.
    """

    def __init__(
        self, address: ProjectAddress, access: Access, wait_for_earlier: Callable[[], None]
    ) -> None:
        self.entity, self.project = address.entity, address.project
        self._address = address
        self._access = access
        self._wait_for_earlier = wait_for_earlier
        self._above = Path(tempfile.mkdtemp(prefix="mlflow-wandb-upload-"))

    def folder(self, info: RunInfo) -> Path:
        return self._above / folder_name(info)

    def lacking_files(self, info: RunInfo, files: Mapping[str, Path]) -> list[str]:
        if not files:
            return []
        with as_target_errors():
            if not self._access.run(self._run(info)).exists:
                return list(files)
            return self._access.missing_files(self._run(info), files)

    def remove_files(self, info: RunInfo, paths: Sequence[str]) -> None:
        with as_target_errors():
            there = self._access.run(self._run(info)).exists
        if there:
            self._changes(info).delete_files(paths)

    def clear(self, info: RunInfo, fields: Collection[str]) -> None:
        self._changes(info).clear(fields)

    def artifacts_of_log(self, folder: ReplicaFolder) -> Sequence[LogArtifact]:
        """None: each round of artifacts has a log of its own, so that the error of one concerns no
        other part of the run."""
        return ()

    def deliver(self, info: RunInfo, folder: ReplicaFolder, whole: Arrived) -> None:
        with as_target_errors():
            self._upload(folder.log_path, info)
            if folder.artifacts or folder.used:
                # W&B numbers the versions of an artifact as they arrive: in the runs' order.
                self._wait_for_earlier()
                self._deliver_artifacts(info, folder)
            run = self._run(info)
            self._access.wait_for_arrival(run, whole.rows, folder.files, whole.lines)
            if whole.replica:
                client = self._access.client(self.entity, self.project)
                keys = {identity.REPLICA_CONFIG_KEY: dict(whole.replica)}
                set_config_keys(client, info.run_id, keys)

    def _deliver_artifacts(self, info: RunInfo, folder: ReplicaFolder) -> None:
        """Upload the artifacts that W&B does not have, and change those that it has."""
        run, wanted = self._run(info), [one for one in folder.artifacts if not one.about.used]
        there = self._access.logged_artifacts(run) if wanted else set()
        known = [artifact for artifact in wanted if artifact_key(artifact) in there]
        new = [artifact for artifact in folder.artifacts if artifact not in known]
        self._upload_artifacts(info, folder, new)
        keys = {artifact_key(artifact) for artifact in wanted}
        if missing := self._access.missing_artifacts(run, keys):
            # wandb-core does not say which artifact W&B refused, nor that it did.
            again = [artifact for artifact in wanted if artifact_key(artifact) in missing]
            self._upload_artifacts(info, folder, again)
            folder.losses["artifact"] += len(self._access.missing_artifacts(run, missing))
        if known:
            self._changes(info).update_artifacts(known)
        for used in folder.used:
            if not self._access.use_artifact(run, used):
                folder.losses["used_artifact"] += 1

    def _upload_artifacts(
        self, info: RunInfo, folder: ReplicaFolder, artifacts: Sequence[LogArtifact]
    ) -> None:
        """Upload artifacts, each version of one when the ones before it have a number."""
        for part in in_rounds(artifacts):
            records = [log_records.run(info, self.entity, self.project, {})]
            records += [self.artifact_record(info, artifact) for artifact in part]
            self._upload(folder.further_log([*records, end_record(info)]), info)

    def _upload(self, log: Path, info: RunInfo) -> None:
        program = str(info.facts.get("program") or "")
        upload_log(log, self._address, info.state != "running", program)

    def close(self) -> None:
        shutil.rmtree(self._above, ignore_errors=True)

    def _changes(self, info: RunInfo) -> RunChanges:
        return RunChanges(self._address, info.run_id)

    def _run(self, info: RunInfo) -> RunAddress:
        return RunAddress(self.entity, self.project, info.run_id)


def _check_selection(before: str, now: str) -> None:
    """Raise a TargetError if the rows that W&B has lack metrics that are wanted now."""
    if before != identity.EVERYTHING and _metrics(before) != _metrics(now):
        raise TargetError(
            "the run was written with other metrics, and W&B cannot add values to its rows: delete "
            "the run in W&B, or choose another project"
        )


def _metrics(selection: str) -> object:
    """Return the part of a selection's text that is about metrics."""
    try:
        chosen = json.loads(selection or "{}")
    except ValueError:
        return selection
    return chosen.get("include") or [], chosen.get("exclude") or []


def _turn(info: RunInfo) -> str:
    return info.path


@contextlib.contextmanager
def as_target_errors() -> Iterator[None]:
    """Turn the errors of W&B's client, which sources share, into those of a target."""
    try:
        yield
    except SourceUnavailableError as error:
        raise TargetUnavailableError(str(error), error.retry_after_s) from error
    except (SourceError, UsageError) as error:
        raise TargetError(str(error)) from error
