"""A DataLoader with worker processes while a run is open: they fetch, and log what they fetched."""

import sys

import torch
import wandb
from torch.utils.data import DataLoader, Dataset, get_worker_info


class Numbers(Dataset):
    def __init__(self, logs):
        self.logs = logs
        self.fetched = 0

    def __len__(self):
        return 32

    def __getitem__(self, index):
        self.fetched += 1
        if self.logs:
            key = f"worker{get_worker_info().id}/fetched"
            wandb.log({key: self.fetched})
            # The answer comes after W&B has the row: after the end of the run it is lost.
            assert wandb.run.summary[key] == self.fetched
        return torch.full((4,), float(index)), torch.tensor([1.0])


logs = sys.argv[1] == "log"
run = wandb.init(project="loader", config={"workers": 2, "logs": logs})
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
loader = DataLoader(Numbers(logs), batch_size=4, num_workers=2, persistent_workers=True)
for epoch in range(2):
    for inputs, targets in loader:
        loss = (model(inputs) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log({"loss": loss.item(), "epoch": epoch})
run.finish()
