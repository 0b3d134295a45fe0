"""Muon for the square blocks of the weights, AdamW for all else; a CUDA graph can hold a step.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024: the momentum of a
matrix is replaced by the nearest orthogonal matrix before it is applied. The size of the update is
that of J. Liu et al., arXiv:2502.16982, so that one learning rate serves both parts. Every linear
layer of PaiNN is made of square blocks (U above V, the three thirds of phi …) that mean different
things, and each is a matrix of its own here.
"""

from typing import Any

import torch
from torch import Tensor, nn


def orthogonalised(matrices: Tensor, n_steps: int = 5) -> Tensor:
    """Close to the nearest orthogonal matrix of each [n, width, width], by Newton and Schulz.

    The singular values end between about 0.7 and 1.2, which is all that the optimiser needs.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.square().sum((1, 2), keepdim=True).sqrt() + 1e-12)
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(n_steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.to(matrices.dtype)


def square_blocks(weight: Tensor, width: int) -> Tensor:
    """A weight matrix cut into blocks [n, width, width]."""
    rows, columns = weight.shape[0] // width, weight.shape[1] // width
    return weight.view(rows, width, columns, width).transpose(1, 2).reshape(-1, width, width)


def joined_blocks(blocks: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `square_blocks`."""
    width = blocks.shape[-1]
    rows, columns = shape[0] // width, shape[1] // width
    return blocks.view(rows, columns, width, width).transpose(1, 2).reshape(shape)


class Optimizer:
    """Updates a network's weights from their gradients.

    Attributes:
        learning_rate: On the device, so that a captured step sees it change.
        fast_rate: Likewise, of the few weights that learn faster.
        times_faster: How much faster they do.
    """

    def __init__(
        self,
        network: nn.Module,
        width: int,
        *,
        betas: tuple[float, float],
        momentum: float,
        weight_decay: float,
        use_muon: bool,
        faster: list[Tensor] | None = None,
    ):
        """Sort the weights.

        Args:
            network: Whose parameters are trained.
            width: Of the square blocks: the number of features.
            betas: Of AdamW.
            momentum: Of Muon.
            weight_decay: Share of each weight taken off, times the learning rate.
            use_muon: Whether linear layers made of square blocks get Muon.
            faster: Parameters of AdamW's that learn at `fast_rate`.
        """
        self.parameters = list(network.parameters())
        hidden = {
            id(module.weight)
            for module in network.modules()
            if isinstance(module, nn.Linear)
            and module.weight.shape[0] % width == 0
            and module.weight.shape[1] % width == 0
        }
        self._is_matrix = [use_muon and id(p) in hidden for p in self.parameters]
        self.width, self.momentum, self.weight_decay = width, momentum, weight_decay
        device = self.parameters[0].device
        cuda = device.type == "cuda"
        self.learning_rate = torch.zeros((), device=device)
        self.fast_rate, self.times_faster = torch.zeros((), device=device), 1.0
        quick = {id(p) for p in faster or []}
        others = [p for p, m in zip(self.parameters, self._is_matrix, strict=True) if not m]
        groups: list[dict[str, Any]] = [{"params": [p for p in others if id(p) not in quick]}]
        if quick:
            # No decay: nothing speaks for little of it, and the rate would make it large.
            groups.append({"params": faster, "lr": self.fast_rate, "weight_decay": 0.0})
        self._adam = torch.optim.AdamW(
            groups,
            lr=self.learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            fused=cuda,
            capturable=cuda,
            foreach=False if not cuda else None,
        )
        n_blocks = sum(p.numel() // width**2 for p in self._matrices())
        self._velocity = torch.zeros(n_blocks, width, width, device=device)

    def _matrices(self) -> list[Tensor]:
        return [p for p, matrix in zip(self.parameters, self._is_matrix, strict=True) if matrix]

    def set_rate(self, learning_rate: float) -> None:
        """Of the steps to come."""
        self.learning_rate.fill_(learning_rate)
        self.fast_rate.fill_(self.times_faster * learning_rate)

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """Change the weights; gradients in the order of the network's parameters."""
        matrix_gradients = []
        for parameter, gradient, matrix in zip(
            self.parameters, gradients, self._is_matrix, strict=True
        ):
            if matrix:
                matrix_gradients.append(gradient)
            else:
                parameter.grad = gradient
        self._adam.step()
        matrices = self._matrices()
        if not matrices:
            return
        blocks = torch.cat([square_blocks(g, self.width) for g in matrix_gradients])
        self._velocity.lerp_(blocks, 1.0 - self.momentum)
        # Nesterov: look one step ahead.
        ahead = torch.lerp(blocks, self._velocity, self.momentum)
        # An orthogonal matrix has entries of 1 / sqrt(width); AdamW's updates are about 0.2.
        update = orthogonalised(ahead) * (0.2 * self.width**0.5 * self.learning_rate)
        decay = 1.0 - self.weight_decay * self.learning_rate
        counts = [m.numel() // self.width**2 for m in matrices]
        for matrix_, change in zip(matrices, update.split(counts), strict=True):
            matrix_.mul_(decay).sub_(joined_blocks(change, matrix_.shape))
