"""What a molecule's conformers tell together.

ensemble.py     distinct conformers, their populations, free energy and entropy
strain.py       given poses against the lowest minimum of their molecules
"""
