import pytest
import torch

from mlff_core import buckets
from mlff_core.buckets import (
    BYTES_PER_EDGE_AND_FEATURE,
    TABLE_MAX_EDGES,
    batch_sizes,
    bucket_of,
    memory_factor,
)

TABLE = {"small": 32, "medium": 16, "large": 8, "very large": 4}
GIB = 2**30
#: Bytes that an edge takes with a model of 128 features.
KERNELS, PLAIN = (128 * BYTES_PER_EDGE_AND_FEATURE[backend] for backend in ("triton", "plain"))


@pytest.mark.parametrize(
    ("n_atoms", "name"),
    [
        (1, "small"),
        (10, "small"),
        (11, "medium"),
        (30, "medium"),
        (31, "large"),
        (100, "large"),
        (101, "very large"),
        (5000, "very large"),
    ],
)
def test_the_bounds_of_the_buckets_belong_to_the_smaller_one(n_atoms, name):
    assert bucket_of(n_atoms) == name


@pytest.mark.parametrize("batching", ["auto", "table"])
def test_a_cpu_uses_the_table_as_it_stands(batching):
    assert batch_sizes(batching, "cpu") == TABLE


def card(monkeypatch, free_gib, total_gib, n_multiprocessors):
    class Properties:
        multi_processor_count = n_multiprocessors

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_gib * GIB, total_gib * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)


def test_table_means_the_table_on_any_device(monkeypatch):
    card(monkeypatch, 130, 140, 132)
    assert batch_sizes("table", "cuda", KERNELS) == TABLE


def test_a_card_of_12_gb_uses_the_table_as_it_stands(monkeypatch):
    card(monkeypatch, 11, 12, 28)
    assert batch_sizes("auto", "cuda", KERNELS) == TABLE


def test_a_large_card_earns_one_factor_for_the_whole_table(monkeypatch):
    card(monkeypatch, 130, 140, 132)
    for bytes_per_edge in (KERNELS, PLAIN):
        sizes = batch_sizes("auto", "cuda", bytes_per_edge)
        factors = {size // TABLE[name] for name, size in sizes.items()}
        assert len(factors) == 1
        assert factors.pop() >= 32


@pytest.mark.parametrize("backend", ["plain", "numba", "triton"])
@pytest.mark.parametrize("free_gib", [1, 4, 16, 20, 40, 70, 130])
@pytest.mark.parametrize("n_features", [128, 256])
def test_the_factor_fits_into_half_of_the_free_memory(backend, free_gib, n_features):
    bytes_per_edge = BYTES_PER_EDGE_AND_FEATURE[backend] * n_features
    factor = memory_factor(free_gib * GIB, 140 * GIB, 132, bytes_per_edge)
    needed = factor * TABLE_MAX_EDGES * bytes_per_edge
    assert factor & (factor - 1) == 0
    assert factor == 1 or needed <= free_gib * GIB / 2
    assert factor <= memory_factor(2 * free_gib * GIB, 140 * GIB, 132, bytes_per_edge)


def test_a_wider_model_gets_smaller_batches_where_memory_is_short():
    narrow, wide = (memory_factor(8 * GIB, 140 * GIB, 132, PLAIN // 128 * n) for n in (64, 256))
    assert wide < narrow


def test_more_memory_than_keeps_the_card_busy_earns_nothing():
    plenty = memory_factor(1000 * GIB, 1000 * GIB, 132, KERNELS)
    assert plenty == memory_factor(10000 * GIB, 10000 * GIB, 132, KERNELS)
    assert plenty > memory_factor(1000 * GIB, 1000 * GIB, 16, KERNELS)


def test_an_unknown_way_to_batch_is_refused():
    with pytest.raises(ValueError, match="batching: expected auto or table, found 'huge'"):
        batch_sizes("huge")


def test_the_table_is_that_of_the_design():
    assert [(b.name, b.max_atoms, b.batch_size) for b in buckets.TABLE] == [
        ("small", 10, 32),
        ("medium", 30, 16),
        ("large", 100, 8),
        ("very large", None, 4),
    ]
