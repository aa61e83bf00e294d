"""What a tensor in factors shows in a notebook, against its dense entries."""

import pytest
import torch

import bilens
from bilens.algebra import CP, Dense, Factored, QuadraticForm, Tucker
from bilens.base.errors import ShapeError
from bilens.base.results import Tabled
from bilens.measure import Gaussian


def test_units_by_strength(make):
    T = make.cp(3, 4, h=5)
    frame = T.to_frame()
    sizes = torch.einsum("oh,hi,hj->hoij", T.out, T.left, T.right).flatten(1).norm(dim=1)
    assert frame["strength"].tolist() == pytest.approx(sizes.sort(descending=True)[0].tolist())
    assert frame["unit"].tolist() == sizes.argsort(descending=True).tolist()
    assert frame["share"].sum() == pytest.approx(1)
    first = frame.iloc[0]
    h = int(first["unit"])
    cosine = torch.cosine_similarity(T.left[h], T.right[h], dim=0)
    assert first["cosine"] == pytest.approx(float(cosine))
    assert first["out"] == int(T.out[:, h].abs().argmax())
    figure = T.figure()
    assert figure["data"][0]["x"] == frame["strength"].tolist()
    assert figure["layout"]["title"]["text"] == "The 5 strongest of 5 hidden units"
    assert make.cp(3, 4, 5).to_frame()["cosine"].isna().all()  # of two spaces
    assert list(bilens.CP(*(torch.zeros(s) for s in ((2, 0), (0, 3), (0, 3)))).to_frame())
    tiny = (T * 1e-300).to_frame()
    assert tiny["share"].tolist() == pytest.approx(frame["share"].tolist())
    for power in (400, -400):  # of which no product is in range
        apart = 2.0 ** torch.tensor([power, 0, power, 0, 0], dtype=torch.float64)[:, None]
        far = CP(T.out * 2.0**power, T.left * 2.0**power * apart, T.right * 2.0**power / apart)
        frame_of = far.to_frame()
        for column in ("share", "cosine"):
            assert frame_of[column].tolist() == pytest.approx(frame[column].tolist())


def test_units_of_forms_by_value(make):
    Q = make.quadratic(4, 3, batch=(2,))
    frame = Q.to_frame()
    lengths = Q.left.norm(dim=1) * Q.right.norm(dim=1)
    truth = (Q.weights * lengths).flatten()
    assert sorted(frame["value"]) == pytest.approx(sorted(truth.tolist()))
    assert frame["value"].abs().is_monotonic_decreasing
    assert list(frame) == ["of", "unit", "value", "cosine"]
    assert list(make.quadratic(4, 3).to_frame()) == ["unit", "value", "cosine"]
    far = QuadraticForm(Q.weights * 2.0**900, Q.left * 2.0**-900, Q.right)
    assert far.to_frame()["value"].tolist() == pytest.approx(frame["value"].tolist())


def test_matrices_by_singular_value(make):
    F = make.factored(batch=(2,))
    values = torch.linalg.svdvals(F.a @ F.b)[:, : F.mdim]
    frame = F.to_frame()
    assert frame["singular value"].tolist() == pytest.approx(values.flatten().tolist())
    assert frame.groupby("of")["share"].sum().tolist() == pytest.approx([1, 1])
    assert list(make.factored().to_frame()) == ["component", "singular value", "share"]
    for sizes in ((4, 0, 5), (0, 3, 4), (4, 3, 0)):
        assert len(make.factored(*sizes, batch=(2,)).to_frame()) == 0


def test_cores_by_entry(make):
    T = make.tucker()
    first = T.to_frame().iloc[0]
    assert abs(first["value"]) == pytest.approx(float(T.core.abs().max()))
    at = (int(first[mode]) for mode in ("out", "left", "right"))
    assert first["value"] == pytest.approx(float(T.core[tuple(at)]))


@pytest.mark.parametrize("name", ["cp", "tucker", "quadratic", "factored"])
def test_tensors_print_in_a_line_and_show_a_table(make, name):
    tensor = getattr(make, name)()
    assert isinstance(tensor, Tabled)
    assert "\n" not in repr(tensor)
    html = tensor._repr_html_()
    assert html.startswith(f"<p><b>{type(tensor).__name__}</b>: ")
    words = " ".join((type(tensor).__doc__ or "").split())
    assert not [column for column in tensor.to_frame() if f"``{column}``" not in words]


FORM = (3,), (3, 4), (3, 4)
META = {
    "CP": CP(*(torch.zeros(s, device="meta") for s in ((3, 4), (4, 5), (4, 5)))),
    "Dense": Dense(torch.zeros(3, 4, 4, device="meta")),
    "Tucker": Tucker(*(torch.zeros(s, device="meta") for s in ((2, 2, 2), (3, 2), (4, 2), (4, 2)))),
    "QuadraticForm": QuadraticForm(*(torch.zeros(s, device="meta") for s in FORM)),
    "Factored": Factored(torch.zeros(3, 4, device="meta"), torch.zeros(4, 5, device="meta")),
    "Gaussian": Gaussian(torch.zeros(3, device="meta"), torch.zeros(3, 3, device="meta")),
}
ASKED = {
    "save": lambda tensor, place: tensor.save(place),
    "to_frame": lambda tensor, _: tensor.to_frame(),
    "plot": lambda tensor, _: tensor.plot(),
    "norm": lambda tensor, _: tensor.norm(),
    "root": lambda tensor, _: tensor.root,
    "factor": lambda tensor, _: tensor.factor,
    "sample": lambda tensor, _: tensor.sample(3),
}


@pytest.mark.parametrize("kind", META)
def test_what_has_no_values_is_shown_and_says_so(kind, tmp_path, refuses):
    """A cell of a notebook that ends in it is no traceback."""
    tensor = META[kind]
    assert kind in repr(tensor)
    if hasattr(tensor, "_repr_html_"):
        assert kind in tensor._repr_html_()
    for name, ask in ASKED.items():
        if hasattr(tensor, name) if name not in ("root", "factor") else kind == "Gaussian":
            refuses(ShapeError, lambda ask=ask: ask(tensor, tmp_path / "x"), "must hold values")
    assert not list(tmp_path.iterdir())
