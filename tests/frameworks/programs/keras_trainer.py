"""Keras with the backend of torch, and a callback that logs to W&B by epoch."""

import keras
import numpy as np
import wandb

keras.utils.set_random_seed(0)
inputs = np.random.normal(size=(64, 4)).astype("float32")
targets = inputs.sum(axis=1, keepdims=True)
model = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse", metrics=["mae"])
with wandb.init(project="keras", config=model.get_config()) as run:
    run.define_metric("epoch/*", step_metric="epoch/epoch")
    by_epoch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: run.log({f"batch/{k}": v for k, v in logs.items()}),
        on_epoch_end=lambda epoch, logs: run.log(
            {"epoch/epoch": epoch, **{f"epoch/{key}": value for key, value in logs.items()}}
        ),
    )
    model.fit(inputs, targets, validation_split=0.25, epochs=3, batch_size=8, verbose=0,
              callbacks=[by_epoch])  # fmt: skip
    model.save("model.keras")
    run.log_model("model.keras", name="tiny")
