"""Hugging Face Accelerate with its W&B tracker."""

import torch
from accelerate import Accelerator

accelerator = Accelerator(cpu=True, log_with="wandb")
accelerator.init_trackers(
    "accelerate", config={"lr": 0.1, "layers": 2}, init_kwargs={"wandb": {"tags": ["tracker"]}}
)
model = torch.nn.Linear(4, 1)
model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
for step in range(20):
    loss = (model(torch.randn(8, 4)) - 1).square().mean()
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    accelerator.log({"loss": loss.item(), "lr": 0.1}, step=step * 10)
accelerator.end_training()
