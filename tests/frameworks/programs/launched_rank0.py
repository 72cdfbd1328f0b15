"""Data-parallel training of a small model: rank 0 has a W&B run."""

import torch
import torch.distributed as dist
import wandb
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
if rank == 0:
    wandb.init(project="rank0", config={"lr": 0.1, "world_size": dist.get_world_size()})
for step in range(20):
    loss = (model(torch.randn(8, 4)) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    if rank == 0:
        wandb.log({"loss": mean.item() / dist.get_world_size(), "epoch": step // 5})
if rank == 0:
    wandb.finish()
dist.destroy_process_group()
