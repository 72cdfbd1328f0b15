"""W&B's transaction log, the ``.wandb`` file: framing, step semantics, records to model."""
