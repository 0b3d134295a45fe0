"""PaiNN's operators: their plain meaning and analytic backward, and the fast ones beside it.

reference.py   every operator in plain PyTorch, forward and backward (formulas: docs/theory.md)
analytic.py    energy and forces in one pass from those; the operators can be exchanged
cpu.py         those operators over pairs, compiled for CPUs
cpu_atoms.py   those over atoms, likewise
engine.py      the same from Triton kernels, with CUDA graphs:
    pairs.py     neighbours, their geometry, nuclear repulsion    spline.py    radial filters
    linear.py    products with weights         message.py   gather, filter, reduce
    update.py    mix scalars and vectors       readout.py   energies, sums, forces
    tiles.py     how large a piece each program takes, measured anew on another card by tune.py
    capture.py   recording graphs
"""
