"""Sources and targets of runs: W&B's local folders and server, MLflow, archives."""
