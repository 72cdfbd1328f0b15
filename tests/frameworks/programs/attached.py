"""A run that is handed to other processes, which log into it beside its own process.

Usage: attached.py fork|spawn|forkserver
"""

import multiprocessing
import sys
import time

import wandb


def evaluate(run, number):
    for step in range(200):
        run.log({f"worker{number}": step})
    # The answer comes after W&B has the rows: those that come after the end of the run are lost.
    assert run.summary[f"worker{number}"] == 199


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with wandb.init(project="attached", config={"method": sys.argv[1]}) as run:
        for step in range(10):
            run.log({"loss": 1 / (step + 1)})
        workers = [context.Process(target=evaluate, args=(run, number)) for number in range(2)]
        for worker in workers:
            worker.start()
        beside = 0
        while any(worker.is_alive() for worker in workers):
            run.log({"beside": beside})
            beside += 1
            time.sleep(0.001)
        for step in range(10):
            run.log({"loss": 1 / (step + 11)})
    sys.exit(sum(abs(worker.exitcode) for worker in workers))
