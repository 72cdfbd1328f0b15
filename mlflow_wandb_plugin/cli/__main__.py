"""``python -m mlflow_wandb_plugin.cli``: the command without its console script."""

from mlflow_wandb_plugin.cli import main

if __name__ == "__main__":
    main()
