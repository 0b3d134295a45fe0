"""Each operator against its plain version: error, time, and what it must compute and move."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from _harness import Clock, Molecules, NotCorrectError, reason, require_close, timing

from mlff_core.models.painn import PaiNN
from mlff_core.ops import OPERATORS
from mlff_core.ops.case import Case, calls, numba_steps, plain_steps, triton_steps
from mlff_core.ops.program import Steps

#: Backend of the rows here, by device, and molecules that they are timed with.
BACKENDS: dict[str, tuple[str, Callable[[Case], Steps], int]] = {
    "cuda": ("triton", triton_steps, 1024),
    "cpu": ("numba", numba_steps, 16),
}
#: Molecules that results are compared for.
COMPARED = 4
#: How far an operator may be from float64: in units of what plain PyTorch in float32 is, and
#: relative to the largest number in the result.
TIMES, RELATIVE = 4.0, 2e-5


def work(n_atoms: int, n_edges: int, n: int, terms: int) -> dict[str, tuple[float, float]]:
    """Operator -> operations, and bytes that must move at least, however it is done.

    Args:
        n_atoms: Rows of features.
        n_edges: Pairs, both directions.
        n: Width of the features.
        terms: Of the sum that stands for a filter.
    """
    products = {"phi": 4, "update": 11, "readout": 1}
    a, e = n_atoms * n, n_edges * n
    return {
        "first_message_fwd": (2 * e * (2 * terms + 5), 4 * a * 5),
        "phi_fwd": (2 * a * n * products["phi"], 4 * a * 5),
        "message_fwd": (2 * e * (3 * terms + 9), 4 * a * 11),
        "update_fwd": (2 * a * n * products["update"], 4 * a * 17),
        "readout": (2 * a * n * products["readout"], 4 * a * 2),
        "update_bwd": (2 * a * n * products["update"], 4 * a * 17),
        "message_bwd": (2 * e * (6 * terms + 25), 4 * a * 16),
        "phi_bwd": (2 * a * n * products["phi"], 4 * a * 6),
        "first_message_bwd": (2 * e * (4 * terms + 15), 4 * a * 6),
    }


def results(out: Any) -> list[torch.Tensor]:
    """Those that every version returns; what is kept for the way back is its own affair.

    What kernels leave as the next product takes it is given in numbers.
    """
    from mlff_core.ops.triton.operand import value_of

    if isinstance(out, torch.Tensor):
        return [out]
    found = [x for x in out or () if isinstance(x, torch.Tensor)][:2]
    return [value_of(x, "fp16x3") if x.dtype == torch.float16 else x for x in found]


def compare(model: PaiNN, molecules: Molecules, make: Callable[[Case], Steps]) -> dict[str, Any]:
    """Operator -> its largest error relative to the result, or the sentence that it is wrong."""
    case = Case.of(model, molecules.batch(COMPARED))
    exact = case.in_float64()
    found, rounded = calls(make(case), case), calls(plain_steps(case), case)
    true = calls(plain_steps(exact), exact)
    errors: dict[str, Any] = {}
    for name in found:
        first = 1 if name.startswith("phi") else 2
        try:
            errors[name] = 0.0
            for x, near, y in zip(
                *(results(ready[name]())[:first] for ready in (found, rounded, true)), strict=True
            ):
                x, scale = x.view(y.shape), float(y.abs().max())
                bound = TIMES * float((near.double() - y).abs().max()) + RELATIVE * scale
                error = require_close(x, y, bound, name) / scale
                errors[name] = max(errors[name], error)
        except NotCorrectError as error:
            errors[name] = str(error)
    return errors


def rows(model: PaiNN, molecules: Molecules, clock: Clock) -> Iterator[dict]:
    """Every operator that the device has a version of."""
    device = molecules.device
    backend, make, n_mols = BACKENDS[device.type]
    with torch.no_grad():
        errors = compare(model, molecules, make) if clock.left() else {}
        case = Case.of(model, molecules.batch(n_mols))
        steps, meaning = make(case), plain_steps(case)
        ours, plain = calls(steps, case), calls(meaning, case)
        n_edges = len(meaning.edges.i)
        terms = 4 if backend == "numba" else model_terms(steps)
        todo = work(case.batch.n_atoms, n_edges, model.config.n_features, terms)
        for name, versions in OPERATORS.items():
            if name not in ours or getattr(versions, backend) is None:
                continue
            record: dict = {"row": f"operator: {name}", "backend": backend, "n_mols": n_mols}
            try:
                if not clock.left():
                    raise TimeoutError("no time was left")
                if isinstance(errors[name], str):
                    raise NotCorrectError(errors[name])
                record["relative_error"] = errors[name]
                nothing = iter(lambda: None, 0)
                record |= timing(lambda _, f=ours[name]: f(), nothing, device, 20)
                record["plain_us"] = timing(lambda _, f=plain[name]: f(), nothing, device, 5)["us"]
                flop, moved = todo[name]
                record["flop_per_s"] = flop / (record["us"] * 1e-6)
                record["bytes_per_s"] = moved / (record["us"] * 1e-6)
            except NotCorrectError as error:
                record["failed"] = str(error)
            except Exception as error:
                record["failed"] = reason(error)
            yield record


def model_terms(steps: Any) -> int:
    """Terms of the splines that the kernels read."""
    return steps.weights.blocks[0].filters.degree + 1


def ceilings(device: torch.device) -> dict[str, float]:
    """What the device can do: copies in B/s, products of matrices in FLOP/s."""
    big, wide = (2**28, 8192) if device.type == "cuda" else (2**22, 512)
    a = torch.randn(big, device=device)
    b = torch.empty_like(a)
    nothing = iter(lambda: None, 0)
    copy = timing(lambda _: b.copy_(a), nothing, device, 20)["us"]
    x, y = (torch.randn(wide, wide, device=device) for _ in range(2))
    found = {"copy_bytes_per_s": 2 * a.numel() * 4 / (copy * 1e-6)}
    for name, allow, dtype in (
        ("float32", False, torch.float32),
        ("tf32", True, torch.float32),
        ("bf16", True, torch.bfloat16),
    ):
        if device.type != "cuda" and name != "float32":
            continue
        torch.backends.cuda.matmul.allow_tf32 = allow
        p, q = x.to(dtype), y.to(dtype)
        product = timing(lambda _, p=p, q=q: p @ q, nothing, device, 10)["us"]
        found[f"{name}_flop_per_s"] = 2 * wide**3 / (product * 1e-6)
    torch.backends.cuda.matmul.allow_tf32 = False
    return found
