"""``make test-versions``: the package with old and new releases of wandb and mlflow.

Each pair of releases gets a virtual environment below ``.venvs/``, made anew when pyproject.toml or
the pair's packages have changed. `version_check` runs in every one. The tests of the store and of
the endpoints (sources, targets, archive, mapping, backfill) run with each MLflow and the newest
wandb. Pass pairs such as ``0.31.0:3.1.4`` to check only those.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from pathlib import Path

from scripts.check import line, pytest

ROOT = Path(__file__).resolve().parents[1]

# Each MLflow that is tested (README.md names them), with what it needs beside but does not ask for:
# mlflow 3.1 cannot be imported with SQLAlchemy 2.1, which its metadata allows.
MLFLOW = {"3.1.4": ("sqlalchemy<2.1",), "3.17.2": (), "3.18.0": ()}
MLFLOW_PARTS = ("mlflow-skinny", "mlflow-tracing")
NEWEST_WANDB = "0.31.0"

# Oldest with oldest, a wandb from between, and every MLflow with the newest wandb.
PAIRS = (("0.22.3", "3.1.4"), ("0.28.2", "3.17.2"), *((NEWEST_WANDB, mlflow) for mlflow in MLFLOW))

# What each MLflow runs. Slow tests of the endpoints are about killed processes and large runs.
SUITES = {
    "store": ("tests/store",),
    "endpoints": (
        *("-m", "not slow and not browser and not ray_cluster"),
        *("tests/sources", "tests/targets", "tests/archive", "tests/mapping", "tests/backfill"),
    ),
}
CHECK_TIMEOUT_S = 900


def environment(wandb: str, mlflow: str) -> Path:
    """The Python of the pair's virtual environment, made if need be."""
    folder = ROOT / ".venvs" / f"wandb-{wandb}-mlflow-{mlflow}"
    python = folder / "bin" / "python"
    stamp = folder / "made-for"
    extra = "[test]" if wandb == NEWEST_WANDB else ""
    beside = ("--editable", f"{ROOT}{extra}", f"wandb=={wandb}", *MLFLOW.get(mlflow, ()))
    if not extra:
        beside += ("numpy", "pillow")
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + repr(beside).encode())
    if not stamp.is_file() or stamp.read_text() != wanted.hexdigest():
        print(f"making {folder.relative_to(ROOT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        install(python, mlflow, beside)
        stamp.write_text(wanted.hexdigest())
    return python


def install(python: Path, mlflow: str, beside: tuple[str, ...]) -> None:
    """Install the release of MLflow and the packages beside it.

    A release whose own parts the registry does not have is installed without its dependencies,
    over those of the newest earlier release that can be had in full. That one is removed first,
    with its parts: they are files of the same package, and MLflow warns about a part of another
    version.
    """
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    if not subprocess.run([*pip, "install", f"mlflow=={mlflow}", *beside]).returncode:
        return
    print(f"mlflow {mlflow} cannot be installed in full: installing it with --no-deps", flush=True)
    subprocess.run([*pip, "install", f"mlflow<{mlflow}", *beside], check=True)
    subprocess.run([*pip, "uninstall", "--yes", "mlflow", *MLFLOW_PARTS], check=True)
    subprocess.run([*pip, "install", "--no-deps", f"mlflow=={mlflow}"], check=True)


def check(python: Path) -> bool:
    """Run the check in a folder of its own; its findings go to our output."""
    with tempfile.TemporaryDirectory(prefix="mlflow-wandb-versions-") as folder:
        command = [python, "-m", "scripts.version_check", f"{folder}/work"]
        return not subprocess.run(command, cwd=ROOT, timeout=CHECK_TIMEOUT_S).returncode


def check_pair(wandb: str, mlflow: str) -> tuple[Counter[str], list[str]]:
    """Run all that is run with this pair: the counts, and a line for each part."""
    python = environment(wandb, mlflow)
    # Also when the environment is reused.
    in_full = list(python.parents[1].glob("lib/*/site-packages/mlflow_skinny-*.dist-info"))
    pair = f"wandb {wandb} with mlflow {mlflow}" + ("" if in_full else " (--no-deps)")
    well = check(python)
    total = Counter(["passed" if well else "failed"])
    lines = [f"{pair}, end to end: {'ok' if well else 'FAILED'}"]
    for name, arguments in SUITES.items() if wandb == NEWEST_WANDB else ():
        started = time.monotonic()
        counts = pytest(*arguments, tools=python.parent)
        total += counts
        lines.append(f"{pair}, {name}: {line(counts)} in {time.monotonic() - started:.0f} s")
    return total, lines


def main(arguments: list[str]) -> int:
    pairs = [tuple(argument.split(":")) for argument in arguments] or list(PAIRS)
    total: Counter[str] = Counter()
    lines: list[str] = []
    for wandb, mlflow in pairs:
        try:
            counts, told = check_pair(wandb, mlflow)
        except (subprocess.SubprocessError, OSError) as error:
            counts, told = Counter(failed=1), [f"wandb {wandb} with mlflow {mlflow}: {error}"]
        total += counts
        lines += told
        print("\n".join(told), flush=True)
    print("\n" + "\n".join(lines))
    print(line(total), flush=True)
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
