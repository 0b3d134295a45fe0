"""How molecules move: to a minimum, or as they would at a temperature.

relax.py             batched relaxation: the functions to call
pre_relax.py         who relaxes once more after a walk with a cheaper model
held.py              the same, with the protons of charged groups held
held_triton.py       the springs of that, as a kernel
tethered.py          relaxation of atoms that stay near given places
dynamics.py          batched molecular dynamics
trajectory.py        its frames, in files
settings.py          what a relaxation is asked to do
rules.py             when a molecule has ended, and how
slots.py             rows of molecules that stay on the device while they move
state.py             what changes while they do
waiting.py           the queue in front of the slots
status_check.py      how they are doing, on its way to the host
exchange.py          molecules enter slots and leave them
exchange_triton.py   the same for L-BFGS, as kernels
ended.py             how the walk of a molecule ended
in_flight.py         molecules that have ended leave, waiting ones enter
judge.py             the ends of walks with a coarse force field
legs.py              the walks that molecules make, one after the other
threads.py           several batches side by side, within the memory there is
stepper.py           the same step over and over, as a CUDA graph if it can be
optimizers.py        the minimisers by name:
    lbfgs.py         L-BFGS with a trust radius
    hessian.py       the model Hessian that it begins with
    ase_lbfgs.py     L-BFGS as ASE has it
    fire.py          FIRE
step.py              the plain step of a relaxation
minimise_numba.py    the same for L-BFGS on a CPU, compiled
hessian_triton.py    the model Hessian and its inverse in one kernel
minimise_triton.py   the same for L-BFGS and FIRE, as kernels:
    lbfgs_triton.py  a move of L-BFGS
    fire_triton.py   a move of FIRE
    rules_triton.py  how either ends
baoab.py             the plain step of dynamics
dynamics_triton.py   the same as kernels
noise.py             its random numbers
tile.py              how large a program of the kernels is
"""
