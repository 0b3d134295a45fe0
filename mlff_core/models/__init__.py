"""What computes energies and forces.

checkpoint.py   models in files, and their cards
potential.py    a model on a device, behind a backend
stream.py       many batches from the memory of the host
"""
