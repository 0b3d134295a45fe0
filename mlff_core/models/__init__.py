"""What computes energies and forces.

painn.py        PaiNN, the paper's network in plain PyTorch
reference.py    a model by its name, file and card, without torch
checkpoint.py   models in files, and their cards
potential.py    a model on a device, behind a backend
stream.py       many batches from the memory of the host
"""
