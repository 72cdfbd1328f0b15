"""Make a sweep of `swept.py` beside this file, and print its id."""

from pathlib import Path

import wandb

program = str(Path(__file__).with_name("swept.py"))
config = {"method": "grid", "program": program, "parameters": {"x": {"values": [1, 2]}}}
print("SWEEP", wandb.sweep(config, project="swept"))
