"""What a run is asked to do: the one list of parameters of each flow.

The flow's signature and form, `-p name=value`, prefect.yaml, the command line and the manifest all
come from these classes: a name, its type, its bounds, its default and the sentence that a person
reads. A field is an option `--name`, in the group of `--help` that it names.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

Function = TypeVar("Function", bound=Callable[..., Any])

#: Groups of `--help`, in their order: what matters first, first.
GROUPS = {
    "first": "options that matter first",
    "library": "the library",
    "molecules": "molecules and conformers",
    "relaxation": "relaxation",
    "properties": "what is computed of relaxed conformers",
    "machine": "how fast, on what",
    "results": "results that are there already",
}


def option(default: Any, group: str, description: str, **bounds: Any) -> Any:
    """A field of a call: a pydantic `Field` that knows its group."""
    return Field(
        default, description=description, json_schema_extra={"group": GROUPS[group]}, **bounds
    )


def group_of(field: FieldInfo) -> str:
    """The title of a field's group."""
    assert isinstance(field.json_schema_extra, dict)
    return str(field.json_schema_extra["group"])


def on_form(field: FieldInfo) -> str:
    """A field's sentence as a form without groups shows it."""
    group = group_of(field)
    about = "" if group == GROUPS["first"] else f"{group.capitalize()} · "
    return f"{about}{field.description}"


class Call(BaseModel):
    """Frozen, bounded; a name that is not a field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @classmethod
    def by_group(cls) -> dict[str, FieldInfo]:
        """The fields, those of a group one after the other, in the order of `GROUPS`."""
        order = list(GROUPS.values())
        fields = cls.model_fields.items()
        return dict(sorted(fields, key=lambda field: order.index(group_of(field[1]))))

    @classmethod
    def signature_of_flow(cls) -> inspect.Signature:
        """The fields as keyword parameters, each with its bounds and its sentence."""
        return inspect.Signature(
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if field.is_required() else field.default,
                    annotation=Annotated[
                        field.annotation, Field(description=field.description), *field.metadata
                    ],
                )
                for name, field in cls.by_group().items()
            ]
        )


def takes(call: type[Call]) -> Callable[[Function], Function]:
    """Give a function `**parameters` the signature of a call, for Prefect and its form.

    Prefect shows what stands under `Args:` in the docstring beside each entry of the form, in the
    order of the signature. It knows no groups, so each sentence begins with its group's name.
    """

    def give(function: Function) -> Function:
        function.__signature__ = call.signature_of_flow()  # type: ignore[attr-defined]
        sentences = (f"    {name}: {on_form(field)}" for name, field in call.by_group().items())
        function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *sentences])
        return function

    return give


#: What a preset sets where nothing else is given; the defaults are the standard.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"model": "small", "fmax": 0.1, "max_steps": 100},
    "standard": {},
    "thorough": {"conformers": 20, "fmax": 0.01, "max_steps": 1000},
}
#: What says nothing without another.
NEEDS = {"ph_window": "ph", "solvent_seconds": "solvent"}
NEEDS |= dict.fromkeys(("temperature_k", "pressure_pa"), "thermo")


class ScreenCall(Call):
    """One screen of a library."""

    library: str = option(
        "datasets/druglike",
        "first",
        "Library of SMILES: .smi .csv .tsv .parquet .sdf, plain or .gz; a path on the worker, a "
        "folder that holds one such file, or a URL",
        min_length=1,
    )
    out: str = option(
        "out/druglike", "first", "Folder for the tables; made if it is not there", min_length=1
    )
    preset: Literal["quick", "standard", "thorough"] = option(
        "standard",
        "first",
        "quick: the small model, fmax 0.1, 100 steps; thorough: 20 conformers, fmax 0.01, 1,000 "
        "steps; what else is given wins",
    )
    conformers: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = option(
        1,
        "first",
        "Conformers to embed for each molecule, before pruning; auto: as many as its rotatable "
        "bonds and rings suggest, 8 to max_conformers",
    )
    model: str = option(
        "default",
        "first",
        "default; small, which takes less than half of the time and errs by more; or the path of a "
        ".safetensors checkpoint",
        min_length=1,
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "first", "auto: cuda if there is one")
    limit: int | None = option(
        None, "first", "Read no more than this many records of the library", ge=1
    )
    smiles_column: str | None = option(
        None,
        "library",
        "Column with the SMILES; guessed from the names, and told, when not given",
    )
    id_column: str | None = option(
        None, "library", "Column with the molecules' names; guessed and told when not given"
    )
    max_atoms: int = option(
        250,
        "molecules",
        "Larger molecules, hydrogens counted, are rejected too_large",
        ge=1,
        le=2000,
    )
    stereo: Literal["one", "enumerate", "diastereomers"] = option(
        "one",
        "molecules",
        "Where stereo is undefined, compute one isomer; enumerate: all; diastereomers: one of each "
        "pair of mirror images",
    )
    tautomers: bool = option(
        False, "molecules", "Compute other tautomers too; their energies are those in vacuum"
    )
    ph: float | None = option(
        None,
        "molecules",
        "Compute the protonation state that dominates in water of this pH, 7.4 say; as written if "
        "not given",
        ge=0,
        le=14,
    )
    ph_window: float = option(
        0.0,
        "molecules",
        "With ph: states too that are at most so many pH units rarer, four in all",
        ge=0,
        le=14,
    )
    max_variants: int = option(
        8, "molecules", "Structures computed for one record at most", ge=1, le=1000
    )
    max_conformers: int = option(
        100, "molecules", "Most conformers of a molecule where conformers is auto", ge=8, le=1000
    )
    molecule_seconds: float = option(
        60.0,
        "molecules",
        "Seconds that embedding one molecule may take at most",
        gt=0,
        le=86_400,
    )
    embedder: Literal["auto", "rdkit", "card"] = option(
        "auto",
        "molecules",
        "Where starting geometries are found: rdkit, on the cores; card, on the GPU; auto is card "
        "where there is one",
    )
    from_3d: Literal["none", "all", "hydrogens", "frozen"] = option(
        "none",
        "molecules",
        "Relax the 3D structures of an .sdf instead of embedding: all atoms, hydrogens only, or "
        "all but the frozen ones",
    )
    frozen_property: str = option(
        "FROZEN_ATOMS",
        "molecules",
        "With from_3d frozen: property of the .sdf that names them, 1 4 7-9 say, as its mol block "
        "counts",
        min_length=1,
    )
    seed: int = option(
        20_260_101,
        "molecules",
        "Seed of conformers and of chosen stereo isomers",
        ge=0,
        le=2**31 - 1,
    )
    solvent: Literal["none", "water"] = option(
        "none",
        "properties",
        "water: solvation energies of the relaxed conformers in the window (of zwitterions: of "
        "all), by GFN2-xTB with ALPB, in columns beside the vacuum's; needs the extra [solvent]",
    )
    solvent_seconds: float = option(
        120.0,
        "properties",
        "Seconds that the solvation of one conformer may take at most",
        gt=0,
        le=86_400,
    )
    rescore: Literal["none", "teacher"] = option(
        "none",
        "properties",
        "teacher: AIMNet2's energies of the ten lowest conformers in the window, with the spread "
        "of its members; python datasets/fetch_teacher.py gets it",
    )
    charges: bool = option(
        False,
        "properties",
        "Partial charges of each atom where its relaxation ended, of a model that has some",
    )
    optimizer: Literal["lbfgs", "fire"] = option(
        "lbfgs", "relaxation", "How each conformer is relaxed"
    )
    fmax: float = option(
        0.05,
        "relaxation",
        "A conformer has converged below this largest force, in eV/Å: 0.05 leaves it about 0.1 "
        "kcal/mol above its minimum after a first walk by the small model, 0.5 without (medians)",
        gt=0,
        le=10,
    )
    pre_relax: Literal["auto", "small", "none"] = option(
        "auto",
        "relaxation",
        "small: walk with the small model first, which saves time; auto: before the default one",
    )
    max_steps: int = option(
        300, "relaxation", "Relaxation steps at most; 0 is a single point", ge=0, le=100_000
    )
    thermo: bool = option(
        False,
        "properties",
        "Enthalpy, entropy and Gibbs energy of each molecule's best conformer, from its "
        "vibrations; fmax is 0.01 at most then",
    )
    temperature_k: float = option(
        298.15, "properties", "With thermo: temperature in K", gt=0, le=5000
    )
    pressure_pa: float = option(
        101_325.0, "properties", "With thermo: pressure in Pa", gt=0, le=1e9
    )
    backend: Literal["auto", "triton", "numba", "torch"] = option(
        "auto",
        "machine",
        "What computes the model; auto is triton on cuda and numba on a CPU; torch is the old name "
        "of numba",
    )
    precision: Literal["auto", "float32", "fast", "float64"] = option(
        "auto",
        "machine",
        "Precision of the model; fast lowers it where the stated error allows; auto walks to "
        "minima in fast on a card, and judges and reports in float32",
    )
    batching: Literal["auto", "table"] = option(
        "auto", "machine", "Batch sizes: the fixed table, or what the device earns"
    )
    shard_size: int | None = option(
        None,
        "machine",
        "Records in a shard, the unit of a task and of what a crash can lose; chosen for the "
        "device when not given",
        ge=1,
        le=1_000_000,
    )
    engine: Literal["local", "ray"] = option(
        "local",
        "machine",
        "Who runs the shards: this process, or every card of the host or of a Ray cluster",
    )
    ray_address: str | None = option(
        None,
        "machine",
        "Ray cluster: auto, HOST:PORT or ray://HOST:PORT; one on this host if not given",
    )
    workers: int | None = option(
        None,
        "machine",
        "Embedding processes; one for each usable core if not given. With ray: cores of a lane",
        ge=1,
        le=1024,
    )
    overwrite: bool = option(False, "results", "Replace the results of an earlier run there")
    resume: bool = option(False, "results", "Finish a run of the same call that was cut off")
    append: bool = option(
        False,
        "results",
        "Add the structures of the library that the tables do not have; a folder may hold several "
        "libraries",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("preset"), str):
            return PRESETS.get(given["preset"], {}) | given
        return given

    @classmethod
    def of_form(cls, parameters: dict[str, Any]) -> Self:
        """The call of a form, which hands over every default.

        With a preset, a default that it would change counts as not given.
        """
        changed = PRESETS.get(parameters.get("preset", "standard"), {})
        fields = cls.model_fields
        given = {
            name: value
            for name, value in parameters.items()
            if name not in changed or value != fields[name].default
        }
        return cls(**given)

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        asked = [name for name in ("overwrite", "resume", "append") if getattr(self, name)]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} contradict each other: choose one")
        return self

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        fields = type(self).model_fields
        asked = {name for name, field in fields.items() if getattr(self, name) != field.default}
        for name in sorted(asked & NEEDS.keys()):
            if NEEDS[name] not in asked:
                raise ValueError(f"{name} says nothing without {NEEDS[name]}: ask for that, too")
        for name in ("stereo", "tautomers", "ph", "append"):
            if name in asked and self.from_3d != "none":
                raise ValueError(f"from_3d takes structures as they are given: not with {name}")
        return self


class DistillCall(Call):
    """One distillation."""

    table: str = option(
        ...,
        "first",
        "SMILES to choose from: a path or URL of .smi .csv .tsv .parquet .sdf, or .gz",
        min_length=1,
    )
    teacher: str = option(
        "auto",
        "first",
        "what datasets/fetch_teacher.py prints; auto: where it keeps the file",
        min_length=1,
    )
    recipe: str = option(
        "datasets/recipes/student.toml",
        "first",
        "every choice and seed, a .toml file",
        min_length=1,
    )
    out: str = option("out/distill", "first", "folder for the files of every step", min_length=1)
    stages: int | None = option(
        None, "first", "number of stages; the recipe's if not given", ge=1, le=1000
    )
    start: str = option(
        "none",
        "first",
        "where the first stage starts: none for random weights, a shipped model's name (default, "
        "small), or a path",
        min_length=1,
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "machine", "auto: cuda if there is one")
    gpus: int = option(1, "machine", "how many GPUs train together", ge=1, le=64)
