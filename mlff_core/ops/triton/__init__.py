"""The operators for a CUDA device, as Triton kernels, and the engine made of them.

engine.py          energy and forces of a batch, forward and backward, with CUDA graphs
steps.py           a model's weights laid out, and the steps of the program by kernels
pairs.py           neighbours, their geometry, nuclear repulsion
spline.py          weights of the splines that radial filters are taken from
message.py         gather, filter, reduce
message_bwd.py     the way back of that
first_message.py   the first block's messages as products of matrices
first_message_bwd.py  the way back of that
message_twice.py   the same with first and second derivatives, for training
message_twice_first.py   its kernels of messages and of their derivative
message_twice_second.py   its kernels of the derivative of that
operand.py         numbers as products take them
linear.py          products with weights
warpgroups.py      what products by warpgroups have in common
linear_warpgroups.py  products of operands by them
update.py          mix scalars and vectors
update_bwd.py      the way back of that
update_bwd_warpgroups.py  the first product of that by warpgroups
readout.py         energies, sums, forces
charges.py         partial charges and their Coulomb energy
charge_step.py    what a step does with these
tiles.py           how large a piece each program takes
tune.py            measuring that anew on another card
launch.py          kernels that start before the one before them has ended
capture.py         recording CUDA graphs
sharing.py         whether this process has the card for itself
fill.py            a batch into the buffers of a recorded step
compiling.py       kernels compiled beforehand, shared out among processes
"""
