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


def unpacked(kept: Path, folder: Path) -> Path:
    """Unpacks `tests/` and `README.md` of the reference, and none of its code, and returns their folder.

    kept: keeps the archive, which pip downloads from the package index where it is not there yet.
    """
    archive = kept / f"gliclass-{VERSION}.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", *OPTIONS, "--dest", str(kept)]
        subprocess.run([*command, f"gliclass=={VERSION}"], check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert found == SHA256, f"{archive} is not the release that the lists of this folder were made for"
    with tarfile.open(archive) as files:
        for member in filter(tarfile.TarInfo.isfile, files):
            inside = member.name.partition("/")[2]
            if inside == "README.md" or inside.startswith("tests/"):
                target = folder / inside
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(files.extractfile(member).read())
    return folder
