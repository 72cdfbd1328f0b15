"""A sweep whose runs are calls of a function, in the agent's own process."""

import wandb

SWEEP = {"method": "grid", "parameters": {"x": {"values": [1, 2, 3]}, "y": {"value": "fixed"}}}


def train():
    with wandb.init(tags=["swept"]) as run:
        for step in range(10):
            run.log({"loss": run.config.x * 10 / (step + 1)})
        if run.config.x == 2:
            raise ValueError("this one fails")


sweep = wandb.sweep(SWEEP, project="function-agent")
wandb.agent(sweep, function=train, project="function-agent")
