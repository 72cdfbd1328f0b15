"""Images of mirrored runs are read by several threads of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

TWO_THREADS = """
import contextlib, importlib.util, sys, threading
from pathlib import Path

from mlflow_wandb_plugin.targets.wandb.run_writer import read_image

assert "PIL.Image" not in sys.modules
both_are_importing, find_spec = threading.Barrier(2), importlib.util.find_spec

def find_spec_together(name, package=None):
    found = find_spec(name, package)
    if name == "PIL.Image":
        with contextlib.suppress(threading.BrokenBarrierError):
            both_are_importing.wait(timeout=10)
    return found

importlib.util.find_spec = find_spec_together
sizes = []

def read():
    image = read_image(Path(sys.argv[1]))
    sizes.append((image._width, image._height))

threads = [threading.Thread(target=read) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
read()
print(sizes)
"""


def test_threads_that_read_their_first_image_at_once_all_read_it(tmp_path: Path) -> None:
    """wandb imports Pillow lazily and without a lock, and one of two threads that do so at the
    same moment would recognise no image: then, and in all later calls."""
    Image.new("RGB", (8, 4)).save(tmp_path / "image.png")
    command = [sys.executable, "-c", TWO_THREADS, str(tmp_path / "image.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("[(8, 4), (8, 4), (8, 4)]\n", 0), done.stderr
