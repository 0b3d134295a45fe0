"""What computes energies and forces.

force_field.py       the port: what relaxation and dynamics ask of a model
painn.py             PaiNN, the paper's network in plain PyTorch
partial_charges.py   its partial charges, where it has some
readout_file.py      what reads charges, beside a model that is left as it is
reference.py         a model by its name, file and card, without torch
checkpoint.py        models in files, and their cards
potential.py         PaiNN behind the port, on a device, by a backend
ase_force_field.py   any ASE calculator behind the port
stream.py            many batches from the memory of the host
"""
