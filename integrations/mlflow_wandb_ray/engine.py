"""``mlflow-wandb backfill --engine ray``: copy the runs of a backfill on a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.carrier import selected
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.engines import remote
from mlflow_wandb_plugin.backfill.engines.remote import RemoteOutcome
from mlflow_wandb_plugin.backfill.options import Job
from mlflow_wandb_plugin.backfill.outcome import Listener, Outcome
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_ray import credentials
from mlflow_wandb_ray.request_gate import RequestGateActor, SharedTurns

RETRIES = 5
"""How often a task is restarted because its node or process died."""


class RayEngine:
    """The engine for ``--engine ray``.

    Each task copies one run, on any node that has this package. The target stores how far each run
    was copied, so a task that is restarted on another node resumes there.

    Args:
        address: of the cluster; empty means ``RAY_ADDRESS``, or a new cluster of this machine.
    """

    def __init__(self, address: str = "") -> None:
        self._address = address

    def check(self, job: Job) -> None:
        """Check that all nodes can write the target.

        Raises:
            UsageError: only this machine can, or Ray is not installed.
        """
        remote.check_many_may_write(
            job.to, "ray", "writes from many nodes, and {uri} is of one machine: "
            "start `mlflow server` and pass --to http://HOST:PORT",
        )  # fmt: skip

    def run(self, job: Job, listener: Listener, curves: Curves) -> Iterator[Outcome]:
        """See `mlflow_wandb_plugin.backfill.engines.base.Engine.run`."""
        self.check(job)
        everywhere = remote.resolve_job_uris(job)
        with _connected(self._address):
            keeper = _keeper()
            source = plugins.open_source(job.source, job.source_options(SharedTurns(keeper)))
            results = _TaskWindow(everywhere, keeper).carry(selected(source, job.selection))
            yield from remote.reported(results, source, listener, curves)


class _TaskWindow:
    """Limits the submitted tasks: enough to keep every CPU busy, with the next runs waiting."""

    def __init__(self, job: Job, keeper: Any) -> None:
        import ray

        self._job = ray.put(job)
        self._keeper = keeper
        self._workers = job.options.workers
        self._under_way: dict[Any, RunInfo] = {}
        self._task = ray.remote(max_retries=RETRIES)(carry_one)

    def carry(self, runs: Iterator[RunInfo]) -> Iterator[RemoteOutcome]:
        import ray

        try:
            for run in runs:
                while len(self._under_way) >= max(2, 2 * (self._workers or int(_cpus()))):
                    yield from self._done()
                task = self._task.options(num_cpus=self._share(), name=f"backfill {run.run_id}")
                self._under_way[task.remote(self._job, run, self._keeper)] = run
            while self._under_way:
                yield from self._done()
        finally:
            for reference in self._under_way:
                with contextlib.suppress(Exception):
                    ray.cancel(reference)

    def _share(self) -> float:
        """CPUs that one task reserves, so that ``workers`` tasks run at once: they mostly wait."""
        return max(0.01, min(1.0, _cpus() / self._workers)) if self._workers else 1.0

    def _done(self) -> Iterator[RemoteOutcome]:
        import ray

        # After the timeout the window is computed anew: nodes may have joined.
        ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=5.0)
        for reference in ready:
            run = self._under_way.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                yield Outcome(run, "new", "failed", why), {}


def carry_one(job: Job, run: RunInfo, keeper: Any) -> RemoteOutcome:
    """Copy one run, as a Ray task; returns its outcome and the curves for the report."""
    with contextlib.suppress(UsageError):
        # The source raises a clearer error if it needs a key.
        credentials.provide_wandb_key({})
    return remote.carry_one(job, run, SharedTurns(keeper))


def _keeper() -> Any:
    """Start the request gate's actor on the driver's node, whose end is the end of the backfill."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    limits = {"num_cpus": 0, "max_concurrency": 10_000, "max_restarts": -1, "max_task_retries": -1}
    actor: Any = ray.remote(**limits, scheduling_strategy=here)(RequestGateActor)
    return actor.remote()


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to Ray for the block; an earlier connection is used and kept."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(address=address or None, log_to_driver=False, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def _cpus() -> float:
    import ray

    return max(1.0, float(ray.cluster_resources().get("CPU", 1.0)))
