"""Every version of every operator means what the plain one means in float64."""

import importlib
from pathlib import Path

import pytest
import torch

from mlff_core.ops import OPERATORS
from mlff_core.ops.case import numba_steps, plain_steps, triton_steps, twice_steps
from mlff_core.testing import script_at

SCRIPT = Path(__file__).with_name("run_contract_interpreted.py")
#: How far a version may be from float64, in units of what plain PyTorch in float32 is, and relative
#: to the result. The slope of what a CPU interpolates is good to some 1e-6 (test_filters.py);
#: training keeps filters in float16 and their gradients in bfloat16.
LIMITS = {"numba": (2.0, 1e-5), "triton": (2.0, 2e-6), "twice": (2.0, 1e-3)}
#: Versions of one operator, by the name of the backend; every operator has a plain one.
VERSIONS = [
    (backend, operator)
    for operator, versions in OPERATORS.items()
    for backend in LIMITS
    if getattr(versions, backend) is not None
]


CASES = script_at(SCRIPT)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory, interpret):
    out = tmp_path_factory.mktemp("contract") / "results.pt"
    interpret(SCRIPT, out)
    return torch.load(out)


@pytest.fixture(scope="module", params=list(CASES.SIZES))
def sizes(request):
    return request.param


@pytest.fixture(scope="module")
def plain(sizes):
    """Plain PyTorch in float64 and in float32."""
    case = CASES.case_of(sizes)
    exact = case.in_float64()
    with torch.no_grad():
        return CASES.results(plain_steps(exact), exact), CASES.results(plain_steps(case), case)


@pytest.fixture(scope="module")
def compiled(sizes):
    case = CASES.case_of(sizes)
    with torch.no_grad():
        return CASES.results(numba_steps(case), case)


def hold(found, expected, in_float32, limits):
    """A version's results to float64."""
    times, relative = limits
    for value, exact, rounded in zip(found, expected, in_float32, strict=True):
        assert value.shape == exact.shape
        if not exact.is_floating_point():
            assert torch.equal(value, exact)
            continue
        error, plain_error = (float((x.double() - exact).norm()) for x in (value, rounded))
        assert error <= times * plain_error + relative * float(exact.norm()) + 1e-9


@pytest.mark.parametrize(("backend", "operator"), VERSIONS)
def test_a_version_of_an_operator_means_what_the_plain_one_means(
    backend, operator, sizes, plain, compiled, interpreted
):
    exact, rounded = plain
    found = compiled if backend == "numba" else interpreted[backend, sizes]
    hold(found[operator], exact[operator], rounded[operator], LIMITS[backend])
    if sizes != "empty":
        assert all(x.abs().max() > 0 for x in exact[operator])


@pytest.mark.parametrize("n_features", [5, 37])
def test_compiled_versions_take_any_width(n_features):
    case = CASES.case_of("odd", n_features)
    exact = case.in_float64()
    with torch.no_grad():
        expected = CASES.results(plain_steps(exact), exact)
        rounded = CASES.results(plain_steps(case), case)
        found = CASES.results(numba_steps(case), case)
    for operator in OPERATORS:
        hold(found[operator], expected[operator], rounded[operator], LIMITS["numba"])


@pytest.mark.parametrize("operator", ["message_fwd", "message_bwd"])
def test_second_derivatives_are_those_of_plain_pytorch_in_float64(operator, interpreted):
    expected = CASES.second_gradients(plain_steps, CASES.case_of("odd").in_float64())[operator]
    for found, exact in zip(interpreted["second"][operator], expected, strict=True):
        assert exact.norm() > 0
        assert float((found.double() - exact).norm()) <= 8e-3 * float(exact.norm())


def test_every_version_that_is_named_is_there():
    for versions in OPERATORS.values():
        for place in vars(versions).values():
            if place is not None:
                module, name = place.split(":")
                found = importlib.import_module(f"mlff_core.ops.{module}")
                for part in name.split("."):
                    found = getattr(found, part)
                assert callable(found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("backend", "make"), [("triton", triton_steps), ("twice", twice_steps)])
@pytest.mark.parametrize("n_features", [128, 256])
def test_compiled_kernels_mean_what_plain_pytorch_means(backend, make, n_features):
    case = CASES.case_of("odd", n_features, "cuda")
    exact = case.in_float64()
    with torch.no_grad():
        expected = CASES.results(plain_steps(exact), exact)
        rounded = CASES.results(plain_steps(case), case)
        found = CASES.results(make(case), case)
    times, relative = LIMITS[backend]
    for operator, versions in OPERATORS.items():
        if getattr(versions, backend) is not None:
            # Matrix units cut off where float32 rounds.
            limits = (2 * times, relative)
            hold(found[operator], expected[operator], rounded[operator], limits)
