"""Each rank has a W&B run of its own, in one group."""

import torch
import torch.distributed as dist
import wandb

dist.init_process_group("gloo")
rank = dist.get_rank()
run = wandb.init(
    project="all-ranks", group="job-1", job_type=f"rank-{rank}", name=f"rank-{rank}",
    config={"rank": rank, "optimizer": {"name": "sgd", "lr": 0.1}}, tags=["ddp", f"rank{rank}"],
)  # fmt: skip
for step in range(20):
    total = torch.tensor(float(step * (rank + 1)))
    dist.all_reduce(total)
    run.log({"total": total, "own": step * 10 + rank})
run.summary["best"] = 100 + rank
dist.destroy_process_group()
