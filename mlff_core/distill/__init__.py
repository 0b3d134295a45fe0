"""Distillation: teach PaiNN what a large potential knows.

molecules.py   which molecules, and on which side of the split each stands
teacher.py     the teacher's TorchScript files behind one class
teacher_force_field.py  the teacher behind the port of `models.force_field`
second_teacher.py   a student that went before, its labels mixed with the teacher's
aimnet2.py     the networks in them, evaluated together
protomers.py   protonation states of a molecule
embedding.py   SMILES -> RDKit conformers, in processes beside the GPU
kinds.py       which kinds of molecules have their geometries made otherwise
sampling.py    conformers -> the geometries worth labelling
labelling.py   geometries -> labels that count, and the reasons why others do not
lines.py       molecules that wait for it, a line for each kind
pool.py        labels on the device, and batches of fixed shape drawn from them
optimizer.py   Muon for the square blocks of the weights, AdamW for the rest
metrics.py     errors on the batches that are trained on
reference_energy.py   energies of single atoms
fused.py       what a step is made of, and what torch.compile makes of it
training_config.py  how a student is trained
losses.py      the losses and their weights
training.py    schedule, averaging; one step as a CUDA graph
readout.py     what reads charges, of a student whose weights stay
averaging.py   the mean of several students
growth.py      a larger student that computes what a smaller one did
ranks.py       the processes that train one student together
stage.py       embedding, sampling, labelling and training side by side, for a given time
devices.py     that on one device, or in a process on each of several GPUs
evaluation.py  a student against its teacher on held-out molecules
minima.py      their minima from the same starts
recipe.py      every choice and seed, from one TOML file
table.py       the table of molecules, and their kinds
training_log.py   the stages that led to a checkpoint, beside it
steps.py       the steps of a distillation, from files to files
"""
