"""Releases of this repository's history, run beside the code as it is now."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "var" / "history"


class UnknownCommitError(Exception):
    """This clone's history does not have the commit."""


def tree(commit: str) -> Path:
    """Return a folder with all files of another commit.

    Raises:
        UnknownCommitError: as in a shallow clone.

    """
    folder = FOLDER / commit
    if not folder.exists():
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
        if archive.returncode:
            raise UnknownCommitError(archive.stderr.decode().strip())
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as file:
            file.extractall(folder, filter="data")
    return folder


def has_service(commit: str, module: str) -> bool:
    """Return whether another commit has the service of this module.

    Raises:
        UnknownCommitError: as in a shallow clone.

    """
    return any((tree(commit) / "services").glob(f"*/src/{module}"))


def environment(commit: str) -> dict[str, str]:
    """Return the environment of a process that runs the libraries and services of another commit.

    Its sources stand in front of ours; what they depend on is what is installed.

    Raises:
        UnknownCommitError: as in a shallow clone.

    """
    return {"PYTHONPATH": os.pathsep.join(sorted(str(source) for source in tree(commit).glob("*/*/src")))}
