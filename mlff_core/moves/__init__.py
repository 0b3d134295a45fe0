"""How molecules move: to a minimum, or as they would at a temperature.

slots.py             rows of molecules that stay on the device while they move
optimizers.py        the minimisers
relax.py             batched relaxation, and when a molecule has ended
held.py              relaxation that holds the protons of charged groups
dynamics.py          batched molecular dynamics
minimise_triton.py   what happens between two force calls, as kernels
minimise_numba.py    the same for L-BFGS on a CPU, compiled
"""
