# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Weights of the splines that radial filters are taken from; `ops.filters` makes their tables."""

import triton
import triton.language as tl

#: Degrees for which `spline_weights` has its formulas.
CLOSED_DEGREES = (3, 5)


@triton.jit
def spline_weights(u, DEGREE: tl.constexpr):
    """Weights of the DEGREE + 1 B-splines that are not 0 at 0 ≤ u < 1, and their derivatives.

    Meaning: `filters.spline_weights`. The first spline and the last are mirror images about
    u = 1/2, and so on inwards: an even and an odd polynomial of s = u - 1/2 make two of them.
    DEGREE is one of CLOSED_DEGREES.
    """
    s = u - 0.5
    t = s * s
    if DEGREE == 3:
        even0, odd0 = 1 / 48 + t * (1 / 4), s * (1 / 8 + t * (1 / 6))
        even1, odd1 = 23 / 48 - t * (1 / 4), s * (5 / 8 - t * (1 / 2))
        weights = (even0 - odd0, even1 - odd1, even1 + odd1, even0 + odd0)
        even0, odd0 = s * (1 / 2), 1 / 8 + t * (1 / 2)
        even1, odd1 = s * (-1 / 2), 5 / 8 - t * (3 / 2)
        slopes = (even0 - odd0, even1 - odd1, even1 + odd1, even0 + odd0)
    else:
        even0 = 1 / 3840 + t * (1 / 96 + t * (1 / 48))
        even1 = 79 / 1280 + t * (7 / 32 - t * (1 / 16))
        even2 = 841 / 1920 - t * (11 / 48 - t * (1 / 24))
        odd0 = s * (1 / 384 + t * (1 / 48 + t * (1 / 120)))
        odd1 = s * (25 / 128 + t * (1 / 16 - t * (1 / 24)))
        odd2 = s * (77 / 192 - t * (7 / 24 - t * (1 / 12)))
        weights = (
            even0 - odd0,
            even1 - odd1,
            even2 - odd2,
            even2 + odd2,
            even1 + odd1,
            even0 + odd0,
        )
        even0 = s * (1 / 48 + t * (1 / 12))
        even1 = s * (7 / 16 - t * (1 / 4))
        even2 = s * (t * (1 / 6) - 11 / 24)
        odd0 = 1 / 384 + t * (1 / 16 + t * (1 / 24))
        odd1 = 25 / 128 + t * (3 / 16 - t * (5 / 24))
        odd2 = 77 / 192 - t * (7 / 8 - t * (5 / 12))
        slopes = (
            even0 - odd0,
            even1 - odd1,
            even2 - odd2,
            even2 + odd2,
            even1 + odd1,
            even0 + odd0,
        )
    return weights, slopes
