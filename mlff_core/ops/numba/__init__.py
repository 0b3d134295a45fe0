"""The operators for a CPU, compiled by Numba.

message.py   those over pairs
atoms.py     those over atoms
"""
