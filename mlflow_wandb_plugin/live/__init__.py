"""Runs born in W&B: the tap on the SDK, and the training process's side of the replicator."""
