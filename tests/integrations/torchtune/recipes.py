"""Shipped torchtune recipes in child processes, on the tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.documents import ROOT
from tests.support.processes import run_command

TINY = "tests.integrations.torchtune.tiny"
OUTPUT = "out"
STEPS_PER_EPOCH = 4
EVERY_LOSS = "torchtune.modules.loss.CEWithChunkedOutputLoss"


def recipe_config(material: Path, work: Path, **changes: Any) -> dict[str, Any]:
    """The config of a full fine-tuning: 2 epochs of 4 steps. ``changes`` replace whole sections."""
    base = material / "base"
    config: dict[str, Any] = {
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
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(base),
            "checkpoint_files": ["model.safetensors"],
            "recipe_checkpoint": None,
            "output_dir": "${output_dir}",
            "model_type": "LLAMA2",
        },
        "loss": {"_component_": EVERY_LOSS},
        "optimizer": {"_component_": "torch.optim.AdamW", "lr": 0.01},
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": 2,
        },
        "metric_logger": {
            "_component_": "mlflow_wandb_torchtune.DualLogger",
            "project": "tiny",
            "log_dir": "${output_dir}/logs",
            "log_checkpoints": "all",
        },
        "resume_from_checkpoint": False,
        "seed": None,
        "shuffle": True,
        "batch_size": 4,
        "epochs": 2,
        "max_steps_per_epoch": STEPS_PER_EPOCH,
        "gradient_accumulation_steps": 1,
        "optimizer_in_bwd": False,
        "clip_grad_norm": 0.5,
        "compile": False,
        "device": "cpu",
        "dtype": "fp32",
        "enable_activation_checkpointing": False,
        "enable_activation_offloading": False,
        "log_every_n_steps": 1,
        "log_peak_memory_stats": False,
    }
    return config | changes


def run_recipe(
    recipe: str,
    config: Mapping[str, Any],
    env: Mapping[str, str],
    work: Path,
    launcher: tuple[str, ...] = (),
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """``tune run RECIPE`` in a child process, and wait for it."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "config.yaml"
    # YAML is a superset of JSON.
    file.write_text(json.dumps(config, indent=1))
    tune = [sys.executable, "-m", "torchtune._cli.tune"]
    command = [*tune, "run", *launcher, recipe, "--config", str(file)]
    ours = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return run_command(command, {**env, **ours}, work, timeout=180, check=check)
