"""``make demo``: history in W&B, a dual-written run, and a backfill that tells them apart.

Everything happens in one folder, ``.demo`` of the checkout unless another is given, which is
emptied first. No account, no server, no network.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = Path(sys.executable).parent
MARK = ".mlflow-wandb-demo"


def main(folder: Path) -> None:
    empty(folder)
    tracking_uri = f"sqlite:///{folder / 'mlflow.db'}"
    env = environment(folder, tracking_uri)

    say("1. A run from before: plain wandb, offline")
    step([sys.executable, str(HERE / "before.py")], env, folder)

    say("2. The same training with `import mlflow_wandb_plugin.wandb as wandb`")
    step([sys.executable, str(HERE / "after.py")], env, folder)

    say("3. The history comes after; the run that was dual-written is left alone")
    backfill = [str(BIN / "mlflow-wandb"), "backfill", "wandb", "--to", tracking_uri]
    said = step(backfill, env, folder)
    if "1 migrated, 1 skipped as dual-written" not in said:
        sys.exit("The demo expected 1 run migrated and 1 skipped as dual-written.")

    say("4. Both runs are in MLflow")
    show = [str(BIN / "mlflow-wandb"), "ui", "--to", tracking_uri]
    print(f"Look at them:\n\n  (cd {shlex.quote(str(folder))} && {shlex.join(show)})\n")
    print("It prints the page to open in a browser, in MLflow's view of model training.")
    print(f"A run looks there as in {ROOT / 'docs' / 'images' / 'mlflow-metrics.png'}")


def empty(folder: Path) -> None:
    """Make ``folder`` anew. A folder that is not the demo's own is left alone."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        sys.exit(f"{folder} is not empty and not a demo's: choose another folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def environment(folder: Path, tracking_uri: str) -> dict[str, str]:
    """The caller's, without what would lead to an account, a server or other settings."""
    dropped = ("WANDB_", "MLFLOW_", "DATABRICKS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "WANDB_ERROR_REPORTING": "false",
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Making a new MLflow database takes a while on a busy machine.
        "MLFLOW_WANDB_FINISH_TIMEOUT": "240",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "PYTHONWARNINGS": "ignore",
    }


def say(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def step(command: list[str], env: dict[str, str], folder: Path) -> str:
    """Run a command in ``folder``, show its standard output, and return it."""
    done = subprocess.run(command, env=env, cwd=folder, text=True, stdout=subprocess.PIPE)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else ROOT / ".demo")
