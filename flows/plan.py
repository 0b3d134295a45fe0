"""What one run of the screen will do, as data: the call, opened, and the plan, which is JSON.

A wrong call is refused within a second or two, so nothing here imports torch unless it must.
"""

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata as packages
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from flows.call import ScreenCall
from flows.fingerprint import LibraryFingerprint
from flows.settings import chemistry_of, pre_model_of, relaxation_of, thermo_of
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.errors import DeviceError, ModelFileError
from mlff_core.library import Library, open_library
from mlff_core.library.ingest import IngestReport
from mlff_core.models.reference import ModelReference, refer_to_model
from mlff_core.moves.settings import RelaxSettings
from mlff_core.properties.charges import no_charges
from mlff_core.properties.water import described, require_tblite
from mlff_core.store import Location, open_store, place_of
from mlff_core.tables import (
    SCHEMA_VERSION,
    Manifest,
    check_output,
    earlier_choice,
    earlier_manifest,
)
from tasks.opened import Embedder

#: Records in a shard where the caller does not say. On a GPU a shard must be worth some tens of
#: seconds of its time; on a CPU it bounds what a crash can lose to a minute or two.
SHARD_SIZE = {"cuda": 10_000, "cpu": 50}

#: What a call says of results that are there already; the results do not depend on it.
ABOUT_EARLIER = {"overwrite", "resume", "append"}

#: Packages whose versions a run's manifest names, because results depend on them.
VERSIONED = ("mlff-screen", "torch", "triton", "rdkit", "numpy", "pyarrow", "prefect", "ase")


@dataclass(frozen=True)
class OpenedCall:
    """A call whose library, model and output folder were found usable.

    Attributes:
        call: The call.
        library: Found readable, to its first record.
        model: Found whole.
        out_dir: Where the tables lie: a folder, absolute, or a place in a bucket.
        teacher: The teacher's file and its sha256, if it is to be asked.
        pre_model: The model that is walked with first, if there is one.
    """

    call: ScreenCall
    library: Library
    model: ModelReference
    out_dir: Location
    teacher: tuple[str, str] | None = None
    pre_model: ModelReference | None = None

    @property
    def work_dir(self) -> Path:
        """Folder of the intermediate files; a leading dot hides it from readers of the tables.

        Of tables in a bucket, one of the user's own on this host.
        """
        if isinstance(self.out_dir, Path):
            return self.out_dir / ".mlff-screen"
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "mlff-screen" / hashlib.sha256(self.out_dir.encode()).hexdigest()[:16]

    @property
    def parameters(self) -> dict[str, Any]:
        """The call as the manifest keeps it; what was said about older results is not of it."""
        return self.call.model_dump(exclude=ABOUT_EARLIER)

    def sentences(self) -> list[str]:
        """What will be done, and what was guessed."""
        call = self.call
        limit = f", the first {call.limit:,} records" if call.limit else ""
        conformers = "1 conformer" if call.conformers == 1 else f"{call.conformers} conformers"
        if call.from_3d != "none":
            conformers = "the given geometry"
        elif call.conformers == "auto":
            conformers = f"conformers by flexibility, at most {call.max_conformers}"
        return [
            f"mlff-screen {version('mlff-screen')}",
            f"library: {self.library.location}{limit}",
            *(f"library: {note}" for note in self.library.notes),
            *self._columns(),
            f"model: {self.model.name}, {conformers} a molecule",
            *([f"relaxed with {self.pre_model.name} first"] if self.pre_model else []),
            *([f"thermochemistry: {thermo}"] if (thermo := thermo_of(call)) else []),
            f"output: {self.out_dir}",
        ]

    def _columns(self) -> list[str]:
        library = self.library
        if library.smiles_column is None:
            return []
        return [f"columns: {library.smiles_column} (SMILES), {library.id_column or 'none'} (id)"]

    def shard_size(self, device: str) -> int:
        """Records in a shard: as asked for, or as a resumed run had it, or as suits the device."""
        if self.call.shard_size is not None:
            return self.call.shard_size
        goes_on = self.call.resume or self.call.append
        earlier = earlier_choice(self.out_dir, "shard_size") if goes_on else None
        chosen = int(earlier) if earlier is not None and earlier.isdecimal() else 0
        return chosen or SHARD_SIZE[device]

    def embedder(self, device: str) -> Embedder:
        """Who embeds: as asked for, or as a resumed run had it, or as suits the device.

        Raises:
            DeviceError: It is to be a card, and there is none.
        """
        if self.call.from_3d != "none":
            return "given"
        wanted: str = self.call.embedder
        if wanted == "auto" and (self.call.resume or self.call.append):
            wanted = earlier_choice(self.out_dir, "embedder") or wanted
        if wanted == "card" and device != "cuda":
            raise DeviceError("embedder: card was asked for, and there is no CUDA device here")
        if wanted == "auto":
            return "card" if device == "cuda" else "rdkit"
        return "card" if wanted == "card" else "rdkit"


def open_call(call: ScreenCall) -> OpenedCall:
    """Open the library and the model that a call names, and look at the output folder.

    Raises:
        LibraryError: The library cannot be read, or has no SMILES.
        ModelFileError: The model is missing or damaged, or has no charges and they are asked for.
        OutputError: The output folder cannot be written, or holds results that are in the way.
        DeviceError: A device was asked for by name that is not there.
    """
    if call.solvent == "water":
        require_tblite()
    if (
        call.device == "cuda" and call.engine == "local"
    ):  # only torch knows, and it takes seconds to import
        from mlff_core.models.potential import choose_device

        choose_device(call.device)
    model = refer_to_model(call.model)
    if call.charges and not model.has_charges:
        raise ModelFileError(no_charges(model.name))
    opened = OpenedCall(
        call=call,
        library=open_library(
            call.library,
            call.smiles_column,
            call.id_column,
            poses=call.from_3d != "none",
            frozen=call.frozen_property if call.from_3d == "frozen" else None,
        ),
        model=model,
        out_dir=place_of(call.out),
        teacher=find_teacher() if call.rescore == "teacher" else None,
        pre_model=pre_model_of(call, model),
    )
    if call.resume or call.append:  # whether it is the same run is known when the library was read
        open_store(opened.out_dir).check()
    else:
        check_output(opened.out_dir, _provisional(opened), overwrite=call.overwrite)
    return opened


def find_teacher() -> tuple[str, str]:
    """As `mlff_core.distill.teacher.find_teacher`, which imports torch."""
    from mlff_core.distill import teacher

    return teacher.find_teacher()


def _provisional(opened: OpenedCall) -> Manifest:
    """Of a run whose library was not read yet; the same call as the earlier one has its key."""
    manifest = Manifest(
        run_id="", run_key="", parameters=opened.parameters, library={}, model={}, versions={},
        started="",
    )  # fmt: skip
    earlier = earlier_manifest(opened.out_dir, replaceable=opened.call.overwrite)
    if earlier is not None:
        same = {name: opened.parameters[name] for name in ("out", "shard_size", "embedder")}
        if earlier.parameters | same == opened.parameters:
            manifest.run_key = earlier.run_key
    return manifest


class ScreenPlan(BaseModel):
    """All that a run will do, as data that goes through JSON unchanged.

    Attributes:
        parameters: The call, as it will be recorded.
        library: Which records.
        model: Which weights, and what they know.
        device: What `auto` came to: "cpu" or "cuda".
        chemistry: How molecules are prepared and embedded.
        embedder: Who finds starting geometries.
        relaxation: How conformers are relaxed.
        solvent: Water's model and what computes it, if it is wanted.
        teacher: The teacher's file and its sha256, if it is to be asked.
        pre_model: The model that is walked with first, if there is one.
        shard_size: Records in a shard.
        out: Folder of the tables, absolute.
        work: Folder of the intermediate files, absolute.
        first_record: Number of the first record, where tables are added to.
        first_shard: Number of the first shard.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: ScreenCall
    library: LibraryFingerprint
    model: ModelReference
    device: Literal["cpu", "cuda"]
    chemistry: ChemistrySettings
    embedder: Embedder
    relaxation: RelaxSettings
    solvent: str | None = None
    teacher: tuple[str, str] | None = None
    pre_model: ModelReference | None = None
    shard_size: int
    out: str
    work: str
    first_record: int = 0
    first_shard: int = 0

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.library.n_records // self.shard_size)

    @property
    def shards(self) -> range:
        """Numbers of the shards."""
        return range(self.first_shard, self.first_shard + self.n_shards)

    @property
    def run_key(self) -> str:
        """Names the results: equal for two calls that must give the same tables.

        The device, the backend, the batch sizes and the number of processes are left out: they
        change how fast the results come, so a run cut off on one machine may end on another.
        """
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def identity(self) -> dict[str, Any]:
        """What the run key is made of."""
        library = {
            "library": self.library.sha256,
            "smiles_column": self.library.smiles_column,
            "id_column": self.library.id_column,
            "n_records": self.library.n_records,
            "shard_size": self.shard_size,
        }
        added: dict[str, Any] = {"first_record": self.first_record} if self.first_record else {}
        if self.chemistry.from_3d == "frozen":
            added["frozen_property"] = self.parameters.frozen_property
        return library | added | self.settings

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but the library that the tables depend on."""
        relaxation = asdict(self.relaxation)
        del relaxation["batching"]
        if self.pre_model is None:
            del relaxation["pre_fmax"]
        else:
            relaxation["pre_model"] = [self.pre_model.sha256, self.pre_model.config_sha256]
        return self._added | {
            "chemistry": asdict(self.chemistry),
            "embedder": self.embedder,
            "relaxation": relaxation,
            "precision": self.parameters.precision,
            "model": [self.model.sha256, self.model.config_sha256],
            "schema_version": SCHEMA_VERSION,
            "mlff-screen": version("mlff-screen"),
        }

    @property
    def _added(self) -> dict[str, str]:
        """What computes added columns, where these are asked for."""
        thermo = thermo_of(self.parameters)
        return {
            **({"solvent": self.solvent} if self.solvent else {}),
            **({"teacher_sha256": self.teacher[1]} if self.teacher else {}),
            **({"thermo": thermo} if thermo else {}),
            **({"charges": "of the model"} if self.parameters.charges else {}),
        }

    def part_metadata(self) -> dict[str, str]:
        """What the footer of every part says of the run."""
        first = self.pre_model
        before = {"pre_relax_sha256": first.sha256} if first else {}
        return (
            self._added
            | before
            | {
                "run_key": self.run_key,
                "model_name": self.model.name,
                "model_sha256": self.model.sha256,
                "model_errors": json.dumps(self.model.errors, ensure_ascii=False),
                "schema_version": SCHEMA_VERSION,
                "shard_size": str(self.shard_size),
                "embedder": self.embedder,
            }
        )

    def records_in(self, shards: set[int]) -> int:
        """Number of records in these shards."""
        last = self.first_shard + self.library.n_records // self.shard_size
        short = self.library.n_records % self.shard_size
        return sum(short if shard == last else self.shard_size for shard in shards)

    def manifest(self) -> Manifest:
        """Of a run that begins now."""
        parameters = self.parameters.model_dump(exclude=ABOUT_EARLIER)
        return Manifest(
            run_id=str(uuid4()),
            run_key=self.run_key,
            parameters=parameters | {"shard_size": self.shard_size, "embedder": self.embedder},
            library=self.library.model_dump(exclude={"notes"}),
            model={
                "name": self.model.name,
                "sha256": self.model.sha256,
                "config_sha256": self.model.config_sha256,
                "errors": self.model.errors,
            },
            versions={"python": platform.python_version()}
            | {name: found for name in VERSIONED if (found := version(name))},
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            notes=list(self.library.notes),
            settings=json.loads(json.dumps(self.settings)),
        )


def make_plan(
    opened: OpenedCall, read: IngestReport, *, shard_size: int, device: str
) -> ScreenPlan:
    """The plan of a call whose library was read."""
    call, library, model = opened.call, opened.library, opened.model
    return ScreenPlan.model_validate(
        {
            "parameters": call,
            "library": LibraryFingerprint(
                location=library.location,
                sha256=read.sha256,
                hashed=read.hashed,
                n_records=read.n_records,
                smiles_column=library.smiles_column,
                id_column=library.id_column,
                notes=read.notes,
            ),
            "model": model,
            "device": device,
            "chemistry": chemistry_of(call, model),
            "embedder": opened.embedder(device),
            "relaxation": relaxation_of(call),
            "solvent": described() if call.solvent == "water" else None,
            "teacher": opened.teacher,
            "pre_model": opened.pre_model,
            "shard_size": shard_size,
            "out": str(opened.out_dir),
            "work": str(opened.work_dir),
        }
    )


def version(package: str) -> str | None:
    """Of an installed package; None if it is not there."""
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return None
