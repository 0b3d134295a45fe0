"""Which protonation states a molecule has in water at a pH, from a table of sites and their pKa.

A site's pKa comes from its kind and from what hangs beside it (`pka_sites.toml`). Sites see one
another's charges: a state's free energy in units of RT ln 10 is

    G(state) = sum over protonated bases (pH - pKa) + sum over deprotonated acids (pKa - pH)
             + sum over pairs of charged sites W(kinds, bonds between them)

and its share is 10^-G over the sum of all states, so that statistical factors come out by
themselves. W is read off compounds with two measured pKa's. What is charged for good counts too.

The numbers are means over kinds of sites. They say which state to compute; they are no pKa
prediction for a compound.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

#: States of a molecule that are computed at most.
MOST_STATES: Final = 4
#: Sites that are looked at together, the nearest to the pH; others have their usual charge.
_MOST_SITES: Final = 12
#: States that are written down, the most frequent; several may be the same molecule.
_WRITTEN: Final = 32
_NITROGEN: Final = 7
_DRAWN_CHARGED: Final = Chem.MolFromSmarts("[S+,P+]-[OX1-]")
#: Rows of a table of matches at most, in a molecule of any size.
_MOST_MATCHES: Final = 2000

#: pH units by which one charge moves the pKa of the other, by the bonds between the two atoms.
#: Two cations: 1,2-diaminoethane 9.9 and 7.1, 1,3-diaminopropane 10.5 and 8.9, 1,4-diaminobutane
#: 10.8 and 9.6, less the statistical 0.6; and aminals.
_CATIONS: Final = {1: 8.0, 2: 6.0, 3: 2.6, 4: 1.3, 5: 0.7, 6: 0.5, 7: 0.4, 8: 0.3}
#: The same in one ring, where two paths lead around: piperazine 9.8 and 5.3.
_CATIONS_IN_A_RING: Final = {2: 6.0, 3: 4.2, 4: 1.8}
#: In one conjugated system: metformin 12.4 and 2.8, 1,4-phenylenediamine 6.2 and 2.7.
_CATIONS_CONJUGATED: Final = {1: 8.0, 2: 8.0, 3: 7.0, 4: 7.0, 5: 3.0}
#: Two anions: malonic 2.9 and 5.7, succinic 4.2 and 5.6, glutaric acid 4.3 and 5.4; barbital 8.0
#: and 12.7.
_ANIONS: Final = {1: 8.0, 2: 6.0, 3: 2.5, 4: 2.0, 5: 0.9, 6: 0.6, 7: 0.4, 8: 0.3}
#: On one phosphorus: methyl phosphate 1.5 and 6.3.
_ON_ONE_PHOSPHORUS: Final = 4.7
#: A cation and an anion: glycine 2.35 and 9.8 against its ester, beta-alanine 3.55 and 10.2,
#: 4-aminobutyric acid 4.0 and 10.6.
_OPPOSITE: Final = {3: -2.1, 4: -1.1, 5: -0.7, 6: -0.45, 7: -0.3, 8: -0.2}
#: Nearer ones do not stand side by side: the proton would simply move.
_IMPOSSIBLE: Final = 50.0
#: Families of sites whose charge spreads over a conjugated system.
_CONJUGATED: Final = frozenset(
    ["amidine", "guanidine", "azine", "azole", "imidazole", "benzimidazole", "thiazole", "aniline"]
)


@dataclass(frozen=True)
class Site:
    """An atom that takes or gives a proton.

    Attributes:
        atom: Its index.
        base: Whether it takes one.
        pka: Where nothing else is charged.
        family: What it is, as the table names it.
        name: Its row of the table.
    """

    atom: int
    base: bool
    pka: float
    family: str
    name: str


class Protomer(NamedTuple):
    """One protonation state.

    Attributes:
        mol: The molecule in this state.
        weight: Its share at the pH.
    """

    mol: Chem.Mol
    weight: float


class Protomers(NamedTuple):
    """The protonation states of a molecule at a pH.

    Attributes:
        states: The most frequent first.
        margin: pH units between the most frequent and the next one: a site's |pKa - pH| where it is
            alone. None where there is no other state.
    """

    states: list[Protomer]
    margin: float | None


def protomers(mol: Chem.Mol, ph: float, window: float) -> Protomers:
    """The states of a molecule in water.

    Args:
        mol: Without hydrogens, in any protonation state; charges that are there for good stay.
        ph: Of the water.
        window: States that are at most by this many pH units rarer than the most frequent one are
            given too, `MOST_STATES` in all.
    """
    neutral = neutralised(mol)
    found = sites(neutral)
    if not found:
        return Protomers([Protomer(neutral, 1.0)], None)
    charged, energies = _states(neutral, found, ph)
    shares = 10.0 ** -(energies - energies.min())
    shares /= shares.sum()
    groups = _conjugated_groups(neutral, found)
    by_smiles: dict[str, Protomer] = {}
    smiles_of: dict[tuple[int, ...], str] = {}
    for k in np.argsort(-shares, kind="stable")[:_WRITTEN]:
        state = _charge(neutral, [site for site, on in zip(found, charged[k], strict=True) if on])
        if state is None:
            continue
        # Where the proton sits within a conjugated system is a matter of tautomers.
        protons = tuple(sorted(group for group, on in zip(groups, charged[k], strict=True) if on))
        smiles = smiles_of.setdefault(protons, Chem.MolToSmiles(state))
        known = by_smiles.get(smiles, Protomer(state, 0.0))
        by_smiles[smiles] = Protomer(known.mol, known.weight + float(shares[k]))
    states = sorted(by_smiles.values(), key=lambda state: -state.weight)
    if not states:
        return Protomers([Protomer(neutral, 1.0)], None)
    margin = None
    if len(states) > 1 and states[1].weight > 0:
        margin = float(np.log10(states[0].weight / states[1].weight))
    least = states[0].weight * 10.0**-window
    kept = [state for state in states[:MOST_STATES] if state.weight >= least]
    if window == 0:  # whatever else is as frequent
        kept = kept[:1]
    return Protomers(kept, margin)


def neutralised(mol: Chem.Mol) -> Chem.Mol:
    """The molecule with its protons back at anions and away from cations, as far as that goes.

    Charges that cancel with a neighbour's (nitro, N-oxide, azide) and those that no proton makes
    up for (quaternary ammonium, carbanions) stay.
    """
    bare = Chem.RWMol(mol)
    for atom in bare.GetAtoms():
        charge = atom.GetFormalCharge()
        if charge not in (-1, 1) or atom.GetAtomicNum() not in (7, 8, 16):
            continue
        if any(n.GetFormalCharge() * charge < 0 for n in atom.GetNeighbors()):
            continue
        if charge < 0:
            _set_hydrogens(atom, atom.GetTotalNumHs() + 1, 0)
        elif atom.GetTotalNumHs():
            _set_hydrogens(atom, atom.GetTotalNumHs() - 1, 0)
    return _sane(bare) or mol


def sites(mol: Chem.Mol) -> list[Site]:
    """The sites of a neutral molecule, with their pKa's; those that never ionise are left out."""
    rows, increments = _table()
    mol = _with_double_bonds(mol)
    found: dict[tuple[int, bool], Site | None] = {}
    for row in rows:
        for match in mol.GetSubstructMatches(row.pattern, maxMatches=_MOST_MATCHES, uniquify=False):
            key = match[0], row.base
            if key not in found:
                found[key] = (
                    None
                    if row.pka is None
                    else Site(match[0], row.base, row.pka, row.family, row.name)
                )
    real = [site for site in found.values() if site is not None]
    families = {site.family for site in real}
    moved: dict[tuple[int, str], float] = {}
    for increment in increments:
        if increment.family not in families:
            continue
        matches = mol.GetSubstructMatches(
            increment.pattern, maxMatches=_MOST_MATCHES, uniquify=False
        )
        for first, _ in {(match[0], frozenset(match)) for match in matches}:
            key_of_shift = first, increment.family
            moved[key_of_shift] = moved.get(key_of_shift, 0.0) + increment.delta
    return [
        Site(s.atom, s.base, s.pka + moved.get((s.atom, s.family), 0.0), s.family, s.name)
        for s in sorted(real, key=lambda site: (site.atom, site.base))
    ]


def _with_double_bonds(mol: Chem.Mol) -> Chem.Mol:
    """The molecule with S=O and P=O where S+-O- and P+-O- are drawn, as the table has them."""
    pairs = mol.GetSubstructMatches(_DRAWN_CHARGED)
    if not pairs:
        return mol
    redrawn = Chem.RWMol(mol)
    for ends in pairs:
        redrawn.GetBondBetweenAtoms(*ends).SetBondType(Chem.BondType.DOUBLE)
        for end in ends:
            redrawn.GetAtomWithIdx(end).SetFormalCharge(0)
    return _sane(redrawn) or mol


def _states(
    mol: Chem.Mol, found: list[Site], ph: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which sites are charged in each state [n_states, n_sites], and the state's energy."""
    own = np.array([ph - site.pka if site.base else site.pka - ph for site in found])
    pairs = _pair_energies(mol, found)
    own += _field_of_permanent_charges(mol, found)
    free = np.argsort(np.abs(own), kind="stable")[:_MOST_SITES]
    charged = np.tile(own < 0, (2 ** len(free), 1))
    charged[:, free] = np.arange(2 ** len(free))[:, None] >> np.arange(len(free)) & 1
    on = charged.astype(float)
    return charged, on @ own + 0.5 * np.einsum("si,ij,sj->s", on, pairs, on)


def _pair_energies(mol: Chem.Mol, found: list[Site]) -> NDArray[np.float64]:
    """What two charged sites cost together, symmetric [n_sites, n_sites]."""
    bonds = Chem.GetDistanceMatrix(mol)
    rings = [set(ring) for ring in mol.GetRingInfo().AtomRings()]
    energies = np.zeros((len(found), len(found)))
    for i, one in enumerate(found):
        for j, other in enumerate(found[:i]):
            n = int(min(bonds[one.atom, other.atom], 99))
            energies[i, j] = energies[j, i] = _pair_energy(mol, one, other, n, rings)
    return energies


def _pair_energy(mol: Chem.Mol, one: Site, other: Site, n: int, rings: list[set[int]]) -> float:
    if one.base != other.base:
        return _IMPOSSIBLE if n <= 2 else _OPPOSITE.get(n, 0.0)
    if not one.base:
        if n == 2 and one.family == other.family == "phosphorus":
            return _ON_ONE_PHOSPHORUS
        return _ANIONS.get(n, 0.0)
    energy = _CATIONS.get(n, 0.0)
    if any(one.atom in ring and other.atom in ring for ring in rings):
        energy = max(energy, _CATIONS_IN_A_RING.get(n, 0.0))
    if {one.family, other.family} <= _CONJUGATED and _is_conjugated(mol, one.atom, other.atom):
        energy = max(energy, _CATIONS_CONJUGATED.get(n, 0.0))
    return energy


def _conjugated_groups(mol: Chem.Mol, found: list[Site]) -> list[int]:
    """Of each site the first one that it shares a proton with by conjugation; itself if alone."""
    groups = list(range(len(found)))
    for i, one in enumerate(found):
        for j, other in enumerate(found[:i]):
            if (
                one.base
                and other.base
                and {one.family, other.family} <= _CONJUGATED
                and _is_conjugated(mol, one.atom, other.atom)
            ):
                groups[i] = groups[j]
                break
    return groups


def _is_conjugated(mol: Chem.Mol, first: int, last: int) -> bool:
    path = Chem.GetShortestPath(mol, first, last)
    return all(mol.GetBondBetweenAtoms(a, b).GetIsConjugated() for a, b in pairwise(path))


def _field_of_permanent_charges(mol: Chem.Mol, found: list[Site]) -> NDArray[np.float64]:
    """What charges that are there for good add to the energy of charging each site."""
    energies = np.zeros(len(found))
    for atom in mol.GetAtoms():
        charge = atom.GetFormalCharge()
        if not charge or any(n.GetFormalCharge() * charge < 0 for n in atom.GetNeighbors()):
            continue
        bonds = Chem.GetDistanceMatrix(mol)[atom.GetIdx()]
        for k, site in enumerate(found):
            n = int(min(bonds[site.atom], 99))
            if site.base == (charge > 0):
                energies[k] += (_CATIONS if site.base else _ANIONS).get(n, 0.0)
            else:
                energies[k] += _OPPOSITE.get(n, _OPPOSITE[3] if n < 3 else 0.0)
    return energies


def _charge(mol: Chem.Mol, on: list[Site]) -> Chem.Mol | None:
    """The molecule with these sites charged; None if that is no possible molecule."""
    made = Chem.RWMol(mol)
    for site in on:
        atom = made.GetAtomWithIdx(site.atom)
        step = 1 if site.base else -1
        _set_hydrogens(atom, atom.GetTotalNumHs() + step, atom.GetFormalCharge() + step)
    for site in on:
        if site.family == "carbon":
            _to_enolate(made, site.atom)
    return _sane(made)


def _set_hydrogens(atom: Chem.Atom, n_hydrogens: int, charge: int) -> None:
    atom.SetFormalCharge(charge)
    atom.SetNoImplicit(True)
    atom.SetNumExplicitHs(n_hydrogens)


def _to_enolate(mol: Chem.RWMol, carbon: int) -> None:
    """Put the charge of a carbanion beside NO2 or C=O on an oxygen, where most of it is."""
    atom = mol.GetAtomWithIdx(carbon)
    # A nitronate has no sides, an enolate beside a nitro group would.
    for neighbour in sorted(atom.GetNeighbors(), key=lambda n: n.GetAtomicNum() != _NITROGEN):
        for bond in neighbour.GetBonds():
            end = bond.GetOtherAtom(neighbour)
            if bond.GetBondType() == Chem.BondType.DOUBLE and end.GetAtomicNum() == 8:
                bond.SetBondType(Chem.BondType.SINGLE)
                between = mol.GetBondBetweenAtoms(carbon, neighbour.GetIdx())
                between.SetBondType(Chem.BondType.DOUBLE)
                end.SetFormalCharge(-1)
                atom.SetFormalCharge(0)
                atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
                return


def _sane(mol: Chem.RWMol) -> Chem.Mol | None:
    made = mol.GetMol()
    if Chem.SanitizeMol(made, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
        return None
    Chem.AssignStereochemistry(made, cleanIt=True, force=True)
    return made


class _Row(NamedTuple):
    pattern: Chem.Mol
    base: bool
    pka: float | None
    family: str
    name: str


class _Increment(NamedTuple):
    pattern: Chem.Mol
    family: str
    delta: float


@cache
def _table() -> tuple[list[_Row], list[_Increment]]:
    text = (files("mlff_core.chem") / "pka_sites.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    rows = [
        _Row(pattern, row["kind"] == "base", row.get("pka"), row["family"], row["name"])
        for row, pattern in _compiled(content["site"])
    ]
    increments = [
        _Increment(pattern, row["family"], row["delta"])
        for row, pattern in _compiled(content["increment"])
    ]
    return rows, increments


def _compiled(rows: list[dict]) -> Iterator[tuple[dict, Chem.Mol]]:
    for row in rows:
        yield row, Chem.MolFromSmarts(row["smarts"])
