"""A project of sixty runs on the loopback W&B server, logged by the real SDK, and what it holds.

`build` logs them. What must arrive is computed here from what was logged, by W&B's and the rule
book's documented rules, with none of the package's code.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.wandb_server import WandbServer
from tests.wandb_server.clients import Client, Worker, run_python

PROJECT = "sixty"
PLAIN, RICH = 38, 5
MLFLOW_INF = 1.7976931348623157e308
T0 = 1_600_000_000.0

LOG_PLANS = r"""
import json, time, wandb
for plan in json.load(open({path!r})):
    with wandb.init(project="sixty", **plan["init"]) as run:
        for step, data in plan["rows"]:
            if data.pop("histogram", None):
                data["hist"] = wandb.Histogram([1, 2, 2, 3])
            run.log(data, step=step)
        run.summary.update(plan["summary"])
"""

LOG_RICH = r"""
import pathlib, time, numpy as np, wandb
for i in range({count}):
    settings = wandb.Settings(x_stats_sampling_interval=0.2)
    with wandb.init(project="sixty", id=f"rich{{i}}", settings=settings) as run:
        print(f"printed by rich{{i}}")
        if i:
            run.use_artifact(f"weights{{i - 1}}:latest")
        pixels = np.full((4, 4, 3), 40 * i, dtype="uint8")
        run.log({{"image": wandb.Image(pixels), "html": wandb.Html(f"<b>{{i}}</b>"), "m": i,
                 "table": wandb.Table(columns=["x"], data=[[i], [i + 1]])}})
        pathlib.Path(f"saved{{i}}.bin").write_bytes(bytes(range(256)) * (i + 1))
        run.save(f"saved{{i}}.bin", policy="now")
        artifact = wandb.Artifact(f"weights{{i}}", "model", metadata={{"acc": i / 4}})
        with artifact.new_file("deep/w.bin", mode="wb") as file:
            file.write(bytes([i]) * 1000)
        run.log_artifact(artifact, aliases=["best"])
        time.sleep(0.5)
"""

LOG_ODD = r"""
import wandb
def init(name, **more):
    return wandb.init(project="sixty", id=name, settings=wandb.Settings(console="off"), **more)
with init("resumed") as run:
    for i in range(15):
        run.log({"m": i})
with init("resumed", resume="must") as run:
    for i in range(15, 30):
        run.log({"m": i})
for name in ("failed", "crashed", "killed", "preempted", "running", "empty"):
    run = init(name)
    for i in range(0 if name == "empty" else 10):
        run.log({"m": i * 0.5})
    run.finish(exit_code=1 if name == "failed" else 0)
"""

SHARED = r"""
import sys, wandb
label = sys.argv[1]
primary = label == "one"
settings = wandb.Settings(mode="shared", x_label=label, x_primary=primary,
                          x_update_finish_state=primary, console="off")
run = wandb.init(project="sixty", id="shared", settings=settings)
for i in range(5):
    run.log({label: i})
run.finish()
"""

SWEPT_PROGRAM = r"""
import wandb
with wandb.init() as run:
    for i in range(5):
        run.log({"loss": run.config["x"] * 10 + i})
"""

DUAL = r"""
import mlflow_wandb_plugin.wandb as wandb
for name in ("dual0", "dual1", "holes"):
    with wandb.init(project="sixty", id=name, config={"born": "dual"}) as run:
        for i in range(50):
            run.log({"m": i / 7, "_timestamp": 1.6e9 + i})
"""


@dataclass
class Expected:
    """What MLflow must hold of one run. A point is (value, time in ms or None, step)."""

    status: str = "FINISHED"
    name: str = ""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[Any, int | None, int]]] = field(default_factory=dict)
    texts: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    action: str = "migrated"
    verdict: str = "new"


def build(server: WandbServer, folder: Path, mlflow_uri: str) -> dict[str, Expected]:
    """Log the project's runs, the dual-written ones also into ``mlflow_uri``."""
    expected = {}
    with Worker(server, folder / "plain") as worker:
        plans = [_plan(i) for i in range(PLAIN)]
        path = folder / "plans.json"
        path.write_text(json.dumps(plans))
        worker.call(LOG_PLANS.format(path=str(path)), timeout=240)
        expected |= {plan["init"]["id"]: _expected(plan) for plan in plans}
        worker.call(LOG_RICH.format(count=RICH), timeout=120)
        expected |= {f"rich{i}": _rich(i) for i in range(RICH)}
        worker.call(LOG_ODD, timeout=120)
        sweep = worker.call(
            'import wandb\nresult = wandb.sweep({"method": "grid", "program": "train.py",'
            ' "name": "grid", "parameters": {"x": {"values": [1, 2, 3, 4]}}}, project="sixty")'
        )
    for i in range(0, PLAIN, 2):
        server.parquet(server.run(f"{PROJECT}/plain{i:02d}"), 5 + i)
    expected |= _odd(server)
    (folder / "agent").mkdir()
    (folder / "agent" / "train.py").write_text(SWEPT_PROGRAM)
    arguments = ["-m", "wandb", "agent", f"tester/{PROJECT}/{sweep}"]
    with Client(server, folder / "agent", arguments) as agent:
        agent.wait(120)
    for run in server.sweep(f"{PROJECT}/{sweep}").runs:
        x = run.values["x"]
        points = [(float(x * 10 + i), None, i) for i in range(5)]
        tags = {"wandb.sweep_id": sweep}
        expected[run.name] = Expected(params={"x": str(x)}, metrics={"loss": points}, tags=tags)
    expected["shared"] = _shared(server, folder)
    run_python(
        server, folder / "dual", DUAL, 120, MLFLOW_TRACKING_URI=mlflow_uri,
        MLFLOW_DISABLE_TELEMETRY="true",
    )  # fmt: skip
    for name in ("dual0", "dual1", "holes"):
        points = [(i / 7, int((1.6e9 + i) * 1000), i) for i in range(50)]
        expected[name] = Expected(
            params={"born": "dual"}, metrics={"m": points}, action="skipped", verdict="dual-written"
        )
    expected["holes"].action, expected["holes"].verdict = "repaired", "partial"
    return expected


def _plan(i: int) -> dict[str, Any]:
    """What run ``i`` of the plain ones logs: each differs from the one before in something."""
    rows = []
    step = 0
    for n in range(20 + 2 * i):
        data: dict[str, Any] = {"loss": 1 / (n + i + 1), "recall@5": n / 10}
        if n % 3 == 0:
            data |= {"opt": {"lr": 0.1 * n, "deep": {"er": n}}, "flag": n % 2 == 0}
        if n % 7 == i % 7:
            data |= {"odd": [math.nan, math.inf, -math.inf][n % 3], "note": f"row {n} é"}
        if n == 4:
            data["histogram"] = True
        if i % 2:
            data["_timestamp"] = T0 + 1000 * i + n + 0.25
        rows.append((step, data))
        step += 1 + (n % 5 if i % 3 == 0 else 0)
    init = {
        "id": f"plain{i:02d}", "name": f"run {i}", "group": f"g{i % 4}", "job_type": "train",
        "tags": ["all", f"t{i % 5}"], "notes": f"notes of {i}",
        "config": {"i": i, "opt": {"name": "adam", "betas": [0.9, i]}, "flag": True, "none": None},
    }  # fmt: skip
    return {"init": init, "rows": rows, "summary": {"final": i / 3}}


def _expected(plan: dict[str, Any]) -> Expected:
    init, i = plan["init"], plan["init"]["config"]["i"]
    run = Expected(name=init["name"])
    run.params = {
        "i": str(i), "opt.name": "adam", "opt.betas": f"[0.9, {i}]", "flag": "True", "none": "None",
    }  # fmt: skip
    run.tags = {
        "run_group": init["group"], "wandb.job_type": "train", "wandb.tags": f'["all", "t{i % 5}"]',
        "mlflow.note.content": init["notes"],
    }  # fmt: skip
    for step, data in plan["rows"]:
        at = int(data["_timestamp"] * 1000) if "_timestamp" in data else None
        for key, value in _leaves(data):
            if key in ("_timestamp", "histogram"):
                continue
            if isinstance(value, str):
                run.texts.setdefault(step, {})[key] = value
            else:
                name = "recall_5" if key == "recall@5" else key
                run.metrics.setdefault(name, []).append((_stored(value), at, step))
    last_step, last = plan["rows"][-1]
    at = int(last["_timestamp"] * 1000) if "_timestamp" in last else None
    run.metrics["final"] = [(i / 3, at, last_step)]
    return run


def _leaves(data: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in data.items():
        whole = f"{above}.{key}" if above else key
        found += _leaves(value, whole) if isinstance(value, dict) else [(whole, value)]
    return found


def _stored(value: float) -> Any:
    if math.isnan(value):
        return "nan"
    return math.copysign(MLFLOW_INF, value) if math.isinf(value) else float(value)


def _rich(i: int) -> Expected:
    saved = hashlib.sha256(bytes(range(256)) * (i + 1)).hexdigest()
    weights = hashlib.sha256(bytes([i]) * 1000).hexdigest()
    return Expected(
        metrics={"m": [(float(i), None, 0)]},
        files={f"wandb/files/saved{i}.bin": saved, "deep/w.bin": weights},
    )


def _odd(server: WandbServer) -> dict[str, Expected]:
    """Runs of each state; those that only a real service infers are set on the server."""
    ten = [(i * 0.5, None, i) for i in range(10)]
    expected = {
        "resumed": Expected(metrics={"m": [(float(i), None, i) for i in range(30)]}),
        "empty": Expected(),
        "failed": Expected("FAILED", metrics={"m": ten}),
    }
    for state, status in (
        ("crashed", "FAILED"), ("killed", "KILLED"), ("preempted", "KILLED"), ("running", "RUNNING")
    ):  # fmt: skip
        server.run(f"{PROJECT}/{state}").state = state
        expected[state] = Expected(status, metrics={"m": ten})
    return expected


def _shared(server: WandbServer, folder: Path) -> Expected:
    """Two writers; the server numbers their rows as they come, which is read off the server."""
    program = folder / "shared.py"
    program.write_text(SHARED)
    with (
        Client(server, folder / "one", [str(program), "one"]) as one,
        Client(server, folder / "two", [str(program), "two"]) as two,
    ):
        one.wait()
        two.wait()
    rows = [line.row for line in server.run(f"{PROJECT}/shared").history.live]
    expected = Expected()
    for label in ("one", "two"):
        steps = [row["_step"] for row in rows if label in row]
        assert [row[label] for row in rows if label in row] == list(range(5))
        expected.metrics[label] = [(float(n), None, step) for n, step in enumerate(steps)]
    return expected
