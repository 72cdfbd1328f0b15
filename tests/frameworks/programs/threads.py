"""Threads that log into one run, and threads that each have a run of their own."""

from concurrent.futures import ThreadPoolExecutor

import wandb

together = wandb.init(project="threads", id="together", config={"threads": 4})


def log_together(number):
    for step in range(50):
        together.log({f"thread{number}": step, "any": number})


def train(number):
    with wandb.init(project="threads", id=f"own{number}", reinit="create_new",
                    config={"number": number}) as run:  # fmt: skip
        for step in range(50):
            run.log({"loss": number + 1 / (step + 1)}, step=2 * step)


with ThreadPoolExecutor(4) as pool:
    list(pool.map(log_together, range(4)))
    list(pool.map(train, range(3)))
together.finish()
