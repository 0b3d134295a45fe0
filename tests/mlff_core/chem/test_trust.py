"""What a training hardly saw is flagged, and what it saw often is not."""

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from ase import Atoms
from ase.build import molecule as named_molecule
from rdkit import Chem

from mlff_core import PaiNNCalculator
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import standardise
from mlff_core.chem.seen import Seen, charged_groups, environments, seen_by
from mlff_core.chem.trust import RARE_ENVIRONMENT, trust_flags
from mlff_core.distill.molecules import MoleculesConfig
from mlff_core.models.reference import SHORT_NAMES, refer_to_model
from mlff_core.status import Flag

ROOT = Path(__file__).parents[3]
DEFAULT = refer_to_model("default").sha256
#: Of the model card: the largest errors of energies between molecules.
WORST = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())["protomers"]["worst"]
TWO_CATIONS_AND_AN_ANION = "COc1ccc(C=C2C(=[NH2+])N3N=C(c4ccc([O-])cc4)SC3=[NH+]C2=O)cc1OC"
ORDINARY = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "a nitro group": "O=[N+]([O-])c1ccc(Cl)cc1C",
    "a carboxylate": "CC(C)Cc1ccc(C(C)C(=O)[O-])cc1",
    "an ammonium": "CC(C)[NH2+]CC(O)COc1cccc2ccccc12",
    "a piperazinium": "C[NH+]1CCN(c2ccccc2Cl)CC1",
}


def flags(smiles: str, seen: Seen | None) -> list[Flag]:
    return trust_flags(Chem.MolFromSmiles(smiles), smiles, seen)


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_every_shipped_model_has_a_table_of_what_its_training_saw(name):
    seen = seen_by(refer_to_model(name).sha256)
    assert seen is not None, "datasets/make_seen.py writes it"
    assert seen.n_molecules > 500_000
    assert seen.combinations[0, 0] > 0.6 * seen.n_molecules
    assert Seen.from_json(seen.to_json()) == seen


def test_of_ten_protonation_states_with_the_largest_known_errors_most_are_flagged():
    rare = {Flag.RARE_CHARGE_ENVIRONMENT, Flag.RARE_CHARGE_COMBINATION, Flag.RARE_ELEMENT}
    settings = ChemistrySettings(model_sha256=DEFAULT)
    found = [standardise(0, None, row["smiles"], settings).flags for row in WORST]
    assert len(found) == 10
    assert sum(bool(rare & set(flags)) for flags in found) >= 8
    # docs/chemistry.md says how many, by what `benchmarks/chemistry/trust.py` wrote.
    trust = json.loads((ROOT / "benchmarks/results/trust.json").read_text())
    assert trust["model_sha256"] == DEFAULT
    assert [(row["smiles"], row["flags"]) for row in trust["worst"]] == [
        (row["smiles"], flags) for row, flags in zip(WORST, found, strict=True)
    ]


@pytest.mark.parametrize("smiles", [row["smiles"] for row in WORST])
def test_without_a_table_charges_are_flagged_in_zwitterions_alone(smiles):
    assert (
        not standardise(0, None, smiles, ChemistrySettings()).flags
        or "[O-]" in smiles
        or (min(charged_groups(Chem.MolFromSmiles(smiles))) > 0)
    )


@pytest.mark.parametrize("smiles", ORDINARY.values(), ids=ORDINARY.keys())
def test_ordinary_molecules_are_not(smiles):
    assert standardise(0, None, smiles, ChemistrySettings(model_sha256=DEFAULT)).flags == []


@pytest.mark.parametrize(
    ("smiles", "flag"),
    [
        ("CCO", Flag.FEW_HEAVY_ATOMS),
        ("[H][H]", Flag.OUTSIDE_TRAINING),
        ("OB(O)c1ccc(C(C)C)cc1", Flag.RARE_ELEMENT),
        ("C[As](C)(=O)OCc1ccccc1", Flag.RARE_ELEMENT),
        ("O=P([O-])([O-])CC(CCCC)P(=O)([O-])O", Flag.CHARGE_BEYOND_2),
        ("[NH3+][C@@H](Cc1ccccc1)C(=O)[O-]", Flag.ZWITTERION_IN_VACUUM),
        ("CN(C)C(=[NH2+])N=C(N)N", Flag.RARE_CHARGE_ENVIRONMENT),  # metformin's, 44 kcal/mol off
        ("c1ccc(N[P+](c2ccccc2)(c2ccccc2)c2ccccc2)cc1", Flag.RARE_CHARGE_ENVIRONMENT),
    ],
)
def test_each_kind_of_doubt_has_its_word(smiles, flag):
    assert flag in flags(smiles, seen_by(DEFAULT))


def test_without_a_table_only_what_needs_none_is_said():
    assert flags(TWO_CATIONS_AND_AN_ANION, None) == [Flag.ZWITTERION_IN_VACUUM]
    assert flags("OB(O)c1ccc(C(C)C)cc1", None) == flags("CCO", None) == []
    assert seen_by("0" * 64) is None
    assert seen_by(None) is None


def test_charges_that_a_neighbour_makes_up_for_are_no_charged_groups():
    nitro = Chem.MolFromSmiles("C[N+](=O)[O-]")
    assert charged_groups(nitro) == (0, 0)
    assert len(environments(nitro)) == 2
    assert charged_groups(Chem.MolFromSmiles("[NH3+]CC(=O)[O-]")) == (1, 1)


def test_surroundings_reach_two_bonds_and_do_not_depend_on_how_the_smiles_is_written():
    one, other = (
        environments(Chem.MolFromSmiles(s))
        for s in ("CCCC[NH+](C)CCc1ccccc1", "c1cc(ccc1)CC[NH+](C)CCF")
    )
    assert one == other == {"[NH+](C)(CC)CC"}
    assert environments(Chem.MolFromSmiles("CC(C)[NH+](C)CC")) != one


def test_the_charge_of_an_amidinium_is_seen_from_its_carbon_too():
    plain, biguanide = (
        environments(Chem.MolFromSmiles(s)) for s in ("CCC(=[NH2+])NC", "CN(C)C(=[NH2+])N=C(N)N")
    )
    assert plain == {"[NH2+]=C(C)N", "C(=[NH2+])(CC)NC"}
    assert biguanide == {"[NH2+]=C(N)N", "C(=[NH2+])(N=C)N(C)C"}


def make_seen() -> ModuleType:
    spec = spec_from_file_location("make_seen", ROOT / "datasets/make_seen.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_counts_molecules_once_and_leaves_out_what_few_have():
    amines = [f"C[NH+](C){'C' * n}" for n in range(2, 2 + RARE_ENVIRONMENT)]
    library = [*amines, "CC(=O)[O-]", "CCO", "CB(O)O", "[NH3+]CC[NH3+]"]
    seen = make_seen().count(library, MoleculesConfig(held_out_share=0.0), "abc")
    assert (seen.model_sha256, seen.n_molecules) == ("abc", len(library))
    assert seen.combinations == {(0, 0): 2, (1, 0): len(amines), (0, 1): 1, (2, 0): 1}
    assert seen.environments == {"[NH+](C)(C)CC": len(amines)}
    assert seen.elements[5] == 1
    nothing = make_seen().count(library, MoleculesConfig(held_out_share=1.0), "abc")
    assert nothing.environments == {}


def test_the_choice_is_that_of_the_training_rare_ones_and_the_first_others():
    config = MoleculesConfig(common=2)
    library = ["CCO", "CP", "CCC", "CCCC", "C[n+]1ccccc1", "[NH3+]CC[NH3+]"]
    assert make_seen().chosen(library, config) == [
        "CCO", "CP", "CCC", "C[n+]1ccccc1", "[NH3+]CC[NH3+]"
    ]  # fmt: skip


def test_the_calculator_says_it_too():
    calculator = PaiNNCalculator(device="cpu")
    small = named_molecule("CH3CH2OH")
    assert calculator.flags(small) == ["few_heavy_atoms"]
    atoms = Atoms("C8", info={"smiles": TWO_CATIONS_AND_AN_ANION, "charge": 1})
    assert set(calculator.flags(atoms)) >= {"zwitterion_in_vacuum", "rare_charge_environment"}
    with pytest.raises(ValueError, match=re.escape("atoms.info['smiles']: cannot be read: 'C('")):
        calculator.flags(Atoms("C8", info={"smiles": "C("}))
