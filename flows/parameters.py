"""The parameters of a screen: one place that the flow, its form and the command line share.

Each alias is a type, its bounds and the sentence that the form and `--help` show. There is no
`from __future__ import annotations` here or in the flows: Prefect resolves the annotations of a
flow's signature at run time.
"""

from typing import Annotated, Literal

from pydantic import Field

LibraryLocation = Annotated[
    str,
    Field(
        min_length=1,
        description="Library of SMILES: .smi .csv .tsv .parquet .sdf, plain or .gz; a path on the "
        "worker, a folder that holds one such file, or a URL",
    ),
]
OutputFolder = Annotated[
    str, Field(min_length=1, description="Folder for the tables; made if it is not there")
]
SmilesColumn = Annotated[
    str | None,
    Field(description="Column with the SMILES; guessed from the names, and told, when not given"),
]
IdColumn = Annotated[
    str | None,
    Field(description="Column with the molecules' names; guessed and told when not given"),
]
Conformers = Annotated[
    int, Field(ge=1, le=1000, description="Conformers to embed for each molecule, before pruning")
]
Optimizer = Annotated[Literal["lbfgs", "fire"], Field(description="How each conformer is relaxed")]
Fmax = Annotated[
    float,
    Field(
        gt=0,
        le=10,
        description="A conformer has converged below this largest force, in eV/Å: 0.05 leaves it "
        "about 1 kcal/mol above its minimum, 0.01 less than 0.1 (medians)",
    ),
]
MaxSteps = Annotated[
    int, Field(ge=0, le=100_000, description="Relaxation steps at most; 0 is a single point")
]
DeviceChoice = Annotated[
    Literal["auto", "cpu", "cuda"], Field(description="auto is cuda where there is one")
]
BackendChoice = Annotated[
    Literal["auto", "triton", "torch"],
    Field(description="Engine; auto is triton on cuda and torch on a CPU"),
]
PrecisionChoice = Annotated[
    Literal["float32", "fast", "float64"],
    Field(description="Precision of the engine; fast lowers it where the stated error allows"),
]
ModelChoice = Annotated[
    str,
    Field(
        min_length=1,
        description="default; small, which takes less than half of the time and errs by more; or "
        "the path of a .safetensors checkpoint",
    ),
]
Batching = Annotated[
    Literal["auto", "table"],
    Field(description="Batch sizes: the fixed table, or what the device earns"),
]
ShardSize = Annotated[
    int | None,
    Field(
        ge=1,
        le=1_000_000,
        description="Records in a shard, the unit of a task and of what a crash can lose; chosen "
        "for the device when not given",
    ),
]
Limit = Annotated[
    int | None, Field(ge=1, description="Read no more than this many records of the library")
]
Overwrite = Annotated[bool, Field(description="Replace the results of an earlier run there")]
Resume = Annotated[bool, Field(description="Finish a run of the same call that was cut off")]
MaxAtoms = Annotated[
    int,
    Field(ge=1, le=2000, description="Larger molecules, hydrogens counted, are rejected too_large"),
]
Seed = Annotated[
    int,
    Field(ge=0, le=2**31 - 1, description="Seed of conformers and of chosen stereo isomers"),
]
MoleculeSeconds = Annotated[
    float,
    Field(gt=0, le=86_400, description="Seconds that embedding one molecule may take at most"),
]
Workers = Annotated[
    int | None,
    Field(ge=1, le=1024, description="Embedding processes; one for each usable core if not given"),
]
