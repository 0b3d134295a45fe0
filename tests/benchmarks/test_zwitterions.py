"""The benchmark of zwitterions counts what a screen would do with them."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_zwitterion_is_counted_freely_relaxed_and_held(tmp_path: Path) -> None:
    smiles = tmp_path / "some.smi"
    smiles.write_text("[NH3+]CC(=O)[O-] a\nCCO b\nC[NH+](C)CC[O-] c\nC[N+](C)([O-])C d\nnone e\n")
    out = tmp_path / "out.json"
    arguments = [smiles, "--model", "small", "--device", "cpu", "--json", out]
    program = [sys.executable, ROOT / "benchmarks/zwitterions.py", *arguments]
    subprocess.run([*map(str, program)], check=True, capture_output=True, cwd=ROOT)
    found = json.loads(out.read_text())
    # Ethanol is none, an N-oxide is none, and what cannot be read is none.
    assert found["drawn"] == found["embedded"] == 2
    assert sum(found["free"].values()) == sum(found["held"].values()) == 2
    assert found["free"] == {"rearranged (proton of a charged group)": 2}
    assert found["held"] == {"converged": 2}
    assert found["relaxed_again"] == found["converged_held"] == 2
    assert found["kcal_mol_above_the_moved_proton_median_min_max"][1] > 0
