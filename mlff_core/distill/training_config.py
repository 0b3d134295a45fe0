"""How a student is trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    """How the student is trained.

    Attributes:
        n_mols: Geometries in a batch, of each device.
        n_atoms: Atoms in a batch, padding included; 0 takes them from the first molecules.
        n_edges: Pairs in a batch, padding included; 0 likewise.
        learning_rate: At its height.
        final_rate: The last learning rate, as a share of the highest.
        decay: How the rate falls from one to the other in time: "cosine", or "linear", which spends
            less of a stage at rates too small to change anything (S. Bergsma et al., "Straight to
            zero", arXiv:2502.15938).
        begins: Where on the way from the highest rate to the last one a stage begins, 0 to 1:
            stages that go on from each other may be parts of one way.
        ends: Where it ends.
        warmup_steps: Steps until the highest.
        optimizer: "adamw", or "muon" for the square blocks of the weights and AdamW for the rest.
        momentum: Of Muon.
        weight_decay: Of either, times the learning rate.
        beta1: Of AdamW.
        beta2: Of AdamW.
        ema_decay: Of the weights that are shipped.
        square_weight: Of the mean square of the force errors, per eV/Å, beside their mean length.
        pair_weight: Of the energy difference of two geometries of a molecule, per eV, at first.
        final_pair_weight: The same at the end.
        energy_weight: Of the energy itself, per eV, at first.
        final_energy_weight: The same at the end; None for as at first. From batch to batch its
            gradient varies seven times as much as that of forces, so that a large one leaves them
            little of a step: it is for the end, when steps are short.
        energy_delta: Where the Huber loss of energies turns from square to linear, in eV.
        charge_weight: Of the errors of partial charges, per e, where the student has some.
        charge_delta: Where their Huber loss turns from square to linear, in e.
        dipole_weight: Of the length of the error of the dipole moment that they make, per e·Å, at
            first.
        final_dipole_weight: The same at the end; None for as at first.
        charge_rate: Learning rate of what charges do, `PartialCharges.feedback` and `.strength`, in
            units of that of all else: they begin at zero and have far to go.
        total_fades: Share of the stage over which what the total charge adds to every atom alike
            fades to what it adds in an uncharged molecule, and stays there; 0 for never. Of the
            total charge, charges that add up then tell alone.
        max_gradient: A gradient longer than this many times the running mean is shortened.
        compile: On CUDA, whether the operators over atoms are compiled before training starts.
    """

    n_mols: int = 128
    n_atoms: int = 0
    n_edges: int = 0
    learning_rate: float = 1e-3
    final_rate: float = 0.0
    decay: str = "cosine"
    begins: float = 0.0
    ends: float = 1.0
    warmup_steps: int = 500
    optimizer: str = "muon"
    momentum: float = 0.95
    weight_decay: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.99
    ema_decay: float = 0.999
    square_weight: float = 0.0
    pair_weight: float = 0.3
    final_pair_weight: float = 1.0
    energy_weight: float = 0.05
    final_energy_weight: float | None = None
    energy_delta: float = 0.03
    charge_weight: float = 2.0
    charge_delta: float = 0.005
    dipole_weight: float = 0.3
    final_dipole_weight: float | None = None
    charge_rate: float = 1.0
    total_fades: float = 0.0
    max_gradient: float = 2.0
    compile: bool = True

    def __post_init__(self) -> None:
        if self.n_mols < 2 or self.n_mols % 2:
            raise ValueError(f"n_mols: expected an even number of at least 2, found {self.n_mols}")
        if not 0.0 <= self.begins < self.ends <= 1.0:
            raise ValueError(
                f"begins, ends: expected 0 <= begins < ends <= 1, found {self.begins}, {self.ends}"
            )
        if self.optimizer not in ("muon", "adamw"):
            raise ValueError(f"optimizer: expected muon or adamw, found {self.optimizer!r}")
        if self.decay not in ("cosine", "linear"):
            raise ValueError(f"decay: expected cosine or linear, found {self.decay!r}")
