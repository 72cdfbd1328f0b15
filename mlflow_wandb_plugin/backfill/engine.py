"""The engine: read a run from a source, write it to a target. Live replication and every
backfill are this one loop; they differ in the source's patience only."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mlflow_wandb_plugin import identity
from mlflow_wandb_plugin.endpoints.base import RunWriter, Source, Target
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.identity import Verdict
from mlflow_wandb_plugin.model import (
    ArtifactRef,
    Damage,
    FileRef,
    Item,
    Mark,
    RowObjects,
    RunInfo,
    Selection,
    Series,
)


class Listener:
    """Told of progress. The default hears nothing; the CLI draws a bar."""

    def points(self, count: int) -> None: ...

    def run_done(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run.

    Attributes:
        action: migrated, repaired, skipped or failed; reason says why, in words.
        mlflow_run_id: of the twin, where there is one.
    """

    run: RunInfo
    verdict: Verdict
    action: str
    reason: str = ""
    mlflow_run_id: str = ""
    points: int = 0
    losses: Mapping[str, int] = field(default_factory=dict)
    damage: tuple[Damage, ...] = ()


@dataclass(slots=True)
class Carried:
    """What `replicate` moved, and the run as it was at the end."""

    points: int = 0
    info: RunInfo | None = None
    damage: list[Damage] = field(default_factory=list)


def replicate(
    items: Iterable[Item],
    writer: RunWriter,
    progress: Callable[[int], None] | None = None,
    complete: bool = True,
) -> Carried:
    """Write ``items`` of one run; the last `RunInfo` among them finishes it.

    Args:
        complete: whether the run may be marked complete. It is only if it has ended.

    Raises:
        MlflowWandbError: reading or writing failed; nothing is marked as done.
    """
    carried = Carried()
    for item in items:
        if isinstance(item, Series):
            writer.append(item)
            carried.points += len(item.values)
            if progress is not None:
                progress(len(item.values))
        elif isinstance(item, Mark):
            writer.checkpoint(item)
        elif isinstance(item, RunInfo):
            writer.update(item)
            carried.info = item
        elif isinstance(item, Damage):
            carried.damage.append(item)
        elif isinstance(item, (FileRef, ArtifactRef, RowObjects)):
            writer.add(item)
    if carried.info is not None:
        whole = carried.info.state != "running" and not carried.info.missing
        writer.finish(carried.info, complete=complete and whole)
    return carried


def backfill(
    source: Source,
    target: Target,
    selection: Selection,
    workers: int = 1,
    listener: Listener | None = None,
) -> Iterator[Outcome]:
    """Carry the selected runs to the target; yield an outcome a run, as each is done.

    Runs that the target already has complete are skipped, runs with holes are filled. One
    run's failure does not stop the others.
    """
    listener = listener or Listener()
    runs = source.runs(selection)
    with concurrent.futures.ThreadPoolExecutor(workers, "mlflow-wandb-backfill") as pool:
        waiting: set[concurrent.futures.Future[Outcome]] = set()
        for run in runs:
            waiting.add(pool.submit(_one_run, source, target, run, listener))
            if len(waiting) >= 2 * workers:
                done, waiting = concurrent.futures.wait(
                    waiting, return_when=concurrent.futures.FIRST_COMPLETED
                )
                yield from (future.result() for future in done)
        for future in concurrent.futures.as_completed(waiting):
            yield future.result()


def _one_run(source: Source, target: Target, run: RunInfo, listener: Listener) -> Outcome:
    verdict: Verdict = "new"
    try:
        twin = target.find(run)
        verdict = identity.verdict(run, twin)
        if verdict in ("dual-written", "existing", "foreign"):
            assert twin is not None
            outcome = Outcome(run, verdict, "skipped", _REASONS[verdict], twin.run_id)
        else:
            writer = target.open(run, "backfill", twin)
            try:
                carried = replicate(source.read(run, writer.position), writer, listener.points)
            finally:
                writer.close()
            outcome = Outcome(
                carried.info or run,
                verdict,
                "migrated" if verdict == "new" else "repaired",
                mlflow_run_id=writer.run_id,
                points=carried.points,
                losses=dict(writer.losses),
                damage=tuple(carried.damage),
            )
    except MlflowWandbError as error:
        outcome = Outcome(run, verdict, "failed", str(error))
    listener.run_done(outcome)
    return outcome


_REASONS = {
    "dual-written": "dual-written and complete",
    "existing": "migrated before and complete",
    "foreign": "written by another tool",
}
