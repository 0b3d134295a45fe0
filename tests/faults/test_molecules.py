"""Molecules that hang, explode or do not fit: each has a row that says so, all others theirs."""

from pathlib import Path

import polars as pl
import pytest
from commands import PATIENCE_S, Command, parts_of, wait_for
from conftest import Screen
from polars.testing import assert_frame_equal

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)

#: What befalls a molecule of this name, and the reason in its row.
BAD = {
    "hangs": ("CCCO", "embedding_timeout"),
    "dies": ("CCCCO", "out_of_memory"),
    "hungry": ("CCCCCO", "out_of_memory"),
    "explodes": ("CCCN", "all_conformers_failed"),
    "does not fit": ("C" * 18, "out_of_memory"),
}
GOOD = ["CCO", "CCN", "CC=O", "CCC", "COC", "CC#N", "CCF", "C=C", "CS", "CCCl"]


def test_bad_molecules_have_their_reasons_and_no_neighbour_is_lost(
    screen: Screen, tmp_path: Path
) -> None:
    good = [(smiles, f"good {k}") for k, smiles in enumerate(GOOD)]
    bad = [(smiles, name) for name, (smiles, _) in BAD.items()]
    library, alone = tmp_path / "library.smi", tmp_path / "alone.smi"
    mixed = [entry for pair in zip(good[:5], bad, strict=True) for entry in pair] + good[5:]
    library.write_text("".join(f"{smiles} {name}\n" for smiles, name in mixed))
    alone.write_text("".join(f"{smiles} {name}\n" for smiles, name in good))
    options = [*screen.options, "--molecule-seconds", "3"]
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"

    def start(*more: str) -> Command:
        return screen.nursery.start(
            "run", library, "--out", out, *options, *more, prelude="bad_molecules"
        )

    command = start()
    wait_for(lambda: len(parts_of(out)) >= 2)
    command.kill()
    command.wait()
    kept = parts_of(out)
    command = start("--resume")
    assert command.wait() == 0, command.said()
    now = parts_of(out)
    assert {path: now[path] for path in kept} == kept

    rows = pl.read_parquet(out / "molecules").sort("record")
    assert rows["record"].to_list() == list(range(15))
    assert rows["input_id"].to_list() == [name for _, name in mixed]
    reasons = dict(rows.select("input_id", "reason").iter_rows())
    assert {name: reasons[name] for name in BAD} == {name: why for name, (_, why) in BAD.items()}
    assert all(rows.filter(pl.col("reason").is_not_null())["message"].str.len_chars() > 10)

    command = screen.nursery.start("run", alone, "--out", undisturbed, *options)
    assert command.wait() == 0, command.said()
    columns = ["input_id", "status", "inchikey", "n_conformers", "min_energy_ev"]
    found, expected = (
        pl.read_parquet(folder / "molecules")
        .filter(pl.col("input_id").str.starts_with("good"))
        .select(columns)
        .sort("input_id")
        for folder in (out, undisturbed)
    )
    assert expected.height == len(GOOD)
    assert set(expected["status"]) == {"ok"}
    assert_frame_equal(found, expected)
