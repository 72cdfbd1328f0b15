"""A Lightning Trainer with a WandbLogger: metrics by step and epoch, gradients, checkpoints.

Usage: lightning_trainer.py DEVICES
"""

import sys

import lightning
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import DataLoader, TensorDataset


class Regression(lightning.LightningModule):
    def __init__(self, width=8, lr=0.05):
        super().__init__()
        self.save_hyperparameters()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 1)
        )

    def training_step(self, batch, _):
        loss = torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch, _):
        loss = torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        self.log("val/loss", loss, sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), self.hparams.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def main():
    devices = int(sys.argv[1])
    lightning.seed_everything(0)
    inputs = torch.randn(64, 4)
    data = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=8)
    logger = WandbLogger(project="lightning", name=f"on-{devices}", log_model="all",
                         tags=["tiny"])  # fmt: skip
    model = Regression()
    logger.watch(model, log="all", log_freq=4)
    trainer = lightning.Trainer(
        max_epochs=3, logger=logger, accelerator="cpu", devices=devices, log_every_n_steps=2,
        strategy="ddp" if devices > 1 else "auto", enable_progress_bar=False,
        callbacks=[LearningRateMonitor(), ModelCheckpoint(monitor="val/loss", save_top_k=1)],
    )  # fmt: skip
    trainer.fit(model, data, data)
    logger.experiment.summary["note"] = "done"


if __name__ == "__main__":
    main()
