"""Where a step goes, kernel by kernel: time, operations and bytes beside what the device can do."""

from collections.abc import Iterator

from _harness import Clock, Molecules, reason

from mlff_core.models.painn import PaiNN
from mlff_core.neighbors import neighbor_pairs

#: Model's precision -> molecules whose step is looked at.
SIZES = {"float32": (1024, 16, 1), "fast": (1024,)}
#: Steps that a kernel's time is the mean of.
REPEATS = 6
#: Kernels that take less of a step than this are told together.
LEAST = 0.004


def work(
    n_atoms: int,
    n_edges: int,
    n: int,
    blocks: int,
    terms: int,
    pieces: tuple[int, int],
    apart: bool,
) -> dict[str, tuple[float, float, str]]:
    """Kernel -> operations of a step, bytes that it reads and writes, and which unit computes.

    What is read again from a cache is not counted, nor are weights. A product of numbers in two
    addends is three products, and counted so.

    Args:
        n_atoms: Rows of features.
        n_edges: Pairs, both directions.
        n: Width of the features.
        blocks: Interaction blocks.
        terms: Of the sum that stands for a filter.
        pieces: Addends of what is multiplied, forward and backward.
        apart: Gradients are mixed in a kernel of their own.
    """
    plane, square = 4.0 * n_atoms * n, 2.0 * n_atoms * n * n
    forward, backward = (3.0 if p == 2 else 1.0 for p in pieces)
    inner = blocks - 1
    # Bytes of an operand beside those of float32.
    f, b = pieces[0] / 2, pieces[1] / 2
    last = blocks - 2  # Blocks after which somebody reads the vectors, but for the first.
    found = {
        "linear_1x1": (inner * (forward + backward), inner * ((2 + f) + (2 + b)), 0.0),
        "linear_1x3": (inner * 3 * forward, inner * (f + 3), 0.0),
        "linear_3x1": (inner * 3 * backward, inner * (1 + 4 * b), 0.0),
        "linear_1x2": (blocks * 6 * forward, blocks * (3 * f + 6), 0.0),
        "linear_2x1": (blocks * 6 * backward, blocks * (6 * b + 6) - 3, 0.0),
        "update_hidden": (blocks * 2 * forward, blocks * (5 + f), 0.0),
        "update_out": ((blocks * 3 - 1) * forward, blocks * (17 + f) - 7, 0.0),
        "update_bwd_hidden": (inner * 3 * backward + 2 * forward, blocks * (3 + 2 * b), 0.0),
        "update_bwd_in": (blocks * 2 * backward, blocks * (13 + 7 * b) - 4, 0.0),
        "readout": (forward, 2.0, 0.0),
        "message_fwd": (0.0, inner * (8 + 3 * f) + 3 * last, inner * (3 * terms + 9)),
        "message_bwd": (0.0, inner * (16 + 4 * b), inner * (6 * terms + 23)),
    }
    if apart:
        del found["update_bwd_in"]
        products, planes, _ = found["linear_1x2"]
        found["linear_1x2"] = (products + blocks * 2 * backward, planes + blocks * (b + 2), 0.0)
        of_pairs = blocks * 14 * n_atoms / n_edges
        found["update_bwd_mix"] = (0.0, blocks * (15 + 6 * b) - 4, of_pairs)
    return {
        kernel: (
            products * square or 2.0 * n_edges * n * of_pairs,
            planes * plane,
            "matrix units" if products else "float32",
        )
        for kernel, (products, planes, of_pairs) in found.items()
    }


def rows(model: PaiNN, molecules: Molecules, clock: Clock) -> Iterator[dict]:
    """A row for each kernel of a step, of each precision and number of molecules."""
    from mlff_core.ops.triton.engine import TritonEngine
    from mlff_core.ops.triton.operand import new_operand
    from mlff_core.ops.triton.tiles import row_class
    from mlff_core.ops.triton.tune import kernel_times
    from mlff_core.ops.triton.update_bwd import APART

    for precision, sizes in SIZES.items():
        for n_mols in sizes:
            about = {"precision": precision, "n_mols": n_mols}
            try:
                if not clock.left():
                    raise TimeoutError("no time was left")
                engine, batch = TritonEngine(model, precision), molecules.batch(n_mols)
                times = kernel_times([engine], batch, REPEATS)
                weights = engine.weights
                ways = weights.forward_precision, weights.backward_precision
                one, two = (new_operand(1, 1, way, molecules.device).shape[1] for way in ways)
                i, _ = neighbor_pairs(batch.positions, batch.ptr, model.config.cutoff)
                todo = work(
                    batch.n_atoms,
                    len(i),
                    model.config.n_features,
                    model.config.n_interactions,
                    weights.blocks[-1].filters.degree + 1,
                    (one, two),
                    row_class(batch.n_atoms) in APART,
                )
                whole = sum(times.values())
                rest = whole
                for kernel, us in sorted(times.items(), key=lambda found: -found[1]):
                    if us < LEAST * whole:
                        continue
                    rest -= us
                    record = {"row": f"kernel: {kernel}", **about, "us": us, "share": us / whole}
                    # Where the first block is a walk as well, what all walks do is not told apart.
                    walks = kernel.startswith("message") and "element_sums" not in times
                    if kernel in todo and not walks:
                        flop, moved, unit = todo[kernel]
                        record |= {
                            "flop_per_s": flop / (us * 1e-6),
                            "bytes_per_s": moved / (us * 1e-6),
                            "unit": unit,
                        }
                    yield record
                if rest > 0.001 * whole:
                    yield {"row": "kernel: others", **about, "us": rest, "share": rest / whole}
            except Exception as error:
                yield {"row": "kernel: all", **about, "failed": reason(error)}
