"""Which process of a distributed task opens which run."""

from __future__ import annotations

import pytest

from mlflow_wandb_flyte import get_distributed_info
from mlflow_wandb_flyte.distributed import Share, share

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK",
             "NNODES")  # fmt: skip


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def processes(nodes: int, per_node: int) -> list[dict[str, int]]:
    return [
        {"rank": node * per_node + local, "local_rank": local, "world_size": nodes * per_node,
         "local_world_size": per_node, "worker_index": node, "num_workers": nodes}
        for node in range(nodes)
        for local in range(per_node)
    ]  # fmt: skip


TWO_BY_TWO = {
    ("auto", "global"): [Share("b"), Share(None), Share(None), Share(None)],
    ("auto", "worker"): [Share("b-worker-0"), Share(None), Share("b-worker-1"), Share(None)],
    ("shared", "global"): [
        Share("b", label="worker-0-rank-0"),
        Share("b", label="worker-0-rank-1", primary=False),
        Share("b", label="worker-1-rank-0", primary=False),
        Share("b", label="worker-1-rank-1", primary=False),
    ],
    ("shared", "worker"): [
        Share("b-worker-0", label="worker-0-rank-0"),
        Share("b-worker-0", label="worker-0-rank-1", primary=False),
        Share("b-worker-1", label="worker-1-rank-0"),
        Share("b-worker-1", label="worker-1-rank-1", primary=False),
    ],
    ("new", "global"): [Share(f"b-rank-{rank}", group="b") for rank in range(4)],
    ("new", "worker"): [
        Share(f"b-worker-{node}-rank-{local}", group=f"b-worker-{node}")
        for node in range(2)
        for local in range(2)
    ],
}


@pytest.mark.parametrize(("mode", "scope"), TWO_BY_TWO)
def test_two_nodes_share_runs_as_in_the_table(mode: str, scope: str) -> None:
    """Ids, groups, labels and who opens a run, for all six rows."""
    found = [share(mode, scope, info, "b") for info in processes(2, 2)]
    assert found == TWO_BY_TWO[mode, scope]


@pytest.mark.parametrize("scope", ["global", "worker"])
def test_on_one_node_the_scope_makes_no_difference(scope: str) -> None:
    """One run, one shared run, or a run a process."""
    place = processes(1, 2)
    assert [share("auto", scope, info, "b") for info in place] == [Share("b"), Share(None)]
    assert [share("shared", scope, info, "b") for info in place] == [
        Share("b", label="rank-0"),
        Share("b", label="rank-1", primary=False),
    ]
    assert [share("new", scope, info, "b") for info in place] == [
        Share("b-rank-0", group="b"),
        Share("b-rank-1", group="b"),
    ]


def test_a_single_process_is_not_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    """None without torchrun's variables, and with a world of one."""
    assert get_distributed_info() is None
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert get_distributed_info() is None


def test_torchruns_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six numbers; the nodes follow from the sizes."""
    given = {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4, "GROUP_RANK": 1}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    assert get_distributed_info() == {
        "rank": 5, "local_rank": 1, "world_size": 8, "local_world_size": 4, "worker_index": 1,
        "num_workers": 2,
    }  # fmt: skip


def test_the_variables_of_flytes_jax_launcher_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process a node: it names nodes, not groups."""
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "NODE_RANK": 1, "NNODES": 2}.items():
        monkeypatch.setenv(name, str(value))
    info = get_distributed_info()
    assert info is not None
    assert (info["worker_index"], info["num_workers"], info["local_rank"]) == (1, 2, 0)
