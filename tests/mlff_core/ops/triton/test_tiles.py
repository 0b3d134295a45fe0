"""The tables of tiles, and how they are kept for a card."""

import logging
from copy import deepcopy
from pathlib import Path

import pytest

from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.reference import SHORT_NAMES, find_model
from mlff_core.ops.triton import tiles


@pytest.fixture
def own_tables(tmp_path, monkeypatch):
    """Tables and a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tiles, "TILES", deepcopy(tiles.TILES))
    monkeypatch.setattr(tiles, "LAUNCHES", deepcopy(tiles.LAUNCHES))
    monkeypatch.setattr(tiles, "GROUPS", deepcopy(tiles.GROUPS))


def test_a_choice_does_not_depend_on_the_exact_number_of_rows():
    options = {
        str(tiles.tile_options("linear_1x1", "fp16x3", n, 128, 128, 128))
        for n in range(1, 20000, 7)
    }
    assert len(options) == 3


def test_a_tile_is_cut_down_to_what_the_dimensions_are_multiples_of():
    options = tiles.tile_options("linear_1x1", "fp16x3", 10_000, 32, 3 * 32, 2 * 16)
    assert 96 % options["BLOCK_N"] == 0
    assert 32 % options["BLOCK_K"] == 0


@pytest.mark.usefixtures("own_tables")
def test_choices_kept_for_a_card_are_found_again():
    assert not tiles.load("A Card")
    chosen = tiles.Tile(16, 16, 16, 1, 1)
    tiles.TILES[256]["fp16x3"]["linear_1x1"]["small"] = chosen
    tiles.LAUNCHES[128]["message_bwd"]["large"] = tiles.Launch(1, 2, 64, 8)
    tiles.save("A Card")
    tiles.TILES[256]["fp16x3"]["linear_1x1"]["small"] = tiles.Tile(32, 32, 32, 4, 4)
    tiles.LAUNCHES[128]["message_bwd"]["large"] = tiles.Launch(4, 1, 32, 1)
    assert not tiles.load("Another Card")
    assert tiles.load("A Card")
    assert tiles.TILES[256]["fp16x3"]["linear_1x1"]["small"] == chosen
    assert tiles.LAUNCHES[128]["message_bwd"]["large"] == tiles.Launch(1, 2, 64, 8)


@pytest.mark.usefixtures("own_tables")
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"tiles": {"128": {"fp16x3": {"linear_1x1": {"small": [1]}}}}, "launches": {}}',
        '{"tiles": {"fp16x3": {"linear_1x1": {"small": [16, 16, 16, 1, 1]}}}, "launches": {}}',
    ],
)
def test_a_damaged_file_is_named_and_not_used(content, caplog):
    before = str(tiles.TILES)
    file = tiles.cache_file("A Card")
    file.parent.mkdir(parents=True)
    file.write_text(content, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert not tiles.load("A Card")
    assert str(file) in caplog.text
    assert str(tiles.TILES) == before


def test_each_width_that_is_shipped_has_choices_of_its_own_for_every_kernel_and_class():
    assert {read_checkpoint(find_model(name))[0].config.n_features for name in SHORT_NAMES} == set(
        tiles.TILES
    )
    for width in tiles.TILES:
        assert tiles.width_class(width) == width
        for kernels in (*tiles.TILES[width].values(), tiles.LAUNCHES[width]):
            assert all(set(sizes) == set(tiles.CLASSES) for sizes in kernels.values())
    assert tiles.width_class(32) == 128
    assert tiles.width_class(512) == 256


def test_vectors_of_few_atoms_are_of_the_class_of_their_atoms():
    few, medium = tiles.CLASSES["few"], tiles.CLASSES["medium"]
    assert tiles.rows_that_count(3 * (few - 1), 3) == few - 1
    assert tiles.rows_that_count(3 * few, 3) == 3 * few
    assert tiles.rows_that_count(3 * medium, 3) == 3 * medium
    assert tiles.rows_that_count(few, 1) == few


@pytest.mark.usefixtures("own_tables")
def test_a_choice_for_one_width_leaves_the_others_alone():
    before = tiles.tile_options("linear_1x1", "fp16x3", 10_000, 128, 128, 128)
    tiles.TILES[256]["fp16x3"]["linear_1x1"]["large"] = tiles.Tile(16, 16, 16, 1, 1)
    assert tiles.tile_options("linear_1x1", "fp16x3", 10_000, 128, 128, 128) == before
    assert tiles.tile_options("linear_1x1", "fp16x3", 10_000, 256, 256, 256)["BLOCK_M"] == 16


def test_the_table_in_the_package_is_written_as_tuning_writes_it(tmp_path):
    shipped = Path(tiles.__file__).with_suffix(".json")
    written = tiles.save("NVIDIA H200", tmp_path / "tiles.json")
    assert written.read_text(encoding="utf-8") == shipped.read_text(encoding="utf-8")
