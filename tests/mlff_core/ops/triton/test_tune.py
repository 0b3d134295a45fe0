"""How candidates are tried; the measuring itself needs a card."""

from collections import defaultdict
from types import SimpleNamespace

import pytest

from mlff_core.ops.triton import tiles, tune
from mlff_core.ops.triton.tiles import GROUPS, LAUNCHES, TILES, Groups, Tile, row_class

SMALL, LARGE = Tile(16, 16, 16, 1, 1), Tile(128, 128, 128, 8, 4)


def table():
    return {"a": {"small": SMALL}, "b": {"small": SMALL}}


def test_a_choice_is_tried_for_all_kernels_at_once_and_taken_back():
    tried = table()
    results = list(tune.with_choice(lambda: dict(tried["a"]), tried, "small", LARGE))
    assert results == [(["a", "b"], {"small": LARGE})]
    assert tried == table()


def test_a_kernel_that_is_too_large_for_the_card_does_not_spoil_the_choice_for_others():
    tried = table()

    def run():
        if tried["a"]["small"] == LARGE:
            raise RuntimeError("out of shared memory")
        return "measured"

    assert list(tune.with_choice(run, tried, "small", LARGE)) == [(["b"], "measured")]
    assert tried == table()


@pytest.mark.parametrize("width", TILES)
@pytest.mark.parametrize("size", tune.TILE_CANDIDATES)
def test_candidates_are_for_the_tables_of_one_width(size, width):
    tables = [table for table, _ in tune.candidates(width, size, tune.WALKS_PRECISION)]
    own = (TILES[width][tune.WALKS_PRECISION], LAUNCHES[width])
    assert {id(table) for table in tables} == {id(table) for table in own}
    # As atoms, and as rows of which an atom has three.
    assert {row_class(40 * k * tune.N_MOLS[size]) for k in (1, 3)} == {size}


def test_no_tile_in_use_adds_up_too_long_a_piece_for_float32():
    # Not so at first: forces of dense clouds were off by nine times what plain float32 is off.
    for kernels in TILES.values():
        for kernel in tune.LONGEST:
            for size, tile in kernels["fp16x3"][kernel].items():
                assert tune.exact_enough(kernel, size, "fp16x3", tile)
    for precisions in GROUPS.values():
        for kernel, groups in precisions["fp16x3"].items():
            assert tune.exact_enough(kernel, "large", "fp16x3", groups)
    quick = Tile(32, 64, 64, 4, 3)
    assert not tune.exact_enough("update_bwd_hidden", "medium", "fp16x3", quick)
    assert tune.exact_enough("update_bwd_hidden", "medium", "fp16", quick)


def test_products_by_warpgroups_stay_where_they_are_sooner_than_the_best_tile(monkeypatch):
    groups = Groups(128, 32, 2, 5, True)
    table = {256: {"fp16x3": {"sooner": groups, "later": groups}, "fp16": {"later": groups}}}
    monkeypatch.setattr(tiles, "GROUPS", table)
    monkeypatch.setattr(
        tiles, "TILES", {256: {"fp16x3": {k: {"large": SMALL} for k in ("sooner", "later")}}}
    )
    monkeypatch.setattr(tune, "multiprocessors", lambda: 132)
    monkeypatch.setattr(tune, "alone", lambda: True)
    monkeypatch.setattr(tune, "make_engines", lambda *_: [])
    monkeypatch.setattr(tune, "candidates", lambda *_: [(tiles.TILES[256]["fp16x3"], LARGE)])

    def kernel_times(engines, batch):
        by_groups = {"sooner": 9.0, "later": 11.0}
        return defaultdict(float, by_groups if tiles.GROUPS else dict.fromkeys(by_groups, 10.0))

    monkeypatch.setattr(tune, "kernel_times", kernel_times)
    model = SimpleNamespace(config=SimpleNamespace(n_features=256))
    said = list(tune.tune(model, SimpleNamespace(n_atoms=20_000), "fp16x3"))
    assert table == {256: {"fp16x3": {"sooner": groups}, "fp16": {"later": groups}}}
    assert tiles.TILES[256]["fp16x3"]["sooner"]["large"] == LARGE
    assert "later: no warpgroups" in said[-1]
