"""The tables of tiles, and how they are kept for a card."""

import logging

import pytest

from mlff_core.ops.triton import tiles


@pytest.fixture
def own_tables(tmp_path, monkeypatch):
    """Tables and a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = {p: {k: dict(s) for k, s in ks.items()} for p, ks in tiles.TILES.items()}
    monkeypatch.setattr(tiles, "TILES", table)
    monkeypatch.setattr(tiles, "LAUNCHES", {k: dict(s) for k, s in tiles.LAUNCHES.items()})


def test_a_choice_does_not_depend_on_the_exact_number_of_rows():
    options = {str(tiles.tile_options("linear", "tf32x3", n, 128, 128)) for n in range(1, 20000, 7)}
    assert len(options) == 3


def test_a_tile_is_cut_down_to_what_the_dimensions_are_multiples_of():
    options = tiles.tile_options("linear", "tf32x3", 10_000, 3 * 32, 2 * 16)
    assert 96 % options["BLOCK_N"] == 0
    assert 32 % options["BLOCK_K"] == 0


@pytest.mark.usefixtures("own_tables")
def test_choices_kept_for_a_card_are_found_again():
    assert not tiles.load("A Card")
    chosen = tiles.Tile(16, 16, 16, 1, 1)
    tiles.TILES["tf32x3"]["linear"]["small"] = chosen
    tiles.LAUNCHES["message_bwd"]["large"] = tiles.Launch(1, 2, 64, 8)
    tiles.save("A Card")
    tiles.TILES["tf32x3"]["linear"]["small"] = tiles.Tile(32, 32, 32, 4, 4)
    tiles.LAUNCHES["message_bwd"]["large"] = tiles.Launch(4, 1, 32, 1)
    assert not tiles.load("Another Card")
    assert tiles.load("A Card")
    assert tiles.TILES["tf32x3"]["linear"]["small"] == chosen
    assert tiles.LAUNCHES["message_bwd"]["large"] == tiles.Launch(1, 2, 64, 8)


@pytest.mark.usefixtures("own_tables")
@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"tiles": {"tf32x3": {"linear": {"small": [1]}}}, "launches": {}}'],
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
