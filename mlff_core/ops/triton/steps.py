"""A model's weights laid out for the kernels, and the steps of a program by kernels."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from mlff_core.ops.filters import FilterTable, spline_table
from mlff_core.ops.plain import mlp_fwd as plain_mlp_fwd
from mlff_core.ops.program import blocks, filter_matrix, mlp_weights
from mlff_core.ops.triton.first_message import (
    FirstWeights,
    first_message_fwd,
    worth_it,
)
from mlff_core.ops.triton.first_message_bwd import first_message_bwd
from mlff_core.ops.triton.linear import mlp_bwd, mlp_fwd
from mlff_core.ops.triton.message import message_fwd
from mlff_core.ops.triton.message_bwd import message_bwd, new_pull
from mlff_core.ops.triton.operand import contiguous_transpose, new_operand, split_weights
from mlff_core.ops.triton.pairs import AtomTables, PairRows
from mlff_core.ops.triton.readout import readout
from mlff_core.ops.triton.update import UpdateSaved, UpdateWeights, update_fwd
from mlff_core.ops.triton.update_bwd import update_bwd

if TYPE_CHECKING:
    from mlff_core.models.painn import PaiNN

#: How products of matrices are computed under each choice of `precision`, forward and backward:
#: fp16x3 keeps float32's accuracy.
PRODUCT_PRECISION = {"float32": ("fp16x3", "fp16x3"), "fast": ("fp16x3on", "fp16x3on")}
#: Width from which `fast` takes one product in float16 instead of three for gradients, but for the
#: first of all. By that rounding and the splines forces of the default model are off by up to
#: 1.2e-3 eV/Å over 128 hot geometries of 32 drug-like molecules and 64 at rest. Those of the small
#: one, of half the width, were by up to 2.5e-3 in one of the 64, which is more than `fast` may.
ONE_PRODUCT_FROM = 256
#: Splines of the filters under each choice: degree, and intervals between 0 and the cutoff.
FILTER_SPLINES = {"float32": (5, 200), "fast": (3, 240)}


def products_of(precision: str, n_features: int) -> tuple[str, str]:
    """How products are computed, forward and backward, in a model of this width."""
    forward, backward = PRODUCT_PRECISION[precision]
    one = precision == "fast" and n_features >= ONE_PRODUCT_FROM
    return forward, "fp16" if one else backward


class PhiWeights(NamedTuple):
    """Weights of what the atoms say, split in two.

    Attributes:
        w1: First layer [2, n_features, n_features].
        b1: Its bias.
        w2: Second layer [2, 3 n_features, n_features].
        b2: Its bias.
        w1_t: Of the transpose of w1.
        w2_t: Of the transpose of w2.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    w1_t: Tensor
    w2_t: Tensor


class BlockWeights(NamedTuple):
    """Weights of one interaction block, laid out for the kernels.

    Attributes:
        phi: Both layers of phi; None in the first block, where a table of all kinds of atoms takes
            their place.
        filters: Splines of the filters.
        update: Of the update block.
    """

    phi: PhiWeights | None
    filters: FilterTable
    update: UpdateWeights


class Weights(NamedTuple):
    """Weights of a model, laid out for the kernels.

    Attributes:
        tables: Of what the element and the charge decide.
        first_phi: What atoms say in the first block, as from `phi_of_kinds`.
        first: Of the first block's messages as products; None where they cannot be.
        blocks: Of the interaction blocks.
        readout: Arguments of `readout` behind the features and the repulsion.
        forward_precision: How products are computed on the way to the energies.
        backward_precision: How on the way back.
    """

    tables: AtomTables
    first_phi: Tensor
    first: FirstWeights | None
    blocks: list[BlockWeights]
    readout: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    forward_precision: str
    backward_precision: str

    def first_back(self, k: int) -> str:
        """How the first product of an update block is computed on the way back.

        Through the last block's come all gradients: with one product in place of three there, it
        was most of what forces of some molecules were off by.
        """
        last = k == len(self.blocks) - 1
        return self.forward_precision if last else self.backward_precision

    @classmethod
    def lay_out(
        cls,
        model: "PaiNN",
        precision: str,
        products: tuple[str, str] | None = None,
    ) -> "Weights":
        """Copies of a model's weights.

        Args:
            model: Later changes to it are not seen.
            precision: "float32" or "fast".
            products: How products of matrices are computed, forward and backward; None takes
                what the precision says.
        """
        precisions = products or products_of(precision, model.config.n_features)

        def forward(w: Tensor) -> Tensor:
            return split_weights(w, precisions[0])

        def transposed(w: Tensor) -> Tensor:
            return split_weights(contiguous_transpose(w), precisions[1])

        tables = AtomTables(
            atom_index=model.atom_index,
            nuclear=model.nuclear_charge,
            nuclear_power=model.nuclear_charge**0.23,
            radius=model.radius,
            element=model.element.weight.detach(),
            charge=model.charge.weight.detach(),
            min_charge=model.config.min_charge,
        )
        degree, n_intervals = FILTER_SPLINES[precision]
        laid_out: list[BlockWeights] = []
        n_blocks = len(blocks(model))
        for message, update in blocks(model):
            phi = None
            if laid_out:
                w1, b1, w2, b2 = (w.detach() for w in mlp_weights(message.phi))
                phi = PhiWeights(forward(w1), b1, forward(w2), b2, transposed(w1), transposed(w2))
            filters = filter_matrix(message).detach()
            w1, b1, w2, b2 = (w.detach() for w in mlp_weights(update.a))
            laid_out.append(
                BlockWeights(
                    phi=phi,
                    filters=spline_table(filters, model.config.cutoff, degree, n_intervals),
                    update=UpdateWeights.make(
                        update.uv.weight.detach(),
                        w1,
                        b1,
                        w2,
                        b2,
                        precisions,
                        precisions[0] if len(laid_out) == n_blocks - 1 else precisions[1],
                    ),
                )
            )
        first, _ = blocks(model)[0]
        w1, b1, w2, b2 = (w.detach() for w in mlp_weights(model.readout))
        readout_weights = (
            forward(w1),
            b1,
            (w2[0] * model.energy_scale).contiguous(),
            b2 * model.energy_scale,
            split_weights(contiguous_transpose(w1), precisions[0]),
        )
        first_phi = phi_of_kinds(tables, [w.detach() for w in mlp_weights(first.phi)])
        return cls(
            tables,
            first_phi.to(tables.element.dtype),
            FirstWeights.make(
                model.config.elements,
                first_phi,
                filter_matrix(first).detach(),
                model.config.cutoff,
                FILTER_SPLINES["float32"],
                precisions,
            ),
            laid_out,
            readout_weights,
            *precisions,
        )


def phi_of_kinds(tables: AtomTables, layers: list[Tensor]) -> Tensor:
    """What atoms say in the first block, where element and charge decide it; two thirds of it.

    Returns:
        In the order of PairRows.kind, in float64 [n_elements * n_charges, 2 n_features].
    """
    q = (tables.element[:, None] + tables.charge).double().flatten(0, 1)
    phi, _ = plain_mlp_fwd(q, *(w.double() for w in layers))
    return phi[:, : 2 * q.shape[1]].contiguous()


class KernelSteps:
    """The steps of `program.forward_and_back` by kernels.

    Attributes:
        atomic: After the readout, the energy of each atom, repulsion included, in eV [n_atoms].
        pull: After the way back, as `message_bwd` writes it.
        kept: What each update block has kept for its way back.
        reach: What the first block's messages leave for the way back, where they are products.
        mixed: The last vectors that `message_fwd` gave as an operand, and as they are.
        told: The last gradient in vectors that `message_bwd` gave, and what `gradient_in_a_mu`
            would make of it in the block before.
    """

    atomic: Tensor
    pull: Tensor

    def __init__(self, weights: Weights, rows: PairRows, repulsion: Tensor):
        self.weights, self.rows, self.repulsion = weights, rows, repulsion
        self.kept: dict[int, UpdateSaved] = {}
        self.reach: Tensor | None = None
        self.mixed: tuple[Tensor, Tensor | None] | None = None
        self.told: tuple[Tensor, Tensor] | None = None

    def phi_fwd(self, k: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Steps`; in the first block a table of all kinds of atoms takes their place."""
        phi, precision = self.weights.blocks[k].phi, self.weights.forward_precision
        if phi is None:
            return self.weights.first_phi, q
        layers = (phi.w1, phi.b1, phi.w2, phi.b2)
        return mlp_fwd(q, *layers, end=self.rows.end, precision=precision)

    def message_fwd(
        self, k: int, phi: Tensor, q: Tensor, mu: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As in `Steps`; the vectors are an operand, which nothing but `update_fwd` reads."""
        first, with_mu = self.weights.first, k < len(self.weights.blocks) - 1
        if mu is None and first is not None and worth_it(*q.shape):
            q, operand, own, self.reach = first_message_fwd(q, self.rows, first, with_mu=with_mu)
        else:
            filters, products = self.weights.blocks[k].filters, self.weights.forward_precision
            q, operand, own = message_fwd(
                phi, mu, q, self.rows, filters, with_mu=with_mu, products=products
            )
        self.mixed = operand, own
        return q, operand

    def update_fwd(
        self, k: int, q: Tensor, mu: Tensor
    ) -> tuple[Tensor, Tensor | None, UpdateSaved]:
        """As in `Steps`; mu may be an operand. Nothing reads the vectors after the last block."""
        blocks = self.weights.blocks
        last = k == len(blocks) - 1
        own: Tensor | None = mu
        operand: Tensor | None = None
        if self.mixed is not None and self.mixed[0] is mu:
            operand, own = self.mixed
        self.mixed = None
        out = update_fwd(
            q,
            own,
            blocks[k].update,
            end=self.rows.end,
            with_mu=not last,
            precision=self.weights.forward_precision,
            operand=operand,
        )
        self.kept[k] = out[2]
        return out

    def readout(self, q: Tensor) -> Tensor:
        """As in `Steps`."""
        self.atomic, g_q = readout(
            q,
            self.repulsion,
            *self.weights.readout,
            end=self.rows.end,
            precision=self.weights.forward_precision,
        )
        self.pull = new_pull(self.rows, q.shape[1])
        return g_q

    def update_bwd(
        self, k: int, g_q: Tensor, g_mu: Tensor | None, kept: UpdateSaved
    ) -> tuple[Tensor, Tensor]:
        """As in `Steps`."""
        precision, update = self.weights.backward_precision, self.weights.blocks[k].update
        at_hand = self.told is not None and self.told[0] is g_mu and self.kept.get(k) is kept
        return update_bwd(
            g_q,
            g_mu,
            kept,
            update,
            end=self.rows.end,
            precision=precision,
            first=self.weights.first_back(k),
            g_a_mu=self.told[1] if self.told is not None and at_hand else None,
        )

    def message_bwd(
        self, k: int, g_q: Tensor, g_mu: Tensor, phi: Tensor, mu: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """As in `Steps`; the last block, which comes first, overwrites pull."""
        blocks = self.weights.blocks
        add = k < len(blocks) - 1
        if mu is None and self.reach is not None and self.weights.first is not None:
            first_message_bwd(
                g_q, g_mu, self.rows, self.weights.first, self.reach, self.pull, add=add
            )
            return None
        before, operand = self.kept.get(k - 1), None
        products = self.weights.first_back(k - 1)
        if before is not None:
            operand = new_operand(len(g_q), g_q.shape[1], products, g_q.device)
        gradients = message_bwd(
            g_q,
            g_mu,
            phi,
            mu,
            self.rows,
            blocks[k].filters,
            self.pull,
            add=add,
            precision=self.weights.backward_precision,
            uv=None if before is None else before.uv,
            g_a_mu=operand,
            products=products,
        )
        self.told = None
        if gradients is not None and operand is not None:
            self.told = gradients[1], operand
        return gradients

    def phi_bwd(self, k: int, g_phi: Tensor, hidden: Tensor, g_q: Tensor) -> Tensor:
        """As in `Steps`."""
        phi = self.weights.blocks[k].phi
        assert phi is not None, "there is no way back beyond the first block"
        precision, end = self.weights.backward_precision, self.rows.end
        return mlp_bwd(g_phi, hidden, phi.w1_t, phi.w2_t, g_q, end=end, precision=precision)
