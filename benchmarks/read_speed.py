"""How fast a `.wandb` file is decoded, against a plain protobuf loop over the same records.

python -m benchmarks.read_speed [--steps 100000] [--keys 20] [--rounds 5]
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from benchmarks.common import load, median, private_place, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with private_place() as folder:
        path = folder / "run-bench.wandb"
        write_log(path, args.steps, args.keys)
        points = args.steps * args.keys
        ours, plain = [], []
        for _ in range(args.rounds):
            ours.append(points / seconds(decode, path))
            plain.append(points / seconds(plain_loop, path))
        row(f"points/s of CPU time (median), {load()}", "decoder", "plain loop", "ratio")
        row(
            f"{args.steps} steps x {args.keys} keys, {path.stat().st_size / 1e6:.0f} MB",
            f"{median(ours):,.0f}",
            f"{median(plain):,.0f}",
            f"{median(ours) / median(plain):.2f}",
        )


def write_log(path: Path, steps: int, keys: int, number: int = 0) -> None:
    """A log as wandb-core writes it: two summary records and one history record a step."""
    from wandb.proto import wandb_internal_pb2 as pb

    from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter

    rng = random.Random(0)
    with LogWriter(path) as log:
        run = pb.Record(num=1)
        run.run.run_id, run.run.project = f"bench{number}", "bench"
        log.append(run.SerializeToString())
        for step in range(steps):
            values = [(f"metric_{key}", repr(rng.random())) for key in range(keys)]
            values += [
                ("_timestamp", repr(1.7e9 + number * steps + step)),
                ("_runtime", repr(float(step))),
            ]
            values.append(("_step", str(step)))
            runtime, summary, history = pb.Record(num=2), pb.Record(num=3), pb.Record(num=4)
            item = runtime.summary.update.add(value_json="1")
            item.nested_key.extend(["_wandb", "runtime"])
            runtime.summary.update.add(key="_runtime", value_json="1")
            for key, text in values:
                summary.summary.update.add(value_json=text).nested_key.append(key)
                history.history.item.add(value_json=text).nested_key.append(key)
            history.history.step.num = step
            for record in (runtime, summary, history):
                log.append(record.SerializeToString())


def decode(path: Path) -> None:
    from mlflow_wandb_plugin.sources.wandb_local.folders import RunLog
    from mlflow_wandb_plugin.sources.wandb_local.run_log import read_logs

    for _ in read_logs([RunLog("bench", path)], {}):
        pass


def plain_loop(path: Path) -> None:
    """What one would write first: parse every record, `json.loads` every value."""
    import json

    from wandb.proto import wandb_internal_pb2 as pb

    from mlflow_wandb_plugin.wandb_log.framing import LogReader

    rows = []
    for frame in LogReader(path).read():
        record = pb.Record.FromString(frame.payload)
        if record.WhichOneof("record_type") == "history":
            rows.append(
                {
                    ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item
                }
            )


def seconds(function: object, path: Path) -> float:
    """CPU seconds: decoding is one thread's work, and the machine may be busy with others'."""
    begin = time.process_time()
    function(path)  # type: ignore[operator]
    return time.process_time() - begin


if __name__ == "__main__":
    main()
