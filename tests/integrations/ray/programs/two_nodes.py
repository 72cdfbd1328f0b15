"""A Ray cluster of two nodes with one CPU each, told what to do by its standard input.

Says its address; ``kill`` kills the second node, ``end`` or the end of input ends it all.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

SMALL = {"num_cpus": 1, "object_store_memory": 100_000_000}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False})
    second = None
    try:
        second = cluster.add_node(**SMALL)
        cluster.wait_for_nodes(60)
        print(cluster.address, flush=True)
        for line in sys.stdin:
            if line.strip() == "kill" and second is not None:
                cluster.remove_node(second, allow_graceful=False)
                second = None
                print("killed", flush=True)
            elif line.strip() == "end":
                break
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
