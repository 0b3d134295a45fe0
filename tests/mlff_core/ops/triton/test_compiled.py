"""The kernels through Triton's compiler, which refuses what its interpreter lets pass."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run_compiled.py")
KERNELS = {
    "linear_kernel",
    "message_bwd_kernel",
    "message_fwd_kernel",
    "molecule_kernel",
    "pairs_kernel",
    "readout_kernel",
    "update_bwd_hidden_kernel",
    "update_bwd_in_kernel",
    "update_hidden_kernel",
    "update_out_kernel",
}
#: Of those in tiles.json.
GROUP_KERNELS = {"linear_warpgroups_kernel", "bwd_hidden_warpgroups_kernel"}
#: What a program may have on a card of the Hopper family.
SHARED_BYTES = 227 * 1024


@pytest.fixture
def compiled(tmp_path):
    """Run the script in a process that does not interpret; what it wrote."""
    pytest.importorskip("triton")

    def run(capability: int, what: str):
        out = tmp_path / "out.json"
        environment = os.environ | {
            "TRITON_CACHE_DIR": str(tmp_path / "cache"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[4]),
        }
        environment.pop("TRITON_INTERPRET", None)
        ended = subprocess.run(
            [sys.executable, str(SCRIPT), str(capability), what, str(out)],
            env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return json.loads(out.read_text(encoding="utf-8"))

    return run


@pytest.mark.parametrize(("capability", "overlap"), [(80, False), (90, True)])
def test_kernels_compile_for_cards_that_overlap_them_and_for_cards_that_cannot(
    capability, overlap, compiled
):
    assembly = compiled(capability, "steps")
    assert {name.split()[0] for name in assembly} == KERNELS
    assert all(("griddepcontrol.wait" in text) is overlap for text in assembly.values())


def test_the_kernels_of_batches_of_many_atoms_compile(compiled):
    names = {name.split()[0] for name in compiled(90, "first")}
    assert names >= {
        "by_elements_kernel",
        "element_pull_kernel",
        "element_sums_kernel",
        "to_elements_kernel",
        "update_bwd_mix_kernel",
    }


def test_what_lies_between_two_force_calls_compiles_once_for_every_way_to_move(compiled):
    assembly = compiled(90, "moves")
    assert sorted(name.split()[0] for name in assembly) == [
        "begin_move_kernel",  # with a bath and without
        "begin_move_kernel",
        "end_move_kernel",
        "enter_kernel",
        "fire_kernel",
        "gather_kernel",
        "inverse_hessian_kernel",
        "lbfgs_kernel",  # with a model of the Hessian and without
        "lbfgs_kernel",
        "leave_kernel",
        "renew_kernel",
    ]


def test_each_warp_has_whole_pairs_where_it_adds_up_their_features(compiled):
    # What the walk back does there in assembly, Triton knows nothing of.
    layouts = compiled(90, "walks")
    assert {layout.split()[0] for layout in layouts} >= {"1", "2"}
    for layout in layouts:
        warps, _ = layout.split(" warps: ")
        assert layout.endswith(
            "sizePerThread = [1, 4], threadsPerWarp = [1, 32], "
            f"warpsPerCTA = [{warps}, 1], order = [1, 0]"
        )


def test_products_by_warpgroups_compile_and_find_room_in_shared_memory(compiled):
    found = compiled(90, "groups")
    assert {name for name, _, _ in found} == GROUP_KERNELS
    assert all(products > 0 for _, products, _ in found)
    assert all(shared <= SHARED_BYTES for _, _, shared in found)


def test_every_tile_in_use_compiles(compiled):
    assert compiled(90, "tiles") == []
