"""Distance geometry of many molecules at once: from constraints to checked starting geometries.

packing.py           constraints of many molecules in a few tensors
distances.py         bonds and angles as the student has them
smoothing.py         bounds that no way around goes under
schedule.py          which term pulls how strongly at which step
plain.py             the minimisation in plain PyTorch
minimise_triton.py   the same in one program a conformer
checks.py            is a geometry the molecule that was asked for?
embedder.py          all of that, and what fails again
prepared.py          molecules that wait for their geometry get it
on_device.py         records of a library: cores prepare and judge, a device embeds
"""

from mlff_core.embedding.checks import Cause
from mlff_core.embedding.embedder import Embedded, embed_molecules
from mlff_core.embedding.prepared import embed_prepared

__all__ = ["Cause", "Embedded", "embed_molecules", "embed_prepared"]
