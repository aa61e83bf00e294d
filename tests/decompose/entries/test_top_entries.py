"""The largest entries against the dense cube: exact, certified, with ties, under a budget."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilens.algebra import CP, Factored
from bilens.base.errors import ArgumentError, NotFiniteError, RangeError, ShapeError
from bilens.decompose import TopEntries, top_entries
from bilens.decompose.entries import readings


def check(found: TopEntries, dense, k, allowed=None):
    """``found`` lists entries of ``dense`` once each, at their values, and their sizes are the k
    largest.
    """
    sizes = (dense.abs() if allowed is None else dense.abs()[allowed]).flatten()
    k = min(k, len(sizes))
    largest = sizes.sort(descending=True).values
    scale = max(float(largest[0]), 1e-300)
    assert len({tuple(row) for row in found.indices.tolist()}) == len(found.values) == k
    assert float((found.values - dense[tuple(found.indices.mT)]).abs().max()) <= 1e-12 * scale
    assert float((found.values.abs() - largest[:k]).abs().max()) <= 1e-12 * scale
    assert found.complete
    assert found.certificate <= float(found.values[-1].abs()) + 1e-12 * scale
    computed = found.looked_at
    if computed < len(sizes):  # no more than all but the computed ones can be below the certificate
        assert float(largest[min(computed, len(sizes) - 1)]) <= found.certificate + 1e-12 * scale


def both_orders(dense):
    """T_oij + T_oji for i < j and T_oii; and which are pairs."""
    sums = dense + dense.mT
    sums.diagonal(dim1=1, dim2=2).mul_(0.5)
    return sums, torch.ones_like(dense, dtype=torch.bool).triu()


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 4),
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.5]),
    st.booleans(),
)
def test_a_cp_has_the_entries_of_its_cube(maker, cube, sizes, k, seed, spread, small_blocks):
    make = maker(seed=seed)
    o, i, j, h = sizes
    T = make.cp(o, i, j, h)
    T = CP(
        T.out * torch.exp(spread * make.randn(o, 1)),
        T.left * torch.exp(spread * make.randn(i)),
        T.right,
    )
    check(top_entries(T, k, max_bytes=40 if small_blocks else 2**30), cube(T), k)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 40), st.integers(0, 10**6))
def test_unordered_pairs_of_the_symmetric_part(maker, cube, sizes, k, seed):
    o, i, h = sizes
    T = maker(seed=seed).cp(o, i, i, h)
    S, upper = both_orders(cube(T))
    found = top_entries(T, k, symmetric=True)
    assert bool((found.indices[:, 1] <= found.indices[:, 2]).all())
    check(found, S, k, upper)
    assert found.size == int(upper.sum())
    assert found.symmetric


def test_a_tensor_that_is_the_same_with_its_inputs_swapped_has_unordered_pairs(make, cube):
    """However it is written; each order by itself where that is asked for, or where T is not."""
    T, turn = make.cp(3, 5, h=4), make.randn(5, 5)
    S = T.symmetrise()
    alike = (
        CP(T.out, T.left, T.left),
        S,
        S + (S * 2.0),
        S.map(left=turn, right=turn),
        CP(S.out, S.right, S.left * 0.5),
    )
    for one in (*alike, S.to(torch.float32), T.to(torch.bfloat16).symmetrise()):
        found = top_entries(one, 20)
        sums, upper = both_orders(cube(one))
        check(found, sums, 20, upper)
        assert set(found.rows()[0]) == {"out", "left", "right", "value of both orders"}
        assert "pairs, both orders summed" in found.summary()
    check(top_entries(S, 20, symmetric=False), cube(S), 20)
    assert "value" in top_entries(S, 1, symmetric=False).rows()[0]
    for ordered in (T, T - T.swap(), make.cp(3, 400, h=300), S.map(right=turn), make.cp(3, 5, 6)):
        assert not top_entries(ordered, 2).symmetric


def test_what_pairs_add_up_to_is_the_layer(make):
    """All pairs of one output, each times its product of inputs, are that output."""
    T, x = make.cp(1, 6), make.randn(6)
    found = top_entries(T, 21, symmetric=True)
    _, i, j = found.indices.mT
    torch.testing.assert_close((found.values * x[i] * x[j]).sum(), T(x)[0], rtol=1e-12, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 3), st.integers(1, 40), st.integers(0, 10**6))
def test_a_matrix(maker, sizes, k, seed):
    F = maker(seed=seed).factored(*sizes)
    found = top_entries(F, k)
    check(found, F.dense(), k)
    assert found.modes == ("row", "column")


def skewed(make) -> CP:
    """A large one whose entries differ as a vocabulary's do, so that bounds skip something."""
    T = make.cp(60, 300, h=40)
    sizes = torch.linspace(1, 9, 300, dtype=torch.float64).pow(-1.5)
    return CP(
        T.out * torch.linspace(1, 0.1, 60, dtype=torch.float64)[:, None],
        T.left * sizes,
        T.right * sizes,
    )


def test_most_of_a_large_one_is_skipped(make, cube):
    T = skewed(make)
    found = top_entries(T, 5)
    check(found, cube(T), 5)
    assert found.looked_at < found.size / 20
    assert found.certificate > 0
    assert "exact" in found.summary()


def test_rows_that_are_asked_for(make, cube):
    T = make.cp(8, 5, 4, 6)
    found = top_entries(T, 12, rows=[6, 1])
    mask = torch.zeros(8, 5, 4, dtype=torch.bool)
    mask[[6, 1]] = True
    check(found, cube(T), 12, mask)
    F = make.factored(7, 3, 6)
    check(
        top_entries(F, 9, rows=torch.tensor([5, 0, 2])),
        F.dense(),
        9,
        torch.tensor([1, 0, 1, 0, 0, 1, 0]).bool(),
    )


def test_entries_that_tie_are_listed_once_each(cube):
    """Ones and zeros: many ties at every place."""
    g = torch.Generator().manual_seed(0)
    for k in (1, 5, 17, 60, 200):
        T = CP(
            *(
                torch.randint(0, 2, shape, generator=g).double()
                for shape in ((5, 2), (2, 6), (2, 6))
            )
        )
        check(top_entries(T, k), cube(T), k)
        sums, upper = both_orders(cube(T))
        check(top_entries(T, k, symmetric=True), sums, k, upper)


def test_zeros(make):
    T = make.cp() * 0.0
    found = top_entries(T, 3)
    assert found.values.tolist() == [0, 0, 0]
    assert len({tuple(row) for row in found.indices.tolist()}) == 3
    assert found.complete


def test_cancellation_does_not_fool_the_bounds(make, cube):
    """Two huge terms that cancel to a small tensor: bounds come from what is left, and rounding is
    allowed for.
    """
    T = make.cp(6, 30, h=4)
    big = make.cp(6, 30, h=1) * 1e5
    both = T + big + CP(-big.out, big.left, big.right)
    found = top_entries(both, 4)
    exact = cube(T).abs().flatten().sort(descending=True).values[:4]
    torch.testing.assert_close(found.values.abs(), exact, rtol=1e-8, atol=0)


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(st.integers(10, 40), st.integers(20, 60), st.integers(20, 60)),
    st.integers(0, 12),
    st.integers(1, 30),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.7, 2.0]),
    st.sampled_from([1, 3, 40]),
)
def test_few_dimensions_behind_many_entries(maker, cube, sizes, r, k, seed, spread, outputs):
    """Where cores are worth making: with rows of all sizes, and outputs that span less than there
    are, or do not.
    """
    make = maker(seed=seed)
    (o, i, j), h = sizes, 15
    left, right = (
        make.randn(h, r) @ make.randn(r, size) * torch.exp(spread * make.randn(size))
        for size in (i, j)
    )
    T = CP(make.randn(o, outputs) @ make.randn(outputs, h), left, right)
    check(top_entries(T, k), cube(T), k)
    check(top_entries(T, k, max_bytes=2000), cube(T), k)


def test_pairs_of_a_tensor_that_is_symmetric_already(maker, cube):
    T = maker(seed=3).cp(20, 30, h=6)
    S, (sums, upper) = T.symmetrise(), both_orders(cube(T))
    for one in (T, S, S.symmetrise()):
        check(top_entries(one, 25, symmetric=True), sums, 25, upper)


def test_rank_0(make):
    T = CP(torch.zeros(2, 0), torch.zeros(0, 3), torch.zeros(0, 4))
    found = top_entries(T, 5)
    assert found.values.tolist() == [0.0] * 5
    assert found.complete
    assert len({tuple(row) for row in found.indices.tolist()}) == 5


@pytest.mark.parametrize("power", [-240, -40, 40, 240])
def test_sizes_that_float32_cannot_hold(maker, cube, refuses, power):
    T = maker(seed=5).cp(12, 40, h=5)
    T = CP(T.out * 10.0**power, T.left, T.right * 10.0 ** (power // 4))
    found = top_entries(T, 9)
    check(found, cube(T), 9)
    # outputs far apart
    T = CP(T.out * torch.logspace(0, -60, 12, dtype=torch.float64)[:, None], T.left, T.right)
    check(top_entries(T, 9), cube(T), 9)
    if power == -240:  # 1e-360
        refuses(
            RangeError,
            lambda: top_entries(T, 9, rows=[11]),
            "in the range of float64; got about 1e-3",
        )
    else:
        assert top_entries(T, 9, rows=[11]).complete


@pytest.mark.parametrize("side", [12, 60])
def test_entries_closer_than_float32_tells_apart(side):
    """Sizes 1 + n · 1e-12: their order is found in float64, one by one or, where too many are
    candidates, by rows.
    """
    order = (
        torch.randperm(side**2, generator=torch.Generator().manual_seed(0))
        .double()
        .view(side, side)
    )
    one = torch.ones(1, side, dtype=torch.float64)
    out = torch.cat([one[:, :1], 1e-12 * one], 1)
    T = CP(out, torch.cat([one, order.mT]), torch.cat([one, torch.eye(side, dtype=torch.float64)]))
    found = top_entries(T, 7)
    assert order[tuple(found.indices[:, 1:].mT)].tolist() == list(
        range(side**2 - 1, side**2 - 8, -1)
    )


def test_less_exact_products_are_not_trusted(make, cube):
    """Where the user lets torch round float32 products more, bounds are taken in float64."""
    T = make.cp(12, 40, h=5)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert readings.plain(T).columns.dtype == torch.float64
        check(top_entries(T, 9), cube(T), 9)
    finally:
        torch.set_float32_matmul_precision(before)
    assert readings.plain(T).columns.dtype == torch.float32


@pytest.mark.parametrize("budget", [1, 50, 5000, 10**9])
def test_a_budget_is_kept_and_what_may_be_missing_is_said(make, cube, budget):
    T = skewed(make)
    found = top_entries(T, 5, budget=budget)
    assert found.looked_at <= max(budget + 300, 300)
    dense = cube(T)
    left_out = dense.abs().clone()
    left_out[tuple(found.indices.mT)] = 0
    if found.complete:
        check(found, dense, 5)
    else:
        assert float(left_out.max()) <= max(found.certificate, float(found.values[-1].abs())) * (
            1 + 1e-12
        )
        assert "others may reach" in found.summary()
    assert found.complete == (budget == 10**9) or found.certificate <= float(found.values[-1].abs())


@pytest.mark.parametrize(("outputs", "budget"), [(50, 300), (50, 5000), (1, 300)])
def test_a_budget_where_nothing_can_be_skipped(make, cube, outputs, budget):
    T = make.cp(outputs, 30, 30, 90)
    found, dense = top_entries(T, 5, budget=budget), cube(T).abs()
    assert budget <= found.looked_at <= budget + 300
    assert not found.complete
    dense[tuple(found.indices.mT)] = 0
    assert float(dense.max()) <= found.certificate


def test_a_budget_below_k_is_not_complete(make):
    found = top_entries(make.cp(3, 4, h=5), 48, budget=10)
    assert not found.complete
    assert len(found.values) < 48
    assert top_entries(make.cp(3, 4, h=5), 99).complete  # all there are


def test_names_and_table(make, tmp_path):
    T = make.cp(2, 3, 3)
    found = top_entries(T, 4, names={"left": ["a", "b", "c"], "out": ["A", "B"]})
    row, index = found.rows()[0], found.indices[0].tolist()
    assert row == {
        "out": "AB"[index[0]],
        "left": "abc"[index[1]],
        "right": index[2],
        "value": float(found.values[0]),
    }
    assert list(found.to_frame().columns) == ["out", "left", "right", "value"]
    assert top_entries(make.cp(3, 3), 2, names="xyz").rows()[0]["out"] in "xyz"
    (bars,), layout = found.figure()["data"], found.figure()["layout"]
    assert (bars["x"], bars["y"], bars["orientation"]) == (found.values.tolist(), [0, 1, 2, 3], "h")
    assert layout["yaxis"]["ticktext"][0] == f"{row['left']}, {row['right']} → {row['out']}"
    assert layout["yaxis"]["autorange"] == "reversed"
    assert layout["xaxis"]["title"]["text"] == "value"
    found.save(tmp_path / "t.safetensors")
    assert TopEntries.load(tmp_path / "t.safetensors").rows() == found.rows()


def test_other_dtypes_are_searched_in_float64(make, cube):
    T = make.cp(4, 5).to(torch.float32)
    check(top_entries(T, 6), cube(T), 6)
    check(top_entries(T.to(torch.bfloat16), 6), cube(T.to(torch.bfloat16)), 6)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"k": 0}, ArgumentError, "k must be a whole number ≥ 1; got 0"),
        ({"k": 2.5}, ArgumentError, "k must be a whole number ≥ 1; got 2.5"),
        ({"budget": 0}, ArgumentError, "budget must be a whole number ≥ 1; got 0"),
        (
            {"rows": [3]},
            ArgumentError,
            "rows must be different indices 0 … 2 of out, at least one; got [3]",
        ),
        ({"rows": []}, ArgumentError, "rows must be different indices"),
        ({"rows": [1, 1]}, ArgumentError, "rows must be different indices"),
        (
            {"names": {"row": "abc"}},
            ArgumentError,
            "names must be by mode: out, left, right; got row",
        ),
        ({"names": "ab"}, ShapeError, "names of out must name all 3 entries; got 2"),
        (
            {"T": CP(*[torch.full((2, 2), torch.nan)] * 3)},
            NotFiniteError,
            "top_entries.out must be finite",
        ),
        (
            {"T": CP(torch.ones(2, 1), torch.ones(1, 2), torch.ones(1, 3)), "symmetric": True},
            ShapeError,
            "one size",
        ),
        (
            {"T": Factored(torch.ones(2, 1), torch.ones(1, 2)), "symmetric": True},
            ArgumentError,
            "symmetric must be asked of",
        ),
        (
            {"T": Factored(torch.ones(2, 1), torch.ones(1, 2)), "names": {"out": "ab"}},
            ArgumentError,
            "row, column; got out",
        ),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_is_refused(refuses, make, change, kind, text):
    refuses(kind, lambda: top_entries(**{"T": make.cp(3, 4), "k": 2} | change), text)
