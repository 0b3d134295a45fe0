"""Facts about the elements: symbols, covalent radii, atomic weights. Nothing else states them."""

from collections.abc import Iterable
from typing import Final

#: Symbols by atomic number; 0 stands for an atom of no element, as in a SMILES with `*`.
SYMBOLS: Final[tuple[str, ...]] = tuple(
    """* H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As
    Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb
    Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk
    Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og""".split()  # noqa: SIM905
)

#: Covalent radii in Å by atomic number (Cordero et al., Dalton Trans. 2008, 2832; C is sp3), for
#: the elements that the teacher knows.
COVALENT_RADII: Final[dict[int, float]] = {
    1: 0.31, 5: 0.84, 6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57, 14: 1.11, 15: 1.07, 16: 1.05, 17: 1.02,
    33: 1.19, 34: 1.20, 35: 1.20, 53: 1.39,
}  # fmt: skip

#: Standard atomic weights in amu by atomic number (IUPAC, abridged to three decimals at most).
MASSES: Final[dict[int, float]] = {
    1: 1.008, 5: 10.81, 6: 12.011, 7: 14.007, 8: 15.999, 9: 18.998, 14: 28.085, 15: 30.974,
    16: 32.06, 17: 35.45, 33: 74.922, 34: 78.971, 35: 79.904, 53: 126.904,
}  # fmt: skip

#: Atomic numbers of the elements that the teacher knows, and a student with it.
KNOWN_ELEMENTS: Final = tuple(COVALENT_RADII)


def symbols(numbers: Iterable[int]) -> str:
    """Write the symbols of these atomic numbers, with blanks between."""
    return " ".join(SYMBOLS[number] for number in numbers)
