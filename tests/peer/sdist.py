"""Fetches the reference's source distribution, which holds its tests and README: they are not kept here."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

VERSION = "0.1.21"
SHA256 = "9f329541589269c7bdee4f53c87c8dde8ef4f331778c81c37966e365bbbea431"
# metadata is prepared with the setuptools that is here, so that nothing but the archive is downloaded
OPTIONS = ("--quiet", "--no-deps", "--no-binary", "gliclass", "--no-build-isolation")


def unpacked(folder: Path) -> Path:
    """Returns a folder with `tests/` and `README.md` of the reference, and none of its code.

    folder: keeps the archive, which is downloaded from the package index where it is not there yet.
    """
    archive = folder / f"gliclass-{VERSION}.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", *OPTIONS, "--dest", str(folder)]
        subprocess.run([*command, f"gliclass=={VERSION}"], check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert found == SHA256, f"{archive} is not the release that the lists of this folder were made for"
    with tarfile.open(archive) as files:
        wanted = [
            member
            for member in files.getmembers()
            if member.name.split("/")[1:2] in (["tests"], ["README.md"]) and (member.isfile() or member.isdir())
        ]
        files.extractall(folder, wanted)
    return folder / f"gliclass-{VERSION}"
