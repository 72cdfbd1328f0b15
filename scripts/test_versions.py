"""``make test-versions``: the end-to-end check against old and new wandb and mlflow.

Each pair gets a virtual environment below ``.venvs/``, made anew when pyproject.toml has changed.
Pass pairs such as ``0.22.3:3.1.4`` to check only those.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Oldest with oldest, newest with newest, newest with oldest, and a wandb from between.
PAIRS = (("0.22.3", "3.1.4"), ("0.28.2", "3.17.2"), ("0.31.0", "3.17.2"), ("0.31.0", "3.1.4"))

# What the old release itself needs but does not ask for: mlflow 3.1 cannot be imported with
# SQLAlchemy 2.1, which its metadata allows.
BESIDE = {"3.1.4": ("sqlalchemy<2.1",)}
CHECK_TIMEOUT_S = 900


def environment(wandb: str, mlflow: str) -> Path:
    """The Python of the pair's virtual environment, made if need be."""
    folder = ROOT / ".venvs" / f"wandb-{wandb}-mlflow-{mlflow}"
    python = folder / "bin" / "python"
    stamp = folder / "made-for"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"making {folder.relative_to(ROOT)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    versions = (f"wandb=={wandb}", f"mlflow=={mlflow}", *BESIDE.get(mlflow, ()))
    packages = ("--editable", str(ROOT), *versions, "numpy", "pillow")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    stamp.write_text(wanted)
    return python


def check(python: Path) -> bool:
    """Run the check in a folder of its own; its findings go to our output."""
    with tempfile.TemporaryDirectory(prefix="mlflow-wandb-versions-") as folder:
        command = [python, "-m", "scripts.version_check", f"{folder}/work"]
        return not subprocess.run(command, cwd=ROOT, timeout=CHECK_TIMEOUT_S).returncode


def main(arguments: list[str]) -> int:
    pairs = [tuple(argument.split(":")) for argument in arguments] or list(PAIRS)
    passed = failed = 0
    for wandb, mlflow in pairs:
        well = check(environment(wandb, mlflow))
        print(f"wandb {wandb} with mlflow {mlflow}: {'ok' if well else 'FAILED'}", flush=True)
        passed, failed = passed + well, failed + (not well)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
