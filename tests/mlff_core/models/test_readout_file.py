"""What reads charges lies beside a model, and leaves its energies alone."""

import pickle
from pathlib import Path

import pytest
import torch
from ase.build import molecule
from safetensors.torch import save_file

from mlff_core.batch import MolBatch
from mlff_core.calculator import PaiNNCalculator
from mlff_core.errors import ModelFileError
from mlff_core.models.checkpoint import save_checkpoint
from mlff_core.models.painn import PaiNNConfig
from mlff_core.models.partial_charges import PartialCharges
from mlff_core.models.potential import load_potential
from mlff_core.models.readout_file import save_readout
from mlff_core.models.reference import readout_beside, refer_to_model
from mlff_core.testing import NAMED_MOLECULES, random_model

AFTER = 2


def weights_of(n_features: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    read = PartialCharges(n_features, feedback=False, coulomb=False)
    return {name: 3.0 * tensor for name, tensor in read.state_dict().items()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "own.safetensors"
    save_checkpoint(random_model(2, PaiNNConfig(n_features=16, n_interactions=2)), file, {})
    return file


@pytest.mark.parametrize("backend", ["plain", "numba"])
def test_charges_are_read_and_energies_stay_to_the_last_bit(model: Path, backend: str) -> None:
    sha256 = refer_to_model(model).sha256
    assert not refer_to_model(model).has_charges
    assert save_readout(model, weights_of(16), AFTER) == readout_beside(model)
    assert refer_to_model(model).has_charges
    plain = load_potential(model, device="cpu", backend=backend)
    read = load_potential(model, device="cpu", backend=backend, charges=True)
    assert plain.sha256 == read.sha256 == sha256
    batch = MolBatch.from_arrays(
        [NAMED_MOLECULES[name] for name in ("water", "ammonium", "hydrogen")], dtype=torch.float32
    )
    before, after = plain(batch), read(batch)
    assert torch.equal(before.energy, after.energy)
    assert torch.equal(before.forces, after.forces)
    assert before.charges is None
    totals = [float(own.double().sum()) for own in batch.split(after.charges)]
    assert totals == pytest.approx([0.0, 1.0, 0.0], abs=1e-5)
    assert after.charges.std() > 0.05
    again = pickle.loads(pickle.dumps(read))
    assert torch.equal(again(batch).charges, after.charges)
    assert pickle.loads(pickle.dumps(plain))(batch).charges is None


def test_a_calculator_gives_them_where_they_are_asked_for(model: Path) -> None:
    save_readout(model, weights_of(16), AFTER)
    water = molecule("H2O")
    water.calc = PaiNNCalculator(model, device="cpu", charges=True)
    assert water.get_charges().sum() == pytest.approx(0.0, abs=1e-6)
    assert water.get_charges()[1] == pytest.approx(water.get_charges()[2], abs=1e-5)
    assert abs(water.get_dipole_moment()[1]) < 1e-5
    assert "charges" not in PaiNNCalculator(model, device="cpu").implemented_properties


def test_what_is_not_there_or_not_the_models_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no partial charges: there is no own\.charges"):
        load_potential(model, device="cpu", charges=True)
    with pytest.raises(ModelFileError, match="does not fit the model"):
        save_readout(model, weights_of(32), AFTER)
    file = save_readout(model, weights_of(16), AFTER)
    save_file(weights_of(16), file, {"model_sha256": "0" * 64, "after": "2"})
    with pytest.raises(ModelFileError, match="of another model: expected sha256"):
        load_potential(model, device="cpu", charges=True)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelFileError, match="damaged"):
        load_potential(model, device="cpu", charges=True)
    sick = weights_of(16)
    sick["network.0.bias"] = sick["network.0.bias"] * torch.nan
    with pytest.raises(ModelFileError, match="not finite"):
        save_readout(model, sick, AFTER)
