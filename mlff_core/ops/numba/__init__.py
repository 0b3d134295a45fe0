"""The operators for a CPU, compiled by Numba.

pairs.py     pairs within the cutoff, their geometry and repulsion
message.py   gather, filter, reduce; the filters, tabulated
atoms.py     what runs over atoms
charges.py   partial charges and their Coulomb energy
compile.py   loops compiled twice, with threads of their own and without
"""
