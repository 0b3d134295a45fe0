"""SMILES to checked molecules with starting geometries. Needs numpy and rdkit, never torch."""
