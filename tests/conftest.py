"""Shared makers and checks. ``make`` draws seeded tensors and forms; ``close`` compares at the
dtype's tolerance.
"""

import gc
import lzma
import os
import resource
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import Tensor

from tests import shapes

shapes.leave_out_what_says_none()  # before anything of bilens is imported

from bilens.algebra import (  # noqa: E402
    CP,
    Dense,
    Factored,
    QuadraticForm,
    ThirdOrder,
    Tucker,
)
from bilens.base.numerics import tolerance  # noqa: E402

if "BILENS_GPU" not in os.environ:  # asked for by the tests of devices alone
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

SHAPED = pytest.StashKey[bool]()
FORMS = ("cp", "symmetric cp", "tucker", "dense")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What was imported stays, near a million objects: collections need not walk through it, of
    which accelerate asks for one in every run of Trainer.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "bad_input: hands over what a signature forbids; runs without jaxtyping's checks"
    )
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Shapes are held against the signatures in the first case of every test and in each eleventh
    after it: checking takes several times as long as what is checked, and the cases of one test
    mostly repeat its shapes. (Eleven shares no factor with numbers of dtypes, forms and layouts.)
    """
    cases = Counter()
    for item in items:
        test, _, _ = item.nodeid.partition("[")
        item.stash[SHAPED] = cases[test] % 11 == 0
        cases[test] += 1


@pytest.fixture(autouse=True)
def _unchecked(request):
    """Let bilens itself meet what jaxtyping would refuse, in tests marked ``bad_input``."""
    marked = request.node.get_closest_marker("bad_input") is not None
    before = jaxtyping.config.jaxtyping_disable
    off = before or marked or not request.node.stash[SHAPED]
    jaxtyping.config.update("jaxtyping_disable", off)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


class Make:
    """Random values from one seed, in one dtype."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def randn(self, *shape: int, grad: bool = False) -> Tensor:
        return (
            torch.randn(shape, generator=self.generator, dtype=torch.float64)
            .to(self.dtype)
            .requires_grad_(grad)
        )

    def cp(self, o: int = 3, i: int = 4, j: int | None = None, h: int = 7) -> CP:
        return CP(self.randn(o, h), self.randn(h, i), self.randn(h, i if j is None else j))

    def tucker(
        self, o: int = 3, i: int = 4, j: int | None = None, ranks: tuple[int, int, int] = (2, 3, 5)
    ) -> Tucker:
        sizes = (o, i, i if j is None else j)
        return Tucker(
            self.randn(*ranks),
            *(self.randn(size, rank) for size, rank in zip(sizes, ranks, strict=True)),
        )

    def dense(self, o: int = 3, i: int = 4, j: int | None = None) -> Dense:
        return Dense(self.randn(o, i, i if j is None else j))

    def form(self, name: str, o: int = 3, i: int = 4, j: int | None = None) -> ThirdOrder:
        if name == "symmetric cp":
            return self.cp(o, i, j).symmetrise()
        return {"cp": self.cp, "tucker": self.tucker, "dense": self.dense}[name](o, i, j)

    def factored(
        self, left: int = 5, middle: int = 3, right: int = 4, batch: tuple[int, ...] = ()
    ) -> Factored:
        return Factored(self.randn(*batch, left, middle), self.randn(*batch, middle, right))

    def quadratic(
        self, size: int = 6, hidden: int = 4, batch: tuple[int, ...] = ()
    ) -> QuadraticForm:
        return QuadraticForm(
            self.randn(*batch, hidden), self.randn(hidden, size), self.randn(hidden, size)
        )

    def spectral(self, *values: float) -> QuadraticForm:
        """The form with exactly these eigenvalues, in a random orthonormal basis."""
        basis = torch.linalg.qr(self.randn(len(values), len(values)))[0]
        return QuadraticForm(torch.tensor(values, dtype=self.dtype), basis, basis)


@pytest.fixture
def make() -> Make:
    return Make()


@pytest.fixture(scope="session")
def maker() -> type[Make]:
    """The class of ``make``, for another seed or dtype."""
    return Make


def _close(
    got: Tensor, truth: Tensor, scale: float | None = None, tol: float | None = None
) -> None:
    """Shapes agree, and entries within ``tol`` (the dtype's) of ``scale`` (the largest entry of the
    truth, 1 for zeros).
    """
    assert got.shape == truth.shape, f"{tuple(got.shape)} != {tuple(truth.shape)}"
    if truth.numel() == 0:
        return
    limit, got, truth = tolerance(got.dtype) if tol is None else tol, got.detach(), truth.detach()
    scale = (float(truth.abs().max()) if scale is None else scale) or 1.0
    off = float((got.double() - truth.double()).abs().max()) / scale
    assert off <= limit, f"off by {off:.3g} of the largest term, allowed {limit:.3g}"


@pytest.fixture(scope="session")
def close():
    return _close


def _cube(form: ThirdOrder) -> Tensor:
    """The float64 cube by explicit einsum over the form's own fields."""
    match form.to(torch.float64).detach():
        case CP(out, left, right):
            return torch.einsum("oh,hi,hj->oij", out, left, right)
        case Tucker(core, out, left, right):
            return torch.einsum("abc,oa,ib,jc->oij", core, out, left, right)
        case Dense(array):
            return array
    raise AssertionError(form)


@pytest.fixture(scope="session")
def cube():
    return _cube


def _matrix(form: QuadraticForm) -> Tensor:
    """The float64 symmetric matrix of a quadratic form by explicit einsum."""
    form = form.to(torch.float64).detach()
    half = torch.einsum("...h,...hi,...hj->...ij", form.weights, form.left, form.right)
    return (half + half.mT) / 2


@pytest.fixture(scope="session")
def matrix():
    return _matrix


@pytest.fixture(params=FORMS)
def form_name(request) -> str:
    return request.param


@pytest.fixture
def write(tmp_path):
    """Write a text, packed where its name ends so; its path."""

    def to(name, raw):
        raw = raw if isinstance(raw, bytes) else raw.encode()
        (tmp_path / name).write_bytes(lzma.compress(raw) if name.endswith(".xz") else raw)
        return str(tmp_path / name)

    return to


@pytest.fixture(scope="session")
def shared():
    """A folder of data that lies beside the project on some machines: ``shared("two-qk")``. A test
    that asks for it is skipped where it is not there.
    """

    def folder(name):
        found = Path(__file__).parents[2] / "shared" / "data" / name
        if not found.is_dir():
            pytest.skip(f"needs ../shared/data/{name}, which is not here")
        return found

    return folder


@pytest.fixture(scope="session")
def largest_file():
    """No file grows larger than ``size`` bytes in this block, as on a disk that is full."""

    @contextmanager
    def limited(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def refuses():
    """Check that a call raises ``kind`` with a text in the house grammar that holds each of
    ``texts``.
    """

    def check(kind, call, *texts):
        with pytest.raises(kind) as caught:
            call()
        assert type(caught.value) is kind
        for text in (" must ", "; got ", *texts):
            assert text in str(caught.value)

    return check
