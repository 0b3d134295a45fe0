"""The embedded libraries are what their cards say."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest
from rdkit import Chem

from mlff_core.library import open_library

DATASETS = Path(__file__).parents[2] / "datasets"
LIBRARIES = {"druglike": "druglike.csv", "quick": "quick.smi"}


def molecules(name: str) -> dict[str, Chem.Mol]:
    records = list(open_library(DATASETS / name).records())
    found = {record.input_id: Chem.MolFromSmiles(record.smiles) for record in records}
    assert len(found) == len(records)  # every name is there, once
    assert None not in found
    assert None not in found.values()
    return found


def largest_organic_fragment(mol: Chem.Mol) -> Chem.Mol:
    fragments = Chem.GetMolFrags(mol, asMols=True)
    organic = [f for f in fragments if any(a.GetSymbol() == "C" for a in f.GetAtoms())]
    largest = max(f.GetNumHeavyAtoms() for f in organic or fragments)
    return next(f for f in organic or fragments if f.GetNumHeavyAtoms() == largest)


def card(name: str) -> str:
    return (DATASETS / name / "README.md").read_text(encoding="utf-8")


def card_table(name: str, what: str) -> dict[str, int]:
    rows = card(name).partition(f"| {what} | drugs |\n|---|---:|\n")[2].partition("\n\n")[0]
    return {k: int(n) for k, n in re.findall(r"^\| (.+) \| (\d+) \|$", rows, re.MULTILINE)}


def test_datasets_is_not_a_package():
    assert not list(DATASETS.rglob("__init__.py"))


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_checksum_and_size_on_the_card_are_those_of_the_file(name):
    content = (DATASETS / name / LIBRARIES[name]).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    assert f"**SHA-256** of `{LIBRARIES[name]}`: `{sha256}`" in card(name)
    assert open_library(DATASETS / name).sha256() == sha256
    assert f"\n{len(molecules(name))} " in card(name)
    for heading in ("Source", "Licence"):
        assert f"**{heading}**" in card(name)
    assert f"{len(molecules(name))} " in (DATASETS / "README.md").read_text(encoding="utf-8")


def test_the_counts_on_the_card_of_druglike_are_those_of_its_molecules():
    fragments = [largest_organic_fragment(m) for m in molecules("druglike").values()]
    whole = [Chem.AddHs(f) for f in fragments]
    n_atoms = [m.GetNumAtoms() for m in whole]
    told = f"{min(n_atoms)} to {max(n_atoms)} atoms, {sum(n_atoms) / len(n_atoms):.1f} on average."
    assert told in card("druglike")

    bins = card_table("druglike", "atoms")
    assert sum(bins.values()) == len(whole)
    for name, count in bins.items():
        low, high = map(int, name.split("–"))
        assert sum(low <= n <= high for n in n_atoms) == count

    charges = Counter(Chem.GetFormalCharge(f) for f in fragments)
    assert {int(k): n for k, n in card_table("druglike", "charge").items()} == charges
    elements = Counter(e for m in whole for e in {a.GetSymbol() for a in m.GetAtoms()})
    assert card_table("druglike", "element") == elements
    kinds = card_table("druglike", "kind")
    assert kinds["cation"] == sum(n for charge, n in charges.items() if charge > 0)
    assert kinds["anion"] == sum(n for charge, n in charges.items() if charge < 0)
    n_fragments = [len(Chem.GetMolFrags(m)) for m in molecules("druglike").values()]
    assert kinds["salt or hydrate"] == sum(n > 1 for n in n_fragments)


def test_druglike_spans_sizes_charges_and_elements():
    drugs = molecules("druglike")
    assert 200 <= len(drugs) <= 500
    elements = card_table("druglike", "element")
    assert elements.keys() >= set("H B C N O F P S Cl Se Br I".split())  # noqa: SIM905
    assert card_table("druglike", "kind").keys() >= {"anion", "cation", "salt or hydrate"}
    assert drugs.keys() >= {"Aspirin", "Caffeine", "Morphine", "Imatinib", "Paclitaxel"}


def test_quick_has_one_of_each_kind_that_its_card_names():
    found = molecules("quick")
    assert len(found) == 20
    n_atoms = [Chem.AddHs(largest_organic_fragment(m)).GetNumAtoms() for m in found.values()]
    assert f"{min(n_atoms)} to {max(n_atoms)} atoms" in card("quick")
    assert len(Chem.GetMolFrags(found["dopamine hydrochloride"])) == 2
    assert Chem.GetFormalCharge(found["choline"]) == 1
    assert {a.GetFormalCharge() for a in found["glycine (zwitterion)"].GetAtoms()} == {-1, 0, 1}
    assert any(a.GetSymbol() == "Pt" for a in found["cisplatin"].GetAtoms())
    elements = {a.GetSymbol() for m in found.values() for a in m.GetAtoms()}
    assert elements == set("C N O S B F Cl Br Pt".split())  # noqa: SIM905
    open_centres = {
        name
        for name, mol in found.items()
        if any(mark == "?" for _, mark in Chem.FindMolChiralCenters(mol, includeUnassigned=True))
    }
    assert open_centres == {"halothane", "ibuprofen"}


@pytest.mark.parametrize(
    ("name", "inchikey"),
    [
        ("aspirin", "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"),
        ("caffeine", "RYYVLZVUVIJVGH-UHFFFAOYSA-N"),
        ("camphor", "DSSYKIVIOFKYAU-XCBNKYQSSA-N"),
        ("glucose", "WQZGKKKJIJFFOK-VFUOTHLCSA-N"),
        ("menthol", "NOOLISFMXDJSKH-KXUCPTDWSA-N"),
        ("nicotine", "SNICXCGAKADSCV-JTQLQIEISA-N"),
    ],
)
def test_quick_molecules_are_what_they_are_called(name, inchikey):
    assert Chem.MolToInchiKey(molecules("quick")[name]) == inchikey
