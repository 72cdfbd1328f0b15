"""A task as Flyte runs it in a container: inputs and outputs in files, children by the local
controller. Children in other containers are other processes that are given the context."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flyte
from flyte._context import contextual_run
from flyte._internal.controllers import create_controller
from flyte._internal.runtime.taskrunner import extract_download_run_upload
from flyte.models import ActionID, RawDataPath
from flyteidl2.task import common_pb2

traces: list[dict[str, Any]] = []
"""The traces of tasks in containers, and the folder that each has returned."""


def _note_traces(controller: Any) -> None:
    record = controller.record_trace

    async def note(info: Any) -> None:
        folder = str(info.output.path) if info.output is not None else ""
        traces.append({"name": info.name, "folder": folder, "error": str(info.error or "")})
        await record(info)

    controller.record_trace = note


def in_container(task: Any, run: str, action: str, context: Mapping[str, str] | None = None) -> str:
    """Run a task without inputs; returns the error's text, or nothing."""
    folder = Path(tempfile.mkdtemp())
    inputs = common_pb2.Inputs()
    for key, value in (context or {}).items():
        inputs.context.add(key=key, value=value)
    (folder / "inputs.pb").write_bytes(inputs.SerializeToString())
    flyte.init()
    controller = create_controller("local")
    if "record_trace" not in vars(controller):
        _note_traces(controller)
    running = contextual_run(
        extract_download_run_upload,
        task,
        action=ActionID(name=action, run_name=run, project="proj", domain="dev"),
        controller=controller,
        raw_data_path=RawDataPath(path=str(folder / "raw")),
        output_path=str(folder),
        run_base_dir=str(folder),
        version="v",
        input_path=str(folder / "inputs.pb"),
    )
    asyncio.run(running)
    return "failed" if (folder / "error.pb").exists() else ""


def in_another_container(program: str, task: str, run: str, action: str, **env: str) -> str:
    """Run a task of a program with the current context in a process of its own, which does not
    join this one's wandb-core."""
    context = json.dumps(flyte.ctx().custom_context or {})
    clean = {key: value for key, value in os.environ.items() if "SERVICE" not in key}
    done = subprocess.run(
        [sys.executable, program, task, run, action, context],
        env={**clean, **env},
        text=True,
        capture_output=True,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return str(json.loads(done.stdout.splitlines()[-1]))
