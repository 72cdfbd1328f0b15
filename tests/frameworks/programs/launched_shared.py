"""All ranks log into one W&B run, in W&B's shared mode."""

import uuid

import torch
import torch.distributed as dist
import wandb

dist.init_process_group("gloo")
rank = dist.get_rank()
ids = [uuid.uuid4().hex[:8] if rank == 0 else ""]
dist.broadcast_object_list(ids)
settings = wandb.Settings(
    mode="shared", x_label=f"rank_{rank}", x_primary=rank == 0, x_update_finish_state=rank == 0
)
if rank > 0:
    dist.barrier()
run = wandb.init(project="shared", id=ids[0], config={"ranks": 2}, settings=settings)
if rank == 0:
    dist.barrier()
for step in range(20):
    total = torch.tensor(float(step))
    dist.all_reduce(total)
    run.log({f"rank_{rank}/value": step * 10 + rank, "total": total.item()})
    if rank == 0:
        run.log({"evaluated": step})
dist.barrier()
if rank > 0:
    run.finish()
dist.barrier()
run.finish()
dist.destroy_process_group()
