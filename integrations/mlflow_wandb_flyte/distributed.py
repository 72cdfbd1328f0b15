"""Decide which process of a distributed task opens which W&B run, by run_mode and rank_scope."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from mlflow_wandb_flyte.context import RankScope, TrackRunMode


def get_distributed_info() -> dict[str, int] | None:
    """Return this process's rank among the workers that torchrun or Flyte's launcher started.

    Returns:
        rank, local_rank, world_size, local_world_size, worker_index and num_workers; None if
        there is only one process.
    """
    world_size = _number("WORLD_SIZE", 1)
    if "RANK" not in os.environ or world_size <= 1:
        return None
    # Flyte's launcher for JAX sets the number of nodes and starts one process on each.
    nodes = _number("NNODES", 1)
    local_world_size = _number("LOCAL_WORLD_SIZE", max(1, world_size // max(1, nodes)))
    return {
        "rank": _number("RANK", 0),
        "local_rank": _number("LOCAL_RANK", 0),
        "world_size": world_size,
        "local_world_size": local_world_size,
        "worker_index": _number("GROUP_RANK", _number("NODE_RANK", 0)),
        "num_workers": max(1, world_size // max(1, local_world_size)),
    }


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)


@dataclass(frozen=True, slots=True)
class Share:
    """One process's share in a distributed task's runs.

    Attributes:
        run_id: id of the W&B run that the process opens; None if it opens none.
        group: W&B group, and parent in MLflow, of the run; empty for none.
        label: name of the process in a run that several processes share; empty in its own run.
        primary: whether the process decides the end state of a shared run.
    """

    run_id: str | None
    group: str = ""
    label: str = ""
    primary: bool = True


def share(mode: TrackRunMode, scope: RankScope, info: dict[str, int], base: str) -> Share:
    """Return the share of the process that ``info`` of `get_distributed_info` describes.

    Args:
        base: prefix of the ids of the task's runs.
    """
    several_nodes = info["num_workers"] > 1
    per_worker = several_nodes and scope == "worker"
    unit = f"{base}-worker-{info['worker_index']}" if per_worker else base
    rank = info["local_rank" if per_worker else "rank"]
    if mode == "shared":
        label = f"worker-{info['worker_index']}-rank-{info['local_rank']}"
        return Share(unit, label=label if several_nodes else f"rank-{rank}", primary=rank == 0)
    if mode in ("new", "nested"):
        return Share(f"{unit}-rank-{rank}", group=unit)
    return Share(unit if rank == 0 else None)


def shape(task: Any) -> tuple[int, int]:
    """Return (nodes, processes a node) of a Flyte task; if it is elastic, the largest numbers."""
    plugin: Any = getattr(task, "plugin_config", None)
    if is_elastic(task):
        return _count(plugin.nnodes), _count(plugin.nproc_per_node)
    settings = getattr(plugin, "settings", None)
    nodes = getattr(settings, "replicas", 1)
    return _count(nodes), _count(getattr(settings, "nproc_per_node", 1))


def is_elastic(task: Any) -> bool:
    """Whether torch's launcher starts the processes of a task; its class may not be installed."""
    return type(getattr(task, "plugin_config", None)).__name__ == "Elastic"


def _count(given: Any) -> int:
    """Parse an int or a range such as "2:4"; "auto" and "gpu" count as 1."""
    try:
        return max(1, int(str(given).rpartition(":")[2]))
    except ValueError:
        return 1
