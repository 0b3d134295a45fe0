"""The manifest of a run, and the folder that it makes its own."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from mlff_core.errors import OutputError
from mlff_core.store import whole_file
from mlff_core.tables.parts import one_line, parts_in, read_part_key
from mlff_core.tables.schema import SCHEMA_VERSION, TABLES

_LEFTOVER_NAME: Final = re.compile(r"\.(part-\d{6,}\.parquet|manifest\.json)\.\d+\.tmp")


@dataclass
class Manifest:
    """What made the tables in a folder.

    Attributes:
        run_id: Names this run and no other.
        run_key: Names the results: the same library, model and parameters that matter.
        parameters: What was asked for.
        library: location, sha256 and n_records.
        model: name, sha256, and errors: what its card says of them, in words.
        versions: Of the packages that results depend on.
        started: When, in ISO 8601.
        finished: When; None as long as the tables are not whole.
        counts: Molecules by status and by reason, conformers by status.
        timings_s: Seconds by stage.
        notes: What was guessed of the library, or looks odd, in sentences.
        ran: What computed the conformers: device, backend, precision, what `auto` came to and why;
            one entry for each that took part.
        schema_version: `SCHEMA_VERSION` of the tables.
    """

    run_id: str
    run_key: str
    parameters: dict[str, Any]
    library: dict[str, Any]
    model: dict[str, Any]
    versions: dict[str, str]
    started: str
    finished: str | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ran: list[dict[str, Any]] = field(default_factory=list)
    schema_version: str = SCHEMA_VERSION

    def add_timings(self, timings_s: Mapping[str, float]) -> None:
        """Add seconds to those of each stage."""
        for stage, seconds in timings_s.items():
            self.timings_s[stage] = self.timings_s.get(stage, 0.0) + seconds

    def write(self, out_dir: Path) -> Path:
        """Write DIR/manifest.json, whole or not at all."""
        path = out_dir / "manifest.json"
        with whole_file(path) as stream:
            stream.write(json.dumps(asdict(self), indent=2, default=str).encode() + b"\n")
        return path


def read_manifest(out_dir: Path) -> Manifest | None:
    """Read DIR/manifest.json; None if there is none.

    Raises:
        OutputError: If it cannot be read or is not one of ours.
    """
    path = out_dir / "manifest.json"
    try:
        content = json.loads(path.read_bytes())
        names = {f.name for f in fields(Manifest)}
        return Manifest(**{name: value for name, value in content.items() if name in names})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {one_line(error)}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise OutputError(f"{path}: is not the manifest of a run; choose another folder") from error


def check_output(
    out_dir: Path, manifest: Manifest, *, overwrite: bool = False, resume: bool = False
) -> Manifest:
    """Find out, without touching anything, whether a run may have a folder.

    Arguments, result and errors are those of `open_output`, but for a folder that turns out not to
    be writable.
    """
    if overwrite and resume:
        raise OutputError(f"{out_dir}: --overwrite and --resume contradict each other")
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(out_dir)  # lexists is silent about a name that cannot be
        nearest = next(path for path in (out_dir, *out_dir.parents) if os.path.lexists(path))
    except (OSError, ValueError) as error:  # too long a name, a NUL in it
        raise OutputError(f"{str(out_dir)!r}: cannot be written: {one_line(error)}") from error
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise OutputError(f"{out_dir}: cannot be written: {nearest} is not a writable folder")
    earlier = read_manifest(out_dir)
    parts = [path for table in TABLES for path in parts_in(out_dir / table).values()]
    for table in TABLES:
        for path in (out_dir / table).glob("[!.]*.parquet"):
            if path not in parts:
                raise OutputError(f"{path}: is in the way of the tables; choose another folder")
    if resume:
        if earlier is not None:
            _check_same_run(out_dir, earlier, manifest)
            manifest = replace(
                manifest,
                run_id=earlier.run_id,
                started=earlier.started,
                timings_s=earlier.timings_s,
                ran=earlier.ran,
            )
        _check_own_parts(parts, manifest.run_key)
    elif not overwrite and (earlier is not None or parts):
        raise OutputError(_occupied(out_dir, earlier, manifest))
    return manifest


def open_output(
    out_dir: Path, manifest: Manifest, *, overwrite: bool = False, resume: bool = False
) -> Manifest:
    """Make a folder ready for a run and leave its unfinished manifest there.

    Args:
        out_dir: Folder of the tables; made if it is not there. Files of others in it stay.
        manifest: Of the run that begins.
        overwrite: Remove the tables of an earlier run.
        resume: Keep the finished parts of an earlier run, which must have the same run key.

    Returns:
        The manifest that the run fills in: `manifest`, or when resuming an earlier run, that with
        the earlier run's id, start and timings.

    Raises:
        OutputError: If the folder cannot be written, or what is in it is in the way. Says in one
            line what to do.
    """
    manifest = check_output(out_dir, manifest, overwrite=overwrite, resume=resume)
    try:
        for table in TABLES:
            (out_dir / table).mkdir(parents=True, exist_ok=True)
            if overwrite:
                for path in parts_in(out_dir / table).values():
                    path.unlink()
        for folder in (out_dir, *(out_dir / table for table in TABLES)):
            for path in folder.iterdir():
                if _LEFTOVER_NAME.fullmatch(path.name):
                    path.unlink()
        manifest.write(out_dir)
    except OSError as error:
        raise OutputError(f"{out_dir}: cannot be written: {one_line(error)}") from error
    return manifest


def _occupied(out_dir: Path, earlier: Manifest | None, manifest: Manifest) -> str:
    if earlier is None:
        return f"{out_dir}: holds tables of an unknown run; --overwrite replaces them"
    if earlier.run_key != manifest.run_key:
        return f"{out_dir}: holds the results of another run; --overwrite replaces them"
    if earlier.finished is None:
        return f"{out_dir}: holds this run unfinished; --resume ends it, --overwrite begins anew"
    return f"{out_dir}: holds this run's results already; --overwrite computes them anew"


def _check_same_run(out_dir: Path, earlier: Manifest, manifest: Manifest) -> None:
    if earlier.run_key == manifest.run_key:
        return
    pairs = {
        name: (earlier.parameters.get(name), manifest.parameters.get(name))
        # The folder is this one, however it is spelled; the library counts by its content.
        for name in [*earlier.parameters, *manifest.parameters]
        if name not in ("out", "library")
    }
    for name, key in (("library", "sha256"), ("library", "n_records"), ("model", "sha256")):
        pairs[f"{name} {key}"] = (getattr(earlier, name).get(key), getattr(manifest, name).get(key))
    pairs["schema_version"] = (earlier.schema_version, manifest.schema_version)
    pairs |= {
        f"version of {name}": (earlier.versions.get(name), manifest.versions.get(name))
        for name in [*earlier.versions, *manifest.versions]
    }
    told = "; ".join(f"{name} was {a}, is {b}" for name, (a, b) in pairs.items() if a != b)
    raise OutputError(
        f"{out_dir}: cannot be resumed, it holds another run ({told or 'its run key differs'}); "
        "--overwrite replaces it"
    )


def _check_own_parts(parts: Sequence[Path], run_key: str) -> None:
    for path in parts:
        # A part without a key is torn: its shard is not finished and will be written anew.
        if read_part_key(path) not in (None, run_key):
            raise OutputError(f"{path}: is of another run; --overwrite replaces all parts")
