"""XGBoost with W&B's callback: metrics by round, feature importance, and the model."""

import numpy as np
import wandb
import xgboost
from wandb.integration.xgboost import WandbCallback

random = np.random.default_rng(0)
inputs = random.normal(size=(200, 5))
targets = (inputs[:, 0] + inputs[:, 1] > 0).astype(int)
train = xgboost.DMatrix(inputs[:150], targets[:150])
valid = xgboost.DMatrix(inputs[150:], targets[150:])
with wandb.init(project="xgboost", config={"max_depth": 3}) as run:
    xgboost.train(
        {"max_depth": run.config.max_depth, "objective": "binary:logistic",
         "eval_metric": ["logloss", "error"], "seed": 0},
        train, num_boost_round=15, evals=[(train, "train"), (valid, "valid")],
        callbacks=[WandbCallback(log_model=True, define_metric=True)], verbose_eval=False,
    )  # fmt: skip
