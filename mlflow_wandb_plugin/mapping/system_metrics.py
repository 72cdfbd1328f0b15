"""Convert W&B's system metrics to MLflow's names and units."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

SYSTEM_NAMES: Mapping[str, str] = {
    "cpu": "cpu_utilization_percentage",
    "memory_percent": "system_memory_usage_percentage",
    "memory": "system_memory_usage_percentage",
    "proc.memory.rssMB": "process_memory_usage_megabytes",
    "proc.memory.percent": "process_memory_usage_percentage",
    "proc.memory.availableMB": "system_memory_available_megabytes",
    "network.sent": "network_transmit_megabytes",
    "network.recv": "network_receive_megabytes",
    "disk": "disk_usage_percentage",
    "disk./.usagePercent": "disk_usage_percentage",
    "disk.\\.usagePercent": "disk_usage_percentage",
}
PREFIX = "system/"
"""Begins the names of MLflow's system metrics."""
_GPU_NAMES: Mapping[str, str] = {
    "gpu": "utilization_percentage",
    "memoryAllocated": "memory_usage_percentage",
    "memoryAllocatedBytes": "memory_usage_megabytes",
    "powerWatts": "power_usage_watts",
    "powerPercent": "power_usage_percentage",
    "temp": "temperature_celsius",
}
_BYTES = re.compile(r"^network\.(sent|recv)$|\.memoryAllocatedBytes$")


def system_metric(key: str, value: float) -> tuple[str, float]:
    """Return MLflow's name of a W&B system metric, and its value; bytes become megabytes (10**6).

    The names of MLflow's System metrics tab are used where W&B measures the same thing; any other
    metric keeps W&B's name below ``system/``.
    """
    key = key.removeprefix("system.")
    scaled = value / 1e6 if _BYTES.search(key) else value
    gpu = re.fullmatch(r"gpu\.(\d+)\.(\w+)", key)
    if gpu and gpu[2] in _GPU_NAMES:
        return f"{PREFIX}gpu_{gpu[1]}_{_GPU_NAMES[gpu[2]]}", scaled
    return f"{PREFIX}{SYSTEM_NAMES.get(key, key)}", scaled


def wandb_metric(name: str, value: float) -> tuple[str, float]:
    """Return W&B's name of one of MLflow's system metrics, and its value: the inverse of
    `system_metric`. Of several W&B names of one metric, it is what present versions record."""
    bare = name.removeprefix(PREFIX)
    gpu = re.fullmatch(r"gpu_(\d+)_(\w+)", bare)
    if gpu and gpu[2] in _WANDB_GPU_NAMES:
        key = f"gpu.{gpu[1]}.{_WANDB_GPU_NAMES[gpu[2]]}"
    else:
        key = _WANDB_NAMES.get(bare, bare)
    return key, _whole(value * 1e6) if _BYTES.search(key) else value


def _whole(count: float) -> float:
    """A number of bytes that was divided and multiplied, without the error of that."""
    return float(round(count)) if math.isfinite(count) and abs(count) < 2**53 else count


_PRESENT = ("memory_percent", "disk./.usagePercent")
_WANDB_NAMES = {theirs: ours for ours, theirs in SYSTEM_NAMES.items()} | {
    SYSTEM_NAMES[ours]: ours for ours in _PRESENT
}
_WANDB_GPU_NAMES = {theirs: ours for ours, theirs in _GPU_NAMES.items()}
