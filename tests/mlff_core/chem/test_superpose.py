"""Geometries turned onto each other, against SciPy."""

import numpy as np
from scipy.spatial.transform import Rotation

from mlff_core.chem.superpose import aligned_rmsd


def test_the_aligned_rmsd_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b, expected = [], [], []
    for n in (1, 2, 3, 30, 7):
        x = rng.normal(size=(n, 3))
        y = Rotation.random(random_state=n).apply(x + rng.normal(0, 0.2, (n, 3))) + 2.0
        _, rssd = Rotation.align_vectors(x - x.mean(0), y - y.mean(0)) if n > 2 else (None, 0.0)
        if n == 2:  # two points: the difference of the two distances, shared
            rssd = abs(np.linalg.norm(x[0] - x[1]) - np.linalg.norm(y[0] - y[1])) / np.sqrt(2)
        a.append(x)
        b.append(y)
        expected.append(rssd / np.sqrt(n))
    a.append(np.full((2, 3), np.nan))
    b.append(np.zeros((2, 3)))
    found = aligned_rmsd(a, b)
    np.testing.assert_allclose(found[:-1], expected, atol=1e-6)
    assert np.isnan(found[-1])
    np.testing.assert_array_equal(aligned_rmsd([a[3], a[3][:0]], [b[3], b[3][:0]])[1], 0.0)
    assert aligned_rmsd([], []).shape == (0,)
    mirrored = aligned_rmsd([a[3]], [a[3] * [1, 1, -1]])
    assert mirrored > 0.3
