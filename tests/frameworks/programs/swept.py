"""A program of a sweep, for `wandb agent`."""

import wandb

with wandb.init() as run:
    run.define_metric("loss", summary="min")
    for step in range(10):
        run.log({"loss": run.config["x"] * 10 / (step + 1), "accuracy": step / 10})
