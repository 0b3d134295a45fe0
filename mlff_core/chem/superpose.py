"""How far geometries of the same atoms are apart, however they lie and are turned."""

from collections.abc import Sequence

import numpy as np


def aligned_rmsd(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """Root-mean-square deviation of each pair of geometries after the best superposition, in Å.

    W. Kabsch, Acta Cryst. A 32, 922 (1976).

    Args:
        a: Å [n_atoms, 3] of each geometry.
        b: The same atoms elsewhere.

    Returns:
        Å [n_geometries]; NaN where a coordinate is not finite, 0 where there is no atom.
    """
    sizes = np.array([len(x) for x in a], dtype=np.int64)
    if not sizes.all():
        found = np.zeros(len(a))
        some = np.flatnonzero(sizes).tolist()
        found[some] = aligned_rmsd([a[k] for k in some], [b[k] for k in some])
        return found
    if not len(a):
        return np.zeros(0)
    first = np.cumsum(sizes) - sizes

    def centred(geometries: Sequence[np.ndarray]) -> np.ndarray:
        x = np.concatenate(geometries).astype(np.float64)
        mean = np.add.reduceat(x, first) / sizes[:, None]
        return x - np.repeat(mean, sizes, axis=0)

    x, y = centred(a), centred(b)
    squares = np.add.reduceat((x * x + y * y).sum(1), first)
    covariance = np.add.reduceat(x[:, :, None] * y[:, None, :], first)  # [n_geometries, 3, 3]
    finite = np.isfinite(covariance).all((1, 2))
    covariance[~finite] = 0.0
    singular = np.linalg.svd(covariance, compute_uv=False)
    # Where the best orthogonal match would be a mirror image.
    singular[np.linalg.det(covariance) < 0, -1] *= -1
    squared = (squares - 2.0 * singular.sum(1)) / sizes
    return np.where(finite, np.sqrt(np.maximum(squared, 0.0)), np.nan)
