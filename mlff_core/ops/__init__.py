"""PaiNN's operators: their plain meaning and analytic backward, and the fast ones beside it.

plain.py     every operator in plain PyTorch, forward and backward (formulas: docs/theory.md)
program.py   energy and forces in one pass from those; the operators can be exchanged
numba/       the operators compiled for CPUs
triton/      the operators as kernels for CUDA devices, and the engine made of them
"""
