"""The manifest of a run, and the place that it makes its own."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from mlff_core.errors import OutputError
from mlff_core.schema import ROWS, SCHEMA_VERSION
from mlff_core.store import FolderStore, Location, Store, one_line, open_store
from mlff_core.tables.parts import PART_NAME, is_whole, parts_in, read_footer, read_part_key
from mlff_core.tables.timeline import Timeline

#: Records that a run names for having taken longest.
SLOWEST: Final = 5

_NAME: Final = "manifest.json"
#: Far more than any of ours has; what is longer is not read on.
_MOST_BYTES: Final = 1 << 26
#: How `Manifest.write` begins.
_BEGIN: Final = b'{\n  "run_id":'
_FOREIGN: Final = "is not the manifest of a run; choose another folder"
_TORN: Final = "--resume goes by what the parts say, --overwrite replaces all"


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
        slowest: Records that took longest to be prepared and embedded, and how many seconds.
        notes: What was guessed of the library, or looks odd, in sentences.
        ran: What computed the conformers: device, backend, precision, what `auto` came to and why;
            one entry for each that took part.
        settings: Everything but the library that the tables depend on.
        timeline: How busy the stages were over the time since the run was last started.
        generations: Where structures were added later: what each time brought, in their order; see
            `mlff_core.tables.generations`.
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
    slowest: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ran: list[dict[str, str | dict[str, int] | None]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)
    generations: list[dict[str, Any]] = field(default_factory=list)
    schema_version: str = SCHEMA_VERSION

    def add_timings(self, timings_s: Mapping[str, float]) -> None:
        """Add seconds to those of each stage."""
        for stage, seconds in timings_s.items():
            self.timings_s[stage] = self.timings_s.get(stage, 0.0) + seconds

    def add_slowest(self, seconds: Mapping[int, float]) -> None:
        """Add records that took long, of which the slowest are kept."""
        known = {**dict(self.slowest), **seconds}
        self.slowest = sorted(known.items(), key=lambda item: -item[1])[:SLOWEST]

    def add_ran(self, ran: Mapping[str, Any]) -> bool:
        """Add what computed a shard, its batch sizes to those of its like; whether it is new."""
        sizes = dict(ran["batch_sizes"])
        for known in self.ran:
            if all(known.get(name) == ran[name] for name in ran if name != "batch_sizes"):
                before = known.get("batch_sizes")
                before = before if isinstance(before, dict) else {}
                known["batch_sizes"] = {
                    bucket: max(before.get(bucket, 0), sizes.get(bucket, 0))
                    for bucket in {**before, **sizes}
                }
                return False
        self.ran.append({**ran, "batch_sizes": sizes})
        return True

    def write(self, out: Store | Location) -> None:
        """Write manifest.json, whole or not at all."""
        with open_store(out).put(_NAME) as stream:
            stream.write(json.dumps(asdict(self), indent=2, default=str).encode() + b"\n")


_MANIFEST: Final = TypeAdapter(Manifest)


class _TornError(OutputError):
    """A manifest of ours that is damaged: by a disk, by hand, by a program that cut it off."""


def read_manifest(out: Store | Location) -> Manifest | None:
    """Read manifest.json; None if there is none.

    Raises:
        OutputError: If it cannot be read, is damaged, or is not one of ours.
    """
    out = open_store(out)
    path = out.url(_NAME)
    try:
        with out.open(_NAME) as stream:
            content = stream.read(_MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {one_line(error)}") from error
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        # It begins as `write` begins it, or a crash left a name with nothing behind it.
        if content.startswith(_BEGIN) or not content.strip(b"\0 \r\n\t") or _has_parts(out):
            raise _TornError(f"{path}: is damaged (no JSON); {_TORN}") from error
        raise OutputError(f"{path}: {_FOREIGN}") from error
    if not isinstance(values, dict) or "run_key" not in values:
        raise OutputError(f"{path}: {_FOREIGN}")
    names = {f.name for f in fields(Manifest)}
    try:
        return _MANIFEST.validate_python({k: v for k, v in values.items() if k in names})
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise _TornError(f"{path}: is damaged ({where}: {wrong['msg']}); {_TORN}") from error


def _has_parts(out: Store) -> bool:
    return any(parts_in(out, table) for table in ROWS)


def earlier_manifest(out: Store | Location, *, replaceable: bool) -> Manifest | None:
    """The manifest of an earlier run; None if there is none.

    Args:
        out: Where the tables lie.
        replaceable: Whether a damaged one counts as none: it is to be replaced, and whose the
            parts are they say themselves.

    Raises:
        OutputError: As `read_manifest`.
    """
    try:
        return read_manifest(out)
    except _TornError:
        if replaceable:
            return None
        raise


def earlier_choice(out: Store | Location, name: str) -> str | None:
    """What a run that is to be resumed chose by itself, such as its `shard_size`.

    The manifest says it, or where that is damaged or gone, the parts.

    Raises:
        OutputError: As `read_manifest`, but for a damaged manifest.
    """
    out = open_store(out)
    earlier = earlier_manifest(out, replaceable=True)
    if earlier is not None and name in earlier.parameters:
        return str(earlier.parameters[name])
    footers = (read_footer(out, part) for part in parts_in(out, "molecules").values())
    return next((footer[name] for footer in footers if name in footer), None)


def check_output(
    out: Store | Location, manifest: Manifest, *, overwrite: bool = False, resume: bool = False
) -> Manifest:
    """Find out, without touching anything, whether a run may write its tables somewhere.

    Arguments, result and errors are those of `open_output`, but for a place that turns out not to
    be writable.
    """
    out = open_store(out)
    if overwrite and resume:
        raise OutputError(f"{out.location}: --overwrite and --resume contradict each other")
    out.check()
    _refuse_links(out)
    earlier = earlier_manifest(out, replaceable=overwrite or resume)
    parts = [name for table in ROWS for name in parts_in(out, table).values()]
    for table in ROWS:
        for name in out.list(table):
            if name.endswith(".parquet") and name not in parts:
                raise OutputError(
                    f"{out.url(name)}: is in the way of the tables; choose another folder"
                )
    if resume:
        if earlier is not None and earlier.generations:
            raise OutputError(f"{out.location}: structures were added here; --append goes on")
        if earlier is not None:
            _check_same_run(out.location, earlier, manifest)
            manifest = replace(
                manifest,
                run_id=earlier.run_id,
                started=earlier.started,
                timings_s=earlier.timings_s,
                slowest=earlier.slowest,
                ran=earlier.ran,
            )
        _check_own_parts(out, parts, manifest.run_key)
    elif not overwrite and (earlier is not None or parts):
        raise OutputError(_occupied(out.location, earlier, manifest))
    return manifest


def _refuse_links(out: Store) -> None:
    """Who linked a table's folder elsewhere would have us write and delete there."""
    for table in ROWS:
        if isinstance(out, FolderStore) and (out.folder / table).is_symlink():
            raise OutputError(f"{out.url(table)}: is a symbolic link; remove it")


def open_output(
    out: Store | Location, manifest: Manifest, *, overwrite: bool = False, resume: bool = False
) -> Manifest:
    """Make a place ready for a run and leave its unfinished manifest there.

    Args:
        out: Where the tables will lie; a folder is made if it is not there. Files of others in it
            stay.
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
    out = open_store(out)
    manifest = check_output(out, manifest, overwrite=overwrite, resume=resume)
    try:
        for table in ROWS:
            if overwrite:
                for name in parts_in(out, table).values():
                    out.delete(name)
            out.tidy(table, PART_NAME)
        out.tidy("", re.compile(re.escape(_NAME)))
        manifest.write(out)
    except OSError as error:
        raise OutputError(f"{out.location}: cannot be written: {one_line(error)}") from error
    return manifest


def _occupied(where: str, earlier: Manifest | None, manifest: Manifest) -> str:
    if earlier is None:
        return f"{where}: holds tables of an unknown run; --overwrite replaces them"
    if earlier.run_key != manifest.run_key:
        return f"{where}: holds the results of another run; --overwrite replaces them"
    if earlier.finished is None:
        return f"{where}: holds this run unfinished; --resume ends it, --overwrite begins anew"
    return f"{where}: holds this run's results already; --overwrite computes them anew"


def _check_same_run(where: str, earlier: Manifest, manifest: Manifest) -> None:
    if earlier.run_key == manifest.run_key:
        return
    if earlier.schema_version != manifest.schema_version:
        raise OutputError(
            f"{where}: cannot be resumed, its tables are of schema version "
            f"{earlier.schema_version}, and this release writes version {manifest.schema_version}; "
            "--overwrite replaces them"
        )
    pairs = {
        name: (earlier.parameters.get(name), manifest.parameters.get(name))
        # The folder is this one, however it is spelled; the library counts by its content; who
        # computes changes nothing.
        for name in [*earlier.parameters, *manifest.parameters]
        if name not in ("out", "library", "engine", "ray_address", "workers")
    }
    for name, key in (
        ("library", "sha256"), ("library", "n_records"), ("model", "sha256"),
        ("model", "config_sha256"),
    ):  # fmt: skip
        pairs[f"{name} {key}"] = (getattr(earlier, name).get(key), getattr(manifest, name).get(key))
    pairs |= {
        f"version of {name}": (earlier.versions.get(name), manifest.versions.get(name))
        for name in [*earlier.versions, *manifest.versions]
    }
    changed = "; ".join(f"{name} was {a}, is {b}" for name, (a, b) in pairs.items() if a != b)
    raise OutputError(
        f"{where}: cannot be resumed, it holds another run ({changed or 'its run key differs'}); "
        "--overwrite replaces it"
    )


def _check_own_parts(out: Store, parts: Sequence[str], run_key: str) -> None:
    for name in parts:
        # One without a key, or damaged, is no part of anybody: it will be written anew.
        if read_part_key(out, name) not in (None, run_key) and is_whole(out, name):
            raise OutputError(f"{out.url(name)}: is of another run; --overwrite replaces all parts")
