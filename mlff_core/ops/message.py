# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""Messages: gather from the neighbours, multiply by the filter, reduce. Forward and backward.

Meaning: reference.message_fwd and reference.message_bwd (with reference.position_gradient).

One program takes an atom and holds the filter's weights in registers: a thread owns a feature or
two. It walks the atom's row and recomputes the filter of each pair, with θ = π d / d_cut, from
sin(n θ) = 2 cos θ sin((n-1) θ) - sin((n-2) θ), so nothing of the shape [n_edges, n_features] ever
exists. The backward program of atom a meets each neighbour b in both roles, as the source of a's
messages and as their destination, so the gradients with respect to phi_a, mu_a and x_a are
complete without atomics, and repeatable bit for bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.ops.pairs import N_GEOMETRY, PairRows
from mlff_core.ops.tiles import LAUNCHES, row_class


@triton.jit
def over_groups(x, SPLIT: tl.constexpr, N_FEATURES: tl.constexpr):
    """Sum over the groups of threads that share a row [N_FEATURES]."""
    if SPLIT == 1:
        return x
    else:
        return tl.sum(tl.reshape(x, [SPLIT, N_FEATURES]), 0)


@triton.jit
def message_fwd_kernel(
    phi_ptr,  # [n_atoms, 3 n_features], or 2 n_features without HAS_MU
    mu_ptr,  # [n_atoms, 3, n_features], unused without HAS_MU
    q_ptr,  # [n_atoms, n_features]
    filters_ptr,  # [n_rbf + 1, 3 n_features], the bias last
    count_ptr,  # int32 [n_atoms]
    j_ptr,  # int32 [n_atoms, stride]
    geometry_ptr,  # [n_atoms, stride, N_GEOMETRY]
    q_out_ptr,  # [n_atoms, n_features]
    mu_out_ptr,  # [n_atoms, 3, n_features]
    stride,  # of a row
    N_FEATURES: tl.constexpr,
    N_RBF: tl.constexpr,
    N_GEOMETRY: tl.constexpr,
    HAS_MU: tl.constexpr,
    SPLIT: tl.constexpr,
):
    f = tl.arange(0, SPLIT * N_FEATURES) % N_FEATURES
    out = tl.arange(0, N_FEATURES)
    # With SPLIT groups of threads, each takes every SPLIT-th pair of the row. A lone group must see
    # a scalar here: what is the same for all of a thread's features is then computed once.
    group = 0 if SPLIT == 1 else tl.arange(0, SPLIT * N_FEATURES) // N_FEATURES
    # Without vectors there is nothing for the last third of phi to multiply, and it is left out.
    PHI: tl.constexpr = 3 * N_FEATURES if HAS_MU else 2 * N_FEATURES
    # Tuples of registers; a star would not compile.
    w1 = ()
    w2 = ()
    w3 = ()
    for n in tl.static_range(N_RBF + 1):
        w1 = w1 + (tl.load(filters_ptr + n * 3 * N_FEATURES + f),)  # noqa: RUF005
        w2 = w2 + (tl.load(filters_ptr + n * 3 * N_FEATURES + N_FEATURES + f),)  # noqa: RUF005
        if HAS_MU:
            w3 = w3 + (tl.load(filters_ptr + n * 3 * N_FEATURES + 2 * N_FEATURES + f),)  # noqa: RUF005

    a = tl.program_id(0).to(tl.int64)
    row = a * stride
    dq = tl.zeros([SPLIT * N_FEATURES], tl.float32)
    dx = tl.zeros([SPLIT * N_FEATURES], tl.float32)
    dy = tl.zeros([SPLIT * N_FEATURES], tl.float32)
    dz = tl.zeros([SPLIT * N_FEATURES], tl.float32)
    # The next pair is fetched while this one is worked on; each row ends in a neutral pair.
    j = tl.load(j_ptr + row + group).to(tl.int64)
    phi1 = tl.load(phi_ptr + j * PHI + f)
    phi2 = tl.load(phi_ptr + j * PHI + N_FEATURES + f)
    if HAS_MU:
        phi3 = tl.load(phi_ptr + j * PHI + 2 * N_FEATURES + f)
        mx = tl.load(mu_ptr + j * (3 * N_FEATURES) + f)
        my = tl.load(mu_ptr + j * (3 * N_FEATURES) + N_FEATURES + f)
        mz = tl.load(mu_ptr + j * (3 * N_FEATURES) + 2 * N_FEATURES + f)
    j = tl.load(j_ptr + row + SPLIT + group).to(tl.int64)
    pair = geometry_ptr + (row + group) * N_GEOMETRY
    inverse = tl.load(pair)
    ux = tl.load(pair + 1)
    uy = tl.load(pair + 2)
    uz = tl.load(pair + 3)
    sine = tl.load(pair + 4)
    cosine = tl.load(pair + 5)
    for e in range(0, tl.load(count_ptr + a), SPLIT):
        pair = geometry_ptr + (row + e + SPLIT + group) * N_GEOMETRY
        next_inverse = tl.load(pair)
        next_ux = tl.load(pair + 1)
        next_uy = tl.load(pair + 2)
        next_uz = tl.load(pair + 3)
        next_sine = tl.load(pair + 4)
        next_cosine = tl.load(pair + 5)
        next_phi1 = tl.load(phi_ptr + j * PHI + f)
        next_phi2 = tl.load(phi_ptr + j * PHI + N_FEATURES + f)
        if HAS_MU:
            next_phi3 = tl.load(phi_ptr + j * PHI + 2 * N_FEATURES + f)
            next_mx = tl.load(mu_ptr + j * (3 * N_FEATURES) + f)
            next_my = tl.load(mu_ptr + j * (3 * N_FEATURES) + N_FEATURES + f)
            next_mz = tl.load(mu_ptr + j * (3 * N_FEATURES) + 2 * N_FEATURES + f)
        j = tl.load(j_ptr + row + e + 2 * SPLIT + group).to(tl.int64)

        # sin(n θ) / d times the cutoff function; the bias times the cutoff function.
        envelope = 0.5 * (cosine + 1.0)
        twice = 2.0 * cosine
        before = 0.0
        now = sine * inverse * envelope
        W1 = w1[N_RBF] * envelope
        W2 = w2[N_RBF] * envelope
        if HAS_MU:
            W3 = w3[N_RBF] * envelope
        for n in tl.static_range(N_RBF):
            W1 += w1[n] * now
            W2 += w2[n] * now
            if HAS_MU:
                W3 += w3[n] * now
            after = twice * now - before
            before = now
            now = after

        dq += phi1 * W1
        x2 = phi2 * W2
        dx += x2 * ux
        dy += x2 * uy
        dz += x2 * uz
        inverse = next_inverse
        ux = next_ux
        uy = next_uy
        uz = next_uz
        sine = next_sine
        cosine = next_cosine
        phi1 = next_phi1
        phi2 = next_phi2
        if HAS_MU:
            x3 = phi3 * W3
            dx += x3 * mx
            dy += x3 * my
            dz += x3 * mz
            phi3 = next_phi3
            mx = next_mx
            my = next_my
            mz = next_mz
    scalar = a * N_FEATURES + out
    vector = a * (3 * N_FEATURES) + out
    q = tl.load(q_ptr + scalar) + over_groups(dq, SPLIT, N_FEATURES)
    x = over_groups(dx, SPLIT, N_FEATURES)
    y = over_groups(dy, SPLIT, N_FEATURES)
    z = over_groups(dz, SPLIT, N_FEATURES)
    if HAS_MU:
        x += tl.load(mu_ptr + vector)
        y += tl.load(mu_ptr + vector + N_FEATURES)
        z += tl.load(mu_ptr + vector + 2 * N_FEATURES)
    tl.store(q_out_ptr + scalar, q)
    tl.store(mu_out_ptr + vector, x)
    tl.store(mu_out_ptr + vector + N_FEATURES, y)
    tl.store(mu_out_ptr + vector + 2 * N_FEATURES, z)


@triton.jit
def message_bwd_kernel(
    g_q_ptr,  # [n_atoms, n_features]
    g_mu_ptr,  # [n_atoms, 3, n_features]
    phi_ptr,  # [n_atoms, 3 n_features], or 2 n_features without HAS_MU
    mu_ptr,  # [n_atoms, 3, n_features], unused without HAS_MU
    filters_ptr,  # [n_rbf + 1, 3 n_features]
    count_ptr,  # int32 [n_atoms]
    j_ptr,  # int32 [n_atoms, stride]
    geometry_ptr,  # [n_atoms, stride, N_GEOMETRY]
    gradient_ptr,  # [n_atoms, 3], added to
    g_phi_ptr,  # [n_atoms, 3 n_features], or 2 n_features without HAS_MU
    g_mu_out_ptr,  # [n_atoms, 3, n_features], unused without HAS_MU
    stride,  # of a row
    wavenumber,  # π / d_cut
    N_FEATURES: tl.constexpr,
    N_RBF: tl.constexpr,
    N_GEOMETRY: tl.constexpr,
    HAS_MU: tl.constexpr,
    SPLIT: tl.constexpr,
):
    f = tl.arange(0, SPLIT * N_FEATURES) % N_FEATURES
    out = tl.arange(0, N_FEATURES)
    # With SPLIT groups of threads, each takes every SPLIT-th pair of the row. A lone group must see
    # a scalar here: what is the same for all of a thread's features is then computed once.
    group = 0 if SPLIT == 1 else tl.arange(0, SPLIT * N_FEATURES) // N_FEATURES
    # Without vectors there is nothing for the last third of phi to multiply, and it is left out.
    PHI: tl.constexpr = 3 * N_FEATURES if HAS_MU else 2 * N_FEATURES
    # Tuples of registers; a star would not compile.
    w1 = ()
    w2 = ()
    w3 = ()
    for n in tl.static_range(N_RBF + 1):
        w1 = w1 + (tl.load(filters_ptr + n * 3 * N_FEATURES + f),)  # noqa: RUF005
        w2 = w2 + (tl.load(filters_ptr + n * 3 * N_FEATURES + N_FEATURES + f),)  # noqa: RUF005
        if HAS_MU:
            w3 = w3 + (tl.load(filters_ptr + n * 3 * N_FEATURES + 2 * N_FEATURES + f),)  # noqa: RUF005

    a = tl.program_id(0).to(tl.int64)
    row = a * stride
    scalar = a * N_FEATURES + f
    vector = a * (3 * N_FEATURES) + f
    said_a = a * PHI + f
    phi1_a = tl.load(phi_ptr + said_a)
    phi2_a = tl.load(phi_ptr + said_a + N_FEATURES)
    g_q_a = tl.load(g_q_ptr + scalar)
    g_x_a = tl.load(g_mu_ptr + vector)
    g_y_a = tl.load(g_mu_ptr + vector + N_FEATURES)
    g_z_a = tl.load(g_mu_ptr + vector + 2 * N_FEATURES)
    if HAS_MU:
        phi3_a = tl.load(phi_ptr + said_a + 2 * N_FEATURES)
        mx_a = tl.load(mu_ptr + vector)
        my_a = tl.load(mu_ptr + vector + N_FEATURES)
        mz_a = tl.load(mu_ptr + vector + 2 * N_FEATURES)
    zero = tl.zeros([SPLIT * N_FEATURES], tl.float32)
    g_phi1 = zero
    g_phi2 = zero
    g_phi3 = zero
    # Gradient of mu_a from its neighbours, all of them times phi3_a, which waits to the end.
    hx = zero
    hy = zero
    hz = zero
    # Gradient of x_a, one share a feature.
    Gx = zero
    Gy = zero
    Gz = zero
    # The next pair is fetched while this one is worked on; each row ends in a neutral pair.
    j = tl.load(j_ptr + row + group).to(tl.int64)
    phi1_b = tl.load(phi_ptr + j * PHI + f)
    phi2_b = tl.load(phi_ptr + j * PHI + N_FEATURES + f)
    g_q_b = tl.load(g_q_ptr + j * N_FEATURES + f)
    g_x_b = tl.load(g_mu_ptr + j * (3 * N_FEATURES) + f)
    g_y_b = tl.load(g_mu_ptr + j * (3 * N_FEATURES) + N_FEATURES + f)
    g_z_b = tl.load(g_mu_ptr + j * (3 * N_FEATURES) + 2 * N_FEATURES + f)
    if HAS_MU:
        phi3_b = tl.load(phi_ptr + j * PHI + 2 * N_FEATURES + f)
        mx_b = tl.load(mu_ptr + j * (3 * N_FEATURES) + f)
        my_b = tl.load(mu_ptr + j * (3 * N_FEATURES) + N_FEATURES + f)
        mz_b = tl.load(mu_ptr + j * (3 * N_FEATURES) + 2 * N_FEATURES + f)
    j = tl.load(j_ptr + row + SPLIT + group).to(tl.int64)
    pair = geometry_ptr + (row + group) * N_GEOMETRY
    inverse = tl.load(pair)
    ux = tl.load(pair + 1)
    uy = tl.load(pair + 2)
    uz = tl.load(pair + 3)
    sine = tl.load(pair + 4)
    cosine = tl.load(pair + 5)
    for e in range(0, tl.load(count_ptr + a), SPLIT):
        pair = geometry_ptr + (row + e + SPLIT + group) * N_GEOMETRY
        next_inverse = tl.load(pair)
        next_ux = tl.load(pair + 1)
        next_uy = tl.load(pair + 2)
        next_uz = tl.load(pair + 3)
        next_sine = tl.load(pair + 4)
        next_cosine = tl.load(pair + 5)
        next_phi1_b = tl.load(phi_ptr + j * PHI + f)
        next_phi2_b = tl.load(phi_ptr + j * PHI + N_FEATURES + f)
        next_g_q_b = tl.load(g_q_ptr + j * N_FEATURES + f)
        next_g_x_b = tl.load(g_mu_ptr + j * (3 * N_FEATURES) + f)
        next_g_y_b = tl.load(g_mu_ptr + j * (3 * N_FEATURES) + N_FEATURES + f)
        next_g_z_b = tl.load(g_mu_ptr + j * (3 * N_FEATURES) + 2 * N_FEATURES + f)
        if HAS_MU:
            next_phi3_b = tl.load(phi_ptr + j * PHI + 2 * N_FEATURES + f)
            next_mx_b = tl.load(mu_ptr + j * (3 * N_FEATURES) + f)
            next_my_b = tl.load(mu_ptr + j * (3 * N_FEATURES) + N_FEATURES + f)
            next_mz_b = tl.load(mu_ptr + j * (3 * N_FEATURES) + 2 * N_FEATURES + f)
        j = tl.load(j_ptr + row + e + 2 * SPLIT + group).to(tl.int64)

        # The filter over its cutoff function, R, and the slope of R's sine terms, S.
        envelope = 0.5 * (cosine + 1.0)
        twice = 2.0 * cosine
        s_before = 0.0
        s = sine * inverse
        c_before = inverse * wavenumber
        c = cosine * c_before
        R1 = tl.zeros([SPLIT * N_FEATURES], tl.float32)
        R2 = R1
        R3 = R1
        S1 = R1
        S2 = R1
        S3 = R1
        for n in tl.static_range(N_RBF):
            nc = (n + 1.0) * c
            R1 += w1[n] * s
            S1 += w1[n] * nc
            R2 += w2[n] * s
            S2 += w2[n] * nc
            if HAS_MU:
                R3 += w3[n] * s
                S3 += w3[n] * nc
            s_after = twice * s - s_before
            s_before = s
            s = s_after
            c_after = twice * c - c_before
            c_before = c
            c = c_after
        # d(R envelope)/dd with dR/dd = S - R/d, where R is still without the bias.
        envelope_slope = (-0.5) * wavenumber * sine
        full1 = R1 + w1[N_RBF]
        full2 = R2 + w2[N_RBF]
        W1 = full1 * envelope
        W2 = full2 * envelope
        slope1 = (S1 - R1 * inverse) * envelope + full1 * envelope_slope
        slope2 = (S2 - R2 * inverse) * envelope + full2 * envelope_slope

        # Seen from b's messages (a is the source) the unit vector points the other way.
        along_b = g_x_b * ux + g_y_b * uy + g_z_b * uz
        along_a = g_x_a * ux + g_y_a * uy + g_z_a * uz
        g_phi1 += W1 * g_q_b
        g_phi2 -= W2 * along_b
        turn = phi2_a * along_b - phi2_b * along_a
        radial = slope1 * (phi1_a * g_q_b + phi1_b * g_q_a) - slope2 * turn
        if HAS_MU:
            full3 = R3 + w3[N_RBF]
            W3 = full3 * envelope
            slope3 = (S3 - R3 * inverse) * envelope + full3 * envelope_slope
            dot_a = g_x_b * mx_a + g_y_b * my_a + g_z_b * mz_a
            dot_b = g_x_a * mx_b + g_y_a * my_b + g_z_a * mz_b
            g_phi3 += W3 * dot_a
            hx += W3 * g_x_b
            hy += W3 * g_y_b
            hz += W3 * g_z_b
            radial += slope3 * (phi3_a * dot_a + phi3_b * dot_b)
        across = W2 * inverse
        radial += across * turn
        from_b = across * phi2_a
        from_a = across * phi2_b
        Gx += from_b * g_x_b - from_a * g_x_a - radial * ux
        Gy += from_b * g_y_b - from_a * g_y_a - radial * uy
        Gz += from_b * g_z_b - from_a * g_z_a - radial * uz
        inverse = next_inverse
        ux = next_ux
        uy = next_uy
        uz = next_uz
        sine = next_sine
        cosine = next_cosine
        phi1_b = next_phi1_b
        phi2_b = next_phi2_b
        g_q_b = next_g_q_b
        g_x_b = next_g_x_b
        g_y_b = next_g_y_b
        g_z_b = next_g_z_b
        if HAS_MU:
            phi3_b = next_phi3_b
            mx_b = next_mx_b
            my_b = next_my_b
            mz_b = next_mz_b
    told = g_phi_ptr + a * PHI + out
    tl.store(told, over_groups(g_phi1, SPLIT, N_FEATURES))
    tl.store(told + N_FEATURES, over_groups(g_phi2, SPLIT, N_FEATURES))
    if HAS_MU:
        tl.store(told + 2 * N_FEATURES, over_groups(g_phi3, SPLIT, N_FEATURES))
        vector = a * (3 * N_FEATURES) + out
        phi3 = tl.load(phi_ptr + a * PHI + 2 * N_FEATURES + out)
        x = tl.load(g_mu_ptr + vector) + phi3 * over_groups(hx, SPLIT, N_FEATURES)
        y = tl.load(g_mu_ptr + vector + N_FEATURES) + phi3 * over_groups(hy, SPLIT, N_FEATURES)
        z = tl.load(g_mu_ptr + vector + 2 * N_FEATURES) + phi3 * over_groups(hz, SPLIT, N_FEATURES)
        tl.store(g_mu_out_ptr + vector, x)
        tl.store(g_mu_out_ptr + vector + N_FEATURES, y)
        tl.store(g_mu_out_ptr + vector + 2 * N_FEATURES, z)
    gradient = gradient_ptr + a * 3
    tl.store(gradient, tl.load(gradient) + tl.sum(Gx, 0))
    tl.store(gradient + 1, tl.load(gradient + 1) + tl.sum(Gy, 0))
    tl.store(gradient + 2, tl.load(gradient + 2) + tl.sum(Gz, 0))


def message_fwd(
    phi: Tensor, mu: Tensor | None, q: Tensor, rows: PairRows, filters: Tensor
) -> tuple[Tensor, Tensor]:
    """q + dq [n_atoms, n_features] and mu + dmu [n_atoms, 3, n_features].

    Args:
        phi: What each atom says [n_atoms, 3 n_features], or only the first two thirds of it where
            there is no mu.
        mu: Vector features [n_atoms, 3, n_features]; None for the first block, where they are 0.
        q: Scalar features [n_atoms, n_features].
        rows: The pairs.
        filters: Filter weights, transposed, the bias last [n_rbf + 1, 3 n_features].
    """
    n_atoms, n_features = q.shape
    q_out = torch.empty_like(q)
    mu_out = q.new_empty(n_atoms, 3, n_features)
    launch = LAUNCHES["message_fwd"][row_class(n_atoms)]
    message_fwd_kernel[(n_atoms,)](
        phi,
        phi if mu is None else mu,
        q,
        filters,
        rows.n_pairs,
        rows.j,
        rows.geometry,
        q_out,
        mu_out,
        rows.j.shape[1],
        N_FEATURES=n_features,
        N_RBF=len(filters) - 1,
        N_GEOMETRY=N_GEOMETRY,
        HAS_MU=mu is not None,
        SPLIT=launch.split,
        num_warps=max(1, launch.warps * n_features // 128),
        maxnreg=launch.registers,
    )
    return q_out, mu_out


def message_bwd(
    g_q: Tensor,
    g_mu: Tensor,
    phi: Tensor,
    mu: Tensor | None,
    rows: PairRows,
    filters: Tensor,
    gradient: Tensor,
    wavenumber: float,
) -> tuple[Tensor, Tensor | None]:
    """Gradients with respect to phi and mu; adds to the gradient with respect to the positions.

    Args:
        g_q: dE/d(q + dq) [n_atoms, n_features].
        g_mu: dE/d(mu + dmu) [n_atoms, 3, n_features].
        phi: As in `message_fwd`.
        mu: As in `message_fwd`.
        rows: As in `message_fwd`.
        filters: As in `message_fwd`.
        gradient: dE/dx of each atom in eV/Å [n_atoms, 3], added to in place.
        wavenumber: π / cutoff in 1/Å.

    Returns:
        dE/dphi, of the shape of phi, and dE/dmu [n_atoms, 3, n_features], None where mu is.
    """
    n_atoms, n_features = g_q.shape
    g_phi = torch.empty_like(phi)
    g_mu_out = None if mu is None else torch.empty_like(mu)
    launch = LAUNCHES["message_bwd"][row_class(n_atoms)]
    message_bwd_kernel[(n_atoms,)](
        g_q,
        g_mu,
        phi,
        phi if mu is None else mu,
        filters,
        rows.n_pairs,
        rows.j,
        rows.geometry,
        gradient,
        g_phi,
        phi if g_mu_out is None else g_mu_out,
        rows.j.shape[1],
        wavenumber,
        N_FEATURES=n_features,
        N_RBF=len(filters) - 1,
        N_GEOMETRY=N_GEOMETRY,
        HAS_MU=mu is not None,
        SPLIT=launch.split,
        num_warps=max(1, launch.warps * n_features // 128),
        maxnreg=launch.registers,
    )
    return g_phi, g_mu_out
