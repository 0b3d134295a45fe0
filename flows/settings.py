"""What a call means to the chemistry and to the relaxation."""

from flows.call import ScreenCall
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.variant import Expansion
from mlff_core.models.reference import ModelReference, pre_model
from mlff_core.moves.settings import THERMO_FMAX, RelaxSettings


def chemistry_of(call: ScreenCall, model: ModelReference) -> ChemistrySettings:
    """How molecules are prepared and embedded."""
    return ChemistrySettings(
        n_conformers=None if call.conformers == "auto" else call.conformers,
        max_conformers=call.max_conformers,
        max_atoms=call.max_atoms,
        seed=call.seed,
        hard_timeout_s=call.molecule_seconds,
        elements=model.elements,
        min_charge=model.min_charge,
        max_charge=model.max_charge,
        model_sha256=model.sha256,
        expansion=Expansion(
            stereo=call.stereo,
            tautomers=call.tautomers,
            ph=call.ph,
            ph_window=call.ph_window,
            max_variants=call.max_variants,
        ),
        from_3d=call.from_3d,
    )


def relaxation_of(call: ScreenCall) -> RelaxSettings:
    """How conformers are relaxed."""
    return RelaxSettings(
        optimizer=call.optimizer,
        fmax=min(call.fmax, THERMO_FMAX) if call.thermo else call.fmax,
        max_steps=call.max_steps,
        batching=call.batching,
    )


def pre_model_of(call: ScreenCall, model: ModelReference) -> ModelReference | None:
    """The model to walk with before the one that is asked for, if there is one.

    Raises:
        ModelFileError: It is asked for and does not know what the other one knows.
    """
    if call.max_steps == 0:
        return None
    auto = call.model == "default" and call.from_3d == "none"
    return pre_model(call.pre_relax, model, model.name, model.sha256, auto=auto)


def thermo_of(call: ScreenCall) -> str | None:
    """What thermochemistry is computed, in words; None if none was asked for."""
    if not call.thermo:
        return None
    return (
        f"{call.temperature_k:g} K, {call.pressure_pa:g} Pa, ideal gas, quasi-RRHO below 100 cm-1"
    )
