"""Decide which local files may be read that a run's folder or its records name.

Somebody else may have made the folder: a link or a path in a record must not choose which file of
this machine is uploaded.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlflow_wandb_plugin.core.model import NO_FILE, FileRef

FOLLOW_LINKS = "--follow-links"
_SYSTEM_FOLDERS = ("/proc", "/dev", "/sys", "/etc", "/run", "/var/run", "/boot")


class LocalFiles:
    """Decides for the files of one run.

    Read are regular files below the run's folder and below wandb's staging and cache folders;
    elsewhere those that this user owns, outside system folders and outside the hidden files and
    folders of the user's home, which hold keys.

    Args:
        run_folder: the folder of the run's log; None if there is none.
        follow_links: read every regular file that is named.
    """

    def __init__(self, run_folder: Path | None = None, follow_links: bool = False) -> None:
        self._run_folder = run_folder
        self._follow_links = follow_links
        self._trusted: list[Path] | None = None

    @property
    def files_dir(self) -> Path | None:
        """Folder of the run's files."""
        return None if self._run_folder is None else self._run_folder / "files"

    def ref(self, path: str) -> FileRef:
        """Return the run's file ``path``, relative to `files_dir`."""
        local = (self.files_dir or NO_FILE) / path
        leaves = ".." in Path(path).parts
        refused = "its name leads out of the run's folder" if leaves else self.refusal(local)
        return FileRef(path, NO_FILE if refused else local, refused)

    def all_files(self) -> Iterator[FileRef]:
        """Yield every file of the run's folder: console log, requirements, code, media and more."""
        root = self.files_dir
        if root is None or not root.is_dir():
            return
        for folder, subfolders, names in os.walk(root):
            subfolders.sort()
            for name in sorted(names):
                yield self.ref(Path(folder, name).relative_to(root).as_posix())

    def refusal(self, path: Path) -> str:
        """Return why ``path`` is not to be read; empty if it may be, or does not exist."""
        try:
            real = Path(os.path.realpath(path))
            found = real.stat()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            return f"its path cannot be followed ({type(error).__name__})"
        if not stat.S_ISREG(found.st_mode):
            return "it is not a regular file"
        if self._follow_links or _is_below(real, self._trusted_folders()):
            return ""
        if _is_below(real, map(_real, _SYSTEM_FOLDERS)):
            reason = "in a system folder"
        elif any(_is_hidden_in(home, real) for home in _homes()):
            reason = "hidden in the home folder"
        elif found.st_uid != os.geteuid():
            reason = "outside the run's folder and of another user"
        else:
            return ""
        return f"{real} is {reason}: pass {FOLLOW_LINKS} if it belongs to the run"

    def _trusted_folders(self) -> list[Path]:
        if self._trusted is None:
            import wandb.env as env

            folders = [Path(env.get_data_dir()), Path(env.get_cache_dir())]
            for home in _homes():
                # Where wandb keeps artifacts if no variable says otherwise, as one may have then.
                folders += [home / ".local/share/wandb", home / ".cache/wandb"]
            self._trusted = [_real(folder / "artifacts") for folder in folders]
            if self._run_folder is not None:
                self._trusted.append(_real(self._run_folder))
        return self._trusted


def _homes() -> set[Path]:
    homes = {os.path.expanduser("~")}
    try:
        homes.add(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        # A container's user need not be in the list of users.
        pass
    return {_real(home) for home in homes if os.path.isabs(home)}


def _is_hidden_in(home: Path, file: Path) -> bool:
    return _is_below(file, (home,)) and file.relative_to(home).parts[0].startswith(".")


def _is_below(file: Path, folders: Iterable[Path]) -> bool:
    return any(folder in file.parents for folder in folders)


def _real(folder: str | Path) -> Path:
    return Path(os.path.realpath(folder))
