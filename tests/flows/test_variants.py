"""A screen of records that stand for several structures: both tables, and resume."""

from pathlib import Path

import polars as pl

from flows.call import ScreenCall
from flows.engines import LocalEngine
from flows.run import run_screen
from flows.summary import structures
from flows.watch import Watcher
from mlff_core.tables import Manifest

LIBRARY = "CC(F)Cl a\nCCO b\nnonsense c\nOC(=O)C(O)C(O)C(O)=O tartaric\nOc1ccccn1 d\nNCC(=O)O e\n"


def call(library: Path, out: Path, model: Path, **more: object) -> Manifest:
    options = dict(shard_size=2, max_steps=2, workers=1, device="cpu", stereo="enumerate") | more
    one = ScreenCall(library=str(library), out=str(out), model=str(model), **options)
    return run_screen(one, LocalEngine(), Watcher())


def test_a_shard_of_variants_that_is_missing_is_made_again_the_same(
    tmp_path: Path, small_model: Path
) -> None:
    library, out = tmp_path / "library.smi", tmp_path / "out"
    library.write_text(LIBRARY)
    asked: dict[str, object] = {"ph": 7.4, "tautomers": True, "max_variants": 2}
    manifest = call(library, out, small_model, **asked)
    assert structures(manifest) == "6 records, 9 structures"
    before = {t: pl.read_parquet(out / t) for t in ("molecules", "conformers")}
    rows = before["molecules"]
    counts = rows.group_by("record", maintain_order=True).agg(
        pl.col("variant"), pl.col("n_variants").unique()
    )
    assert counts.rows() == [
        (0, [0, 1], [2]), (1, [0], [1]), (2, [0], [1]), (3, [0, 1], [2]), (4, [0, 1], [2]),
        (5, [0], [1]),
    ]  # fmt: skip
    assert rows.filter(record=3)["flags"].to_list() == [["variants_left_out"]] * 2
    assert rows.filter(record=5)["smiles"].to_list() == ["[NH3+]CC(=O)[O-]"]
    assert rows.filter(record=5)["standard_smiles"].to_list() == ["NCC(=O)O"]
    assert rows.filter(record=5)["protonation_margin"].item() > 1
    assert rows.filter(record=2)["variant_weight"].item() is None
    keys = ["record", "variant"]
    assert before["conformers"].select(keys).unique().height == rows.filter(status="ok").height

    (out / "molecules/part-000001.parquet").unlink()
    call(library, out, small_model, resume=True, **asked)
    for table, whole in before.items():
        assert pl.read_parquet(out / table).equals(whole)
