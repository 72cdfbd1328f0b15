"""Processes that each have a run, by every start method; which call `finish` or not.

Usage: processes.py fork|spawn|forkserver finish|leave|setup

With `setup`, the parent has started W&B's service, and the processes do not call `finish`.
"""

import multiprocessing
import sys

import wandb


def train(number, finish):
    run = wandb.init(
        project="processes", id=f"worker{number}", group="pool", config={"number": number}
    )
    for step in range(20):
        run.log({"loss": 1 / (step + 1 + number), "step_of_worker": step})
    run.summary["done"] = number
    if finish:
        run.finish()


if __name__ == "__main__":
    method, how = sys.argv[1:]
    if how == "setup":
        wandb.setup()
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=train, args=(number, how == "finish")) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(sum(abs(worker.exitcode) for worker in workers))
