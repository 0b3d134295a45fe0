"""Fetch the teacher, AIMNet2 (ωB97M-D3), out of the PyPI wheel Auto3D 2.3.1 (MIT), with pip.

    python datasets/fetch_teacher.py [--cache DIR]

Prints the path of the ensemble's TorchScript file. The wheel is downloaded, never installed, and
the file is kept only if its sha256 is the one written here. A file that is already there and whole
is not fetched again. Default cache: $XDG_CACHE_HOME/mlff-screen, or ~/.cache/mlff-screen.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mlff_core.store import write_whole

REQUIREMENT = "Auto3D==2.3.1"
#: Files of the wheel and what they must be: the mean of four with its spread, and one of them.
FILES = {
    "aimnet2_wb97m_ens_f.jpt": "e34e147e3dd67bfe3e5ae8c2a2a097d59ff3a8260d98e42552004f710bb3a68b",
    "aimnet2_wb97m-d3_0.jpt": "a6d366b05c5997668f24a834584b4033d0cab67d13d2f8caf143b965018d3735",
}
ENSEMBLE = "aimnet2_wb97m_ens_f.jpt"


class TeacherError(Exception):
    """The teacher could not be fetched, or is not what was expected."""


def default_cache() -> Path:
    """Where the files are kept if nothing else is asked for."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlff-screen"


def fetch_teacher(cache: Path, name: str = ENSEMBLE, *, wheel: Path | None = None) -> Path:
    """Path of one of the teacher's files, fetched if it is not there.

    Args:
        cache: Folder in which it is kept.
        name: One of FILES.
        wheel: A wheel that is already at hand; None downloads it.

    Raises:
        TeacherError: The file is damaged, or the download failed; names both sha256.
    """
    kept = cache / name
    if kept.exists():
        _check(kept, kept.read_bytes(), FILES[name])
        return kept
    with tempfile.TemporaryDirectory() as folder:
        source = wheel or _download(Path(folder))
        try:
            with zipfile.ZipFile(source) as archive:
                data = archive.read(f"Auto3D/models/{name}")
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise TeacherError(f"{source}: not the wheel of {REQUIREMENT}: {error}") from error
    _check(Path(f"{source.name}:{name}"), data, FILES[name])
    cache.mkdir(parents=True, exist_ok=True)
    write_whole(kept, data)
    return kept


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise TeacherError(f"pip could not download {REQUIREMENT}: {done.stderr.strip()}")
    return wheels[0]


def _check(path: Path, data: bytes, expected: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise TeacherError(f"{path}: damaged: expected sha256 {expected}, found {found}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=default_cache())
    try:
        print(fetch_teacher(parser.parse_args().cache))
    except TeacherError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
