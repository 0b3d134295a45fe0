"""What a molecule's conformers tell together, and what is computed of them besides.

ensemble.py     distinct conformers, their populations, free energy and entropy
charges.py      partial charges of relaxed geometries
vibrations.py   Hessians from differences of forces, and wavenumbers
saddles.py      leaving saddle points along their softest mode
thermo.py       enthalpy, entropy and Gibbs energy of a minimum
thermo_columns.py  the same of a shard's best conformers
strain.py       given poses against the lowest minimum of their molecules
water.py        the energy that water gives, by GFN2-xTB
teacher.py      single points of the teacher, with the spread of its members
added.py        what stages of their own computed, taken over into the rows
"""
