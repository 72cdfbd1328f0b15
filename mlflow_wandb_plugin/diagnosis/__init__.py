"""What `mlflow-wandb doctor` looks at: this installation, the two homes, and what waits."""
