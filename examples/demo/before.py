"""A run from before the package was installed: W&B alone."""

import wandb

from training import CONFIG, train

with wandb.init(project="spirals", name="before", config=CONFIG) as run:
    print(f"before: accuracy on unseen data {train(run, seed=1):.3f}")
