"""What one run of the screen will do: the call, checked, with everything it names opened."""

import hashlib
import json
import platform
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata as packages
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.library import Library, open_library
from mlff_core.models.potential import Potential, load_potential
from mlff_core.shard import RelaxOptions
from mlff_core.tables import (
    SCHEMA_VERSION,
    Manifest,
    check_output,
    open_output,
    read_manifest,
)

#: Records in a shard where the caller does not say. On a GPU a shard must be worth some tens of
#: seconds of its time; on a CPU it bounds what a crash can lose to a minute or two.
SHARD_SIZE = {"cuda": 20_000, "cpu": 50}

#: Packages whose versions a run's manifest names, because results depend on them.
VERSIONED = ("mlff-screen", "torch", "triton", "rdkit", "numpy", "pyarrow", "prefect")


@dataclass(frozen=True)
class ScreenPlan:
    """A checked call.

    Attributes:
        parameters: The flow's parameters as they will be recorded.
        library: The opened library.
        n_records: Records to be read, the limit applied.
        potential: The loaded model.
        chemistry: How molecules are prepared and embedded.
        relaxation: How conformers are relaxed.
        shard_size: Records in a shard.
        out_dir: Folder of the tables, absolute.
        workers: Embedding processes; None for one a core.
        overwrite: Replace another run's results.
        resume: Go on with a run that was cut off.
    """

    parameters: dict[str, Any]
    library: Library
    n_records: int
    potential: Potential
    chemistry: ChemistrySettings
    relaxation: RelaxOptions
    shard_size: int
    out_dir: Path
    workers: int | None
    overwrite: bool
    resume: bool

    @property
    def work_dir(self) -> Path:
        """Folder of the intermediate files; a leading dot hides it from readers of the tables."""
        return self.out_dir / ".mlff-screen"

    @cached_property
    def library_sha256(self) -> str:
        """Of the library's bytes."""
        return self.library.sha256()

    @cached_property
    def run_key(self) -> str:
        """Names the results: equal for two calls that must give the same tables.

        The device, the backend, the batch sizes and the number of processes are left out: they
        change how fast the results come, so a run cut off on one machine may end on another.
        """
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the run key is made of."""
        relaxation = asdict(self.relaxation)
        del relaxation["batching"]
        return {
            "library": self.library_sha256,
            "smiles_column": self.library.smiles_column,
            "id_column": self.library.id_column,
            "n_records": self.n_records,
            "shard_size": self.shard_size,
            "chemistry": asdict(self.chemistry),
            "relaxation": relaxation,
            "precision": self.potential.precision,
            "model": self.potential.sha256,
            "schema_version": SCHEMA_VERSION,
            "mlff-screen": _version("mlff-screen"),
        }

    def part_metadata(self) -> dict[str, str]:
        """What the footer of every part says of the run."""
        return {
            "run_key": self.run_key,
            "model_name": self.potential.name,
            "model_sha256": self.potential.sha256,
            "model_errors": json.dumps(self.potential.errors, ensure_ascii=False),
            "schema_version": SCHEMA_VERSION,
        }

    def records_in(self, shards: set[int]) -> int:
        """Number of records in these shards."""
        last = self.n_records // self.shard_size
        short = self.n_records % self.shard_size
        return sum(short if shard == last else self.shard_size for shard in shards)

    def manifest(self) -> Manifest:
        """Of a run that begins now."""
        return Manifest(
            run_id=str(uuid4()),
            run_key=self.run_key,
            parameters=self.parameters | {"shard_size": self.shard_size},
            library={
                "location": self.library.location,
                "sha256": self.library_sha256,
                "n_records": self.n_records,
            },
            model={
                "name": self.potential.name,
                "sha256": self.potential.sha256,
                "errors": self.potential.errors,
            },
            versions={"python": platform.python_version()}
            | {name: version for name in VERSIONED if (version := _version(name))},
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def check_output(self) -> None:
        """Find out, without touching it, whether the output folder may be used.

        Raises:
            OutputError: It cannot be written, or holds results that are in the way.
        """
        check_output(self.out_dir, self.manifest(), overwrite=self.overwrite, resume=self.resume)

    def claim_output(self) -> Manifest:
        """Make the output folder ours and leave an unfinished manifest in it.

        Raises:
            OutputError: It cannot be written, or holds results that are in the way.
        """
        manifest = open_output(
            self.out_dir, self.manifest(), overwrite=self.overwrite, resume=self.resume
        )
        shutil.rmtree(self.work_dir, ignore_errors=True)  # of a run that was cut off
        self.work_dir.mkdir()
        return manifest

    def release_output(self, manifest: Manifest) -> None:
        """Mark the run finished and remove the intermediate files."""
        manifest.finished = datetime.now(UTC).isoformat(timespec="seconds")
        manifest.write(self.out_dir)
        shutil.rmtree(self.work_dir, ignore_errors=True)


def _version(package: str) -> str | None:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return None


def make_plan(**parameters: Any) -> ScreenPlan:
    """Open the library and the model that a call names; parameters are those of the flow.

    Raises:
        LibraryError: The library cannot be read, to its last record.
        ModelFileError: The model is missing or damaged.
        DeviceError: The device or the backend is not available here.
        ValueError: Two parameters contradict each other.
    """
    if parameters["overwrite"] and parameters["resume"]:
        raise ValueError("overwrite and resume contradict each other: choose one")
    library = open_library(
        parameters["library"], parameters["smiles_column"], parameters["id_column"]
    )
    potential = load_potential(
        parameters["model"],
        device=parameters["device"],
        backend=parameters["backend"],
        precision=parameters["precision"],
    )
    out_dir = Path(parameters["out"]).expanduser().absolute()
    config = potential.config
    limit = parameters["limit"]
    # Reading it once to its end finds what is damaged before hours are spent on the rest.
    n_records = sum(1 for _ in islice(library.records(), limit)) if limit else library.count()
    return ScreenPlan(
        parameters={k: v for k, v in parameters.items() if k not in ("overwrite", "resume")},
        library=library,
        n_records=n_records,
        potential=potential,
        chemistry=ChemistrySettings(
            n_conformers=parameters["conformers"],
            max_atoms=parameters["max_atoms"],
            seed=parameters["seed"],
            hard_timeout_s=parameters["molecule_seconds"],
            elements=config.elements,
            min_charge=config.min_charge,
            max_charge=config.max_charge,
        ),
        relaxation=RelaxOptions(
            optimizer=parameters["optimizer"],
            fmax=parameters["fmax"],
            max_steps=parameters["max_steps"],
            batching=parameters["batching"],
        ),
        shard_size=parameters["shard_size"]
        or _shard_size(parameters["resume"], out_dir, potential),
        out_dir=out_dir,
        workers=parameters["workers"],
        overwrite=parameters["overwrite"],
        resume=parameters["resume"],
    )


def _shard_size(resume: bool, out_dir: Path, potential: Potential) -> int:
    """The size that a resumed run had, wherever it ran, else what suits the device."""
    earlier = read_manifest(out_dir) if resume else None
    if earlier is not None:
        return int(earlier.parameters["shard_size"])
    return SHARD_SIZE[potential.device.type]
