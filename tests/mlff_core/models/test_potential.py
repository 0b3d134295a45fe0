"""Checkpoints in and out, and what a potential refuses or survives."""

import copy
import json
import pickle
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from ase.build import molecule

from mlff_core.batch import MolBatch
from mlff_core.errors import DeviceError, ModelFileError, OutOfDomainError
from mlff_core.models.checkpoint import read_checkpoint, save_checkpoint
from mlff_core.models.painn import PaiNNConfig
from mlff_core.models.potential import Potential, choose_device, load_potential
from mlff_core.models.reference import find_model
from mlff_core.moves.relax import relax
from mlff_core.testing import (
    NAMED_MOLECULES,
    AutogradEngine,
    named_batch,
    random_model,
    random_potential,
)

SHIPPED = sorted(Path(str(resources.files("mlff_core") / "weights")).glob("*.safetensors"))


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    network = random_model(7, n_features=16)
    network.energy_scale.fill_(1.75)
    card = save_checkpoint(network, tmp_path / "small.safetensors", {"recipe": "none"})
    potential = load_potential(tmp_path / "small.safetensors", device="cpu")
    assert potential.name == "small"
    assert potential.card["recipe"] == "none"
    assert potential.sha256 == card["sha256"]
    assert potential.config == network.config
    expected = Potential(network)(named_batch(torch.float32))
    found = potential(named_batch(torch.float32))
    assert torch.equal(found.energy, expected.energy)
    assert torch.equal(found.forces, expected.forces)


def test_reference_energies_keep_their_double_precision(tmp_path):
    network = random_model(7, n_features=16)
    network.reference_energy[0] = -13.123456789012345
    save_checkpoint(network, tmp_path / "small.safetensors", {})
    found, _, _ = read_checkpoint(tmp_path / "small.safetensors")
    assert found.reference_energy.dtype == torch.float64
    assert found.reference_energy[0].item() == -13.123456789012345


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_model_is_small_whole_and_says_where_it_comes_from(path):
    network, card, sha256 = read_checkpoint(path)
    assert path.stat().st_size < 10e6
    assert card["sha256"] == sha256
    assert card["name"] == path.stem
    assert len(card["teacher_sha256"]) == 64
    assert all(p.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("headline", "stated"),
    [({"minima": "0.1 Å", "n": 3}, {"minima": "0.1 Å", "n": "3"}), ("minima", {}), (None, {})],
)
def test_errors_are_what_the_card_states_whoever_wrote_it(headline, stated):
    assert Potential(random_model(0, n_features=8), card={"headline": headline}).errors == stated


def test_the_default_model_is_shipped():
    assert find_model("default") in SHIPPED


@pytest.mark.parametrize("at", [100, -1])
def test_a_damaged_file_is_named_with_both_sums(tmp_path, at):
    path = tmp_path / "small.safetensors"
    save_checkpoint(random_model(n_features=8), path, {})
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ModelFileError, match=r"small.*damaged: expected sha256 \w{64}, found \w{64}"
    ):
        load_potential(path, device="cpu")


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "small.safetensors"
    save_checkpoint(random_model(n_features=8), path, {})
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="damaged"):
        load_potential(path, device="cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a model card"),
        ("[]", "not a model card"),
        ('{"sha256": "0"}', "not a model card"),
        ('{"sha256": "0", "config": {"n_features": 8, "elements": [1], "colour": 1}}', "colour"),
    ],
)
def test_a_card_that_is_none_of_ours_is_refused(tmp_path, text, message):
    path = tmp_path / "small.safetensors"
    save_checkpoint(random_model(n_features=8), path, {})
    path.with_suffix(".json").write_text(text)
    with pytest.raises(ModelFileError, match=message):
        load_potential(path, device="cpu")


def test_tensors_that_do_not_fit_their_card_are_refused(tmp_path):
    path = tmp_path / "small.safetensors"
    card = save_checkpoint(random_model(n_features=8), path, {})
    card["config"]["n_features"] = 16
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ModelFileError, match="does not fit its card"):
        load_potential(path, device="cpu")


def test_a_model_without_a_card_is_refused(tmp_path):
    path = tmp_path / "small.safetensors"
    save_checkpoint(random_model(n_features=8), path, {})
    path.with_suffix(".json").unlink()
    with pytest.raises(ModelFileError, match="no model card"):
        load_potential(path, device="cpu")


def test_a_model_that_does_not_exist_is_told_with_those_that_do():
    with pytest.raises(ModelFileError, match=r"no model 'nothing'.*shipped model"):
        load_potential("nothing", device="cpu")


def test_an_unknown_element_is_named():
    batch = MolBatch.from_arrays([([26, 1], [[0, 0, 0], [0, 0, 1.5]], 0)])
    with pytest.raises(OutOfDomainError, match="element 26 is unknown"):
        random_potential()(batch)


@pytest.mark.parametrize("charge", [-4, 4])
def test_a_charge_out_of_range_is_named(charge):
    batch = MolBatch.from_arrays([([8, 1], [[0, 0, 0], [0, 0, 1.0]], charge)])
    with pytest.raises(OutOfDomainError, match=rf"total charge \{charge:+d} is unknown"):
        random_potential()(batch)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_model_refuses_what_it_was_not_trained_on(path):
    potential = load_potential(path, device="cpu")
    beyond = potential.config.max_charge + 1
    batch = MolBatch.from_arrays([([8, 1], [[0, 0, 0], [0, 0, 1.0]], beyond)])
    with pytest.raises(OutOfDomainError, match="total charge"):
        potential(batch)


def test_a_coordinate_that_is_no_number_spoils_its_molecule_alone():
    potential = random_potential()
    batch = named_batch(torch.float32)
    expected = potential(batch)
    victim = list(NAMED_MOLECULES).index("water")
    for bad in (torch.nan, torch.inf):
        positions = batch.positions.clone()
        positions[batch.ptr[victim], 1] = bad
        out = potential(batch.with_positions(positions))
        spoiled = torch.arange(batch.n_mols) == victim
        assert out.energy[spoiled].isnan().all()
        assert torch.equal(out.energy[~spoiled], expected.energy[~spoiled])
        others = ~spoiled[batch.mol_idx]
        assert torch.equal(out.forces[others], expected.forces[others])


def test_two_atoms_in_one_place_spoil_their_molecule_alone():
    potential = random_potential()
    batch = named_batch(torch.float32)
    expected = potential(batch)
    victim = list(NAMED_MOLECULES).index("ammonium")
    positions = batch.positions.clone()
    positions[batch.ptr[victim] + 1] = positions[batch.ptr[victim] + 2]
    out = potential(batch.with_positions(positions))
    spoiled = torch.arange(batch.n_mols) == victim
    assert out.energy[spoiled].isnan().all()
    assert torch.equal(out.energy[~spoiled], expected.energy[~spoiled])


def test_an_empty_batch_gives_empty_results():
    out = random_potential()(MolBatch.from_arrays([]))
    assert out.energy.shape == (0,)
    assert out.energy.dtype == torch.float64
    assert out.forces.shape == (0, 3)


def test_energy_is_a_sum_in_double_precision():
    out = random_potential()(named_batch(torch.float32))
    assert out.energy.dtype == torch.float64
    assert out.forces.dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_reference_energies_never_pass_through_single_precision():
    network = random_model(n_features=16)
    network.reference_energy += -8111.123456789
    expected = network.reference_energy.clone()
    for precision in ("float32", "float64"):
        found = Potential(copy.deepcopy(network), precision=precision).model.reference_energy
        assert torch.equal(found, expected), precision


def test_cuda_where_there_is_none_is_refused():
    with pytest.raises(DeviceError, match="no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


def test_a_device_that_means_nothing_is_refused():
    with pytest.raises(DeviceError, match="expected auto, cpu or cuda, found 'abacus'"):
        choose_device("abacus")


@pytest.mark.parametrize(
    ("option", "value"),
    [("backend", "jax"), ("precision", "float16")],
    ids=["backend", "precision"],
)
def test_a_choice_that_does_not_exist_is_refused(option, value):
    with pytest.raises(ValueError, match=f"{option}: expected .* found '{value}'"):
        random_potential(**{option: value})


def test_the_triton_backend_is_refused_on_a_cpu():
    with pytest.raises(DeviceError, match="triton backend cannot run here"):
        random_potential(device="cpu", backend="triton")


def test_the_old_name_of_a_backend_still_does_and_says_its_true_one():
    with pytest.warns(FutureWarning, match="backend 'torch' has its true name now: 'numba'"):
        old = random_potential(backend="torch")
    assert old.backend == random_potential(backend="numba").backend == "numba"
    batch = named_batch(torch.float32)
    assert torch.equal(old(batch).forces, random_potential(backend="auto")(batch).forces)


@pytest.mark.parametrize("backend", ["auto", "numba", "plain"])
def test_float64_is_computed_by_the_plain_operators_whatever_the_backend(backend):
    potential = random_potential(backend=backend, precision="float64")
    assert potential.backend == "plain"
    batch = named_batch()
    expected_energy, expected_forces = AutogradEngine(potential.model).evaluate(
        *vars(batch).values()
    )
    out = potential(batch)
    torch.testing.assert_close(out.energy, expected_energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(out.forces, expected_forces, rtol=0, atol=1e-9)


def test_the_plain_backend_says_what_the_compiled_one_says():
    batch = named_batch(torch.float32)
    plain, compiled = (random_potential(backend=name)(batch) for name in ("plain", "numba"))
    torch.testing.assert_close(plain.energy, compiled.energy, rtol=0, atol=1e-4)
    torch.testing.assert_close(plain.forces, compiled.forces, rtol=0, atol=1e-4)


def same_outputs(found: Potential, expected: Potential) -> bool:
    out, meant = (potential(named_batch(torch.float32)) for potential in (found, expected))
    return torch.equal(out.energy, meant.energy) and torch.equal(out.forces, meant.forces)


def test_a_pickle_refers_to_the_file_and_loads_it_again(tmp_path):
    save_checkpoint(random_model(7, n_features=16), tmp_path / "tiny.safetensors", {})
    potential = load_potential(tmp_path / "tiny.safetensors", device="cpu", backend="plain")
    pickled = pickle.dumps(potential)
    assert len(pickled) < 500  # no weights in it
    again = pickle.loads(pickled)
    assert (again.name, again.backend, again.precision) == ("tiny", "plain", "float32")
    assert same_outputs(again, potential)
    # Another model in the same place is not taken for it.
    save_checkpoint(random_model(8, n_features=16), tmp_path / "tiny.safetensors", {})
    with pytest.raises(ModelFileError, match="not the model that was pickled: expected sha256"):
        pickle.loads(pickled)
    (tmp_path / "tiny.safetensors").unlink()
    with pytest.raises(ModelFileError, match="no model"):
        pickle.loads(pickled)


def test_a_pickle_refers_to_a_shipped_model_by_its_name():
    pickled = pickle.dumps(load_potential("small", device="cpu"))
    assert b"painn-aimnet2-small" in pickled
    assert b"/" not in pickled  # no path of this machine
    assert pickle.loads(pickled).sha256 == load_potential("small", device="cpu").sha256


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_model_that_was_never_saved_travels_with_its_weights(precision):
    potential = Potential(random_model(7, n_features=16), precision=precision)
    assert same_outputs(pickle.loads(pickle.dumps(potential)), potential)


def test_a_deep_copy_shares_the_weights_that_nobody_changes():
    potential = random_potential()
    assert copy.deepcopy([potential])[0] is potential


def test_a_potential_is_shown_in_a_line():
    assert repr(random_potential()) == "Potential(unsaved, cpu, numba, float32)"


@pytest.mark.parametrize("how", ["used", "loaded"])
def test_a_forked_process_is_told_so_and_neither_hangs_nor_dies(how):
    # In a process of its own, whose threads are those of this program alone.
    program = f"""
import multiprocessing, warnings
warnings.simplefilter("ignore")  # that a process with threads forks
from mlff_core.testing import named_batch, random_potential
potential, batch = random_potential(), named_batch()
if {how!r} == "used":
    potential(batch)
def work(results):
    try:
        results.put(potential(batch).energy.tolist())
    except RuntimeError as error:
        results.put(str(error))
results = multiprocessing.get_context("fork").SimpleQueue()
child = multiprocessing.get_context("fork").Process(target=work, args=(results,))
child.start()
print(results.get())
child.join()
print(child.exitcode)
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    told, exit_code = found.stdout.splitlines()
    assert "loaded before this process was forked" in told
    assert "spawn" in told
    assert exit_code == "0"


@pytest.mark.parametrize("wrong", [None, 3, random_model])
def test_a_model_that_is_neither_a_name_nor_a_path_is_told_in_words(wrong):
    with pytest.raises(TypeError, match="model: expected a name or a path, found"):
        load_potential(wrong)


@pytest.mark.parametrize(
    ("name", "charge"), [("CH3", 0), ("NO2", 0), ("OH", 0), ("H2O", 1), ("H", 0)]
)
def test_a_model_with_a_card_refuses_an_odd_number_of_electrons(name, charge):
    potential = load_potential("small", device="cpu")
    system = molecule(name)
    batch = MolBatch.from_arrays([(system.numbers, system.positions, charge)])
    with pytest.raises(OutOfDomainError, match="an odd number: model painn-aimnet2-small knows"):
        potential(batch)
    with pytest.raises(OutOfDomainError, match="closed shells only"):
        relax(batch, potential)
    closed = MolBatch.from_arrays([(system.numbers, system.positions, charge + 1)])
    assert potential(closed).energy.isfinite().all()


def test_a_molecule_cannot_lack_more_electrons_than_it_has():
    potential = load_potential("small", device="cpu")
    water = ([8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], 0)
    batch = MolBatch.from_arrays([water, ([1], [[0.0, 0.0, 0.0]], 3)])
    with pytest.raises(OutOfDomainError, match="molecule 1 has fewer electrons than none"):
        potential(batch)


def test_a_smaller_domain_is_kept_in_the_checkpoint(tmp_path):
    config = PaiNNConfig(n_features=8, elements=(1, 6, 8), min_charge=-1, max_charge=0)
    save_checkpoint(random_model(config=config), tmp_path / "few.safetensors", {})
    assert load_potential(tmp_path / "few.safetensors", device="cpu").config == config
