"""Distillation: teach PaiNN what a large potential knows.

molecules.py   which molecules, and on which side of the split each stands
teacher.py     the teacher's TorchScript files behind one class
embedding.py   SMILES -> RDKit conformers, in processes beside the GPU
sampling.py    conformers -> the geometries worth labelling
pool.py        labels on the device, and batches of fixed shape drawn from them
edge_ops.py    the operators over pairs with first and second derivatives, as Triton kernels
training.py    losses, schedule, averaging; one step as a CUDA graph
evaluation.py  a student against its teacher on held-out molecules
recipe.py      every choice and seed, from one TOML file
"""
