"""Shipped torchtune recipes in child processes, on the tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.documents import ROOT
from tests.support.processes import run_command

TINY = "tests.integrations.torchtune.tiny"
OUTPUT = "out"
STEPS_PER_EPOCH = 4
EXAMPLE = ROOT / "examples" / "torchtune" / "full_finetune_single_device.yaml"


def recipe_config(material: Path, work: Path, **changes: Any) -> dict[str, Any]:
    """The example's config on the tiny model and a CPU: 2 epochs of 4 steps. ``changes`` replace
    whole sections."""
    base = material / "base"
    example = yaml.safe_load(EXAMPLE.read_text())
    tiny: dict[str, Any] = {
        "output_dir": str(work / OUTPUT),
        "tokenizer": {
            "_component_": "torchtune.models.llama2.llama2_tokenizer",
            "path": str(base / "tokenizer.model"),
            "max_seq_len": 64,
        },
        "dataset": {
            "_component_": "torchtune.datasets.instruct_dataset",
            "source": "json",
            "data_files": str(material / "data.json"),
            "split": "train",
        },
        "model": {"_component_": f"{TINY}.model"},
        "checkpointer": example["checkpointer"]
        | {"checkpoint_dir": str(base), "model_type": "LLAMA2"},
        "optimizer": example["optimizer"] | {"lr": 0.01},
        "lr_scheduler": example["lr_scheduler"] | {"num_warmup_steps": 2},
        "metric_logger": example["metric_logger"] | {"log_checkpoints": "all"},
        "epochs": 2,
        "max_steps_per_epoch": STEPS_PER_EPOCH,
        "gradient_accumulation_steps": 1,
        "clip_grad_norm": 0.5,
        "device": "cpu",
        "dtype": "fp32",
    }
    return {**example, **tiny, **changes}


def run_recipe(
    recipe: str,
    config: Mapping[str, Any],
    env: Mapping[str, str],
    work: Path,
    launcher: tuple[str, ...] = (),
    check: bool = True,
    before: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """``tune run RECIPE`` in a child process, and wait for it; ``before`` comes before it."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "config.yaml"
    # YAML is a superset of JSON.
    file.write_text(json.dumps(config, indent=1))
    tune = [sys.executable, "-m", "torchtune._cli.tune"]
    command = [*before, *tune, "run", *launcher, recipe, "--config", str(file)]
    ours = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return run_command(command, {**env, **ours}, work, timeout=180, check=check)
