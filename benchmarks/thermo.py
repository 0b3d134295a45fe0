"""How many molecules' Hessians and thermochemistries a minute?

    python benchmarks/thermo.py [--molecules 1000] [--model default|small] [--device auto|cpu|cuda]
        [--exact 8] [--threads N] [--out thermo.json]

The benchmark molecules (256, 40 atoms on average, again and again with other displacements) are
relaxed to 0.01 eV/Å as `--thermo` does. Then, for those that converged: Hessians from differences
of forces, vibrations, thermochemistry, each timed by itself. The first minute of a process compiles
kernels; that is done before, with other molecules. Wavenumbers of the first `--exact` ones are
compared with the plain operators in float64. The file is written after each part.
"""

import argparse
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from _harness import RESULTS, Results, conformers, environment, synchronize

from mlff_core.models.potential import load_potential
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.properties.vibrations import hessians, n_imaginary, wavenumbers

#: What `--thermo` asks for.
SETTINGS = RelaxSettings(fmax=0.01, max_steps=1000)
#: Molecules that compile what is timed then.
WARM_UP = 64


def main() -> None:
    """Write the JSON, part by part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--molecules", type=int, default=1000)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--exact", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", default="thermo.json")
    arguments = parser.parse_args()

    potential = load_potential(arguments.model, device=arguments.device)
    device = potential.device
    result = Results(RESULTS / arguments.out, {"model": potential.name, **environment(device)})

    def seconds(since: float) -> float:
        synchronize(device)
        return time.monotonic() - since

    began = time.monotonic()
    few = conformers(min(WARM_UP, arguments.molecules), seed=2)
    ends = relax_conformers(few, potential, RelaxSettings(max_steps=20))
    warm = [(n, end.positions, q) for (n, _, q), end in zip(few, ends, strict=True)]
    hessians(warm[:4], potential)
    result.add({"part": "compile", "s": seconds(began)})

    molecules = conformers(arguments.molecules, seed=1)
    began = time.monotonic()
    ends = relax_conformers(molecules, potential, SETTINGS)
    took = seconds(began)
    result.add(
        {
            "part": "relax", "s": took, "n": len(molecules),
            "status": dict(Counter(str(end.status) for end in ends)),
            "n_atoms_mean": float(np.mean([len(m[0]) for m in molecules])),
        }
    )  # fmt: skip
    minima = [
        (numbers, end.positions, charge)
        for (numbers, _, charge), end in zip(molecules, ends, strict=True)
        if end.status == "converged"
    ]
    energies = [end.energy for end in ends if end.status == "converged"]

    began = time.monotonic()
    found = hessians(minima, potential)
    took = seconds(began)
    n_calls = sum(6 * len(numbers) for numbers, _, _ in minima)
    result.add(
        {
            "part": "hessians", "s": took, "n": len(minima), "a_minute": 60 * len(minima) / took,
            "displaced": n_calls, "us_a_displaced": 1e6 * took / n_calls,
        }
    )  # fmt: skip

    began = time.monotonic()
    with ThreadPoolExecutor(arguments.threads) as threads:
        modes = list(threads.map(lambda g, h: wavenumbers(g[0], g[1], h), minima, found))
    took = seconds(began)
    imaginary = [n_imaginary(m) for m in modes]
    result.add(
        {
            "part": "vibrations", "s": took, "threads": arguments.threads,
            "with_imaginary": sum(n > 0 for n in imaginary),
            "lowest_median": float(np.median([m.min() for m in modes])),
            "lowest_least": float(min(m.min() for m in modes)),
        }
    )  # fmt: skip

    from mlff_core.properties.thermo import thermochemistry  # of ASE 3.28 and later

    began = time.monotonic()
    for (numbers, x, _), energy, own, n in zip(minima, energies, modes, imaginary, strict=True):
        if not n:
            thermochemistry(numbers, x, energy, own)
    result.add({"part": "thermochemistry", "s": time.monotonic() - began})

    if arguments.exact:
        exact = load_potential(
            arguments.model, device=arguments.device, precision="float64", backend="plain"
        )
        few = minima[: arguments.exact]
        began = time.monotonic()
        reference = [
            wavenumbers(n, x, h) for (n, x, _), h in zip(few, hessians(few, exact), strict=True)
        ]
        off = np.concatenate([np.abs(a - b) for a, b in zip(modes, reference, strict=False)])
        gibbs = [
            abs(thermochemistry(n, x, 0.0, a).gibbs_energy_ev
                - thermochemistry(n, x, 0.0, b).gibbs_energy_ev) * 23.0605
            for (n, x, _), a, b in zip(few, modes, reference, strict=False)
            if not n_imaginary(a) and not n_imaginary(b)
        ]  # fmt: skip
        result.add(
            {
                "part": "against float64", "s": seconds(began), "n": len(few),
                "off_median_per_cm": float(np.median(off)), "off_max_per_cm": float(off.max()),
                "gibbs_off_max_kcal_mol": max(gibbs, default=0.0),
            }
        )  # fmt: skip


if __name__ == "__main__":
    main()
