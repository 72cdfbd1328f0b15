"""PyTorch Lightning inside TorchTrainer, with Lightning's own W&B logger on the dual run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.integrations.ray.programs.cluster import small_ray, tell

EPOCHS = 2


def train(config: dict[str, Any]) -> None:
    import lightning as L
    import ray.train
    import torch
    from lightning.pytorch.loggers import WandbLogger
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

    from mlflow_wandb_ray import setup_dual

    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            loss = (self.layer(batch[0]) - batch[1]).square().mean()
            self.log("loss", loss, on_epoch=True, on_step=False, sync_dist=True)
            return loss

        def on_train_epoch_end(self) -> None:
            if ray.train.get_context().get_world_rank() == 0:
                loss = self.trainer.callback_metrics["loss"].item()
                tell(Path(config["told"]), loss=loss, epoch=self.current_epoch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=config["lr"])

    torch.manual_seed(0)
    points = torch.arange(8.0).reshape(8, 1) / 8
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(points, 2 * points), batch_size=2
    )
    with setup_dual(config, project="lightning"):
        trainer = L.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            devices="auto",
            strategy=RayDDPStrategy(process_group_backend="gloo"),
            plugins=[RayLightningEnvironment()],
            logger=WandbLogger(),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        prepare_trainer(trainer).fit(Model(), loader)


def main() -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ["KMP_DUPLICATE_LIB_OK"] = "TRUE"
    with small_ray():
        TorchTrainer(
            train,
            train_loop_config={"lr": 0.1, "told": str(Path.cwd() / "lightning.told")},
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
            run_config=RunConfig(name="lightning", storage_path=str(Path.cwd() / "storage")),
        ).fit()
    print(json.dumps("finished"))


if __name__ == "__main__":
    main()
