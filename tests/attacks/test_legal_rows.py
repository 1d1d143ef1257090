"""Legal rows of any table, their coordinates, and the way back."""

import numpy as np
import pytest

from skpoison.attacks._legal_rows import LegalRows, _onto_simplex


def _frame(n=40, seed=0):
    """A pandas frame with every kind of column."""
    pd = pytest.importorskip("pandas")
    rng = np.random.RandomState(seed)
    bits = np.eye(4, dtype=int)[rng.randint(0, 4, n)][:, :3]  # the fourth: all 0
    frame = pd.DataFrame(
        {
            "x": rng.randn(n),
            "x32": rng.randn(n).astype("float32"),
            "count": rng.randint(0, 9, n),
            "byte": rng.randint(0, 256, n).astype("uint8"),
            "gap": np.where(rng.rand(n) < 0.3, np.nan, rng.rand(n)),
            "whole": rng.randint(-3, 4, n).astype(float),
            "code": rng.randint(0, 3, n),
            "flag": rng.rand(n) < 0.5,
            "text": np.array(["ant", "bee", "cat", "dog"], dtype=object)[
                rng.randint(0, 4, n)
            ],
            "red": bits[:, 0],
            "green": bits[:, 1].astype(bool),
            "blue": bits[:, 2].astype(float),
            "id": [f"row {i}" for i in range(n)],
        },
        index=np.arange(100, 100 + n),
    )
    frame["level"] = pd.Categorical(
        rng.choice(["low", "high"], n), ["low", "mid", "high"], ordered=True
    )
    frame["when"] = pd.Timestamp("2020-01-01", tz="UTC") + pd.to_timedelta(
        rng.randint(0, 3, n), unit="D"
    )
    frame["Int"] = pd.array(
        [None if i % 7 == 0 else int(rng.randint(5)) for i in range(n)], dtype="Int16"
    )
    frame["Float"] = pd.array(
        [None if i % 5 == 0 else rng.rand() for i in range(n)], dtype="Float32"
    )
    frame["Bool"] = pd.array(
        [None if i % 6 == 0 else bool(rng.rand() < 0.5) for i in range(n)],
        dtype="boolean",
    )
    frame["name"] = pd.array(
        [None if i % 4 == 0 else "ab"[rng.randint(2)] for i in range(n)],
        dtype="string",
    )
    frame["sparse"] = pd.arrays.SparseArray(np.where(rng.rand(n) < 0.6, 0.0, 2.5))
    return frame


FRAME_ROLES = {
    "mutable": [
        *("x", "x32", "count", "byte", "gap", "whole", "code", "flag", "text", "red"),
        *("green", "blue", "level", "when", "Int", "Float", "Bool", "name", "sparse"),
    ],
    "integer": ["whole"],
    "categorical": ["code"],
    "one_hot": [["red", "green", "blue"]],
}


def _tables():
    rng = np.random.RandomState(0)
    X = rng.randn(40, 6)
    yield "float64", X, {}
    yield "float32", X.astype("float32"), {}
    yield "fortran", np.asfortranarray(X), {}
    yield "uint8", rng.randint(0, 256, (40, 5)).astype("uint8"), {}
    yield "int64", rng.randint(-9, 9, (40, 5)), {"bounds": (-20, 20)}
    yield "unbounded", X, {"bounds": None}
    yield (
        "int8 unbounded",
        rng.randint(-100, 100, (40, 3)).astype("int8"),
        {"bounds": None},
    )
    gaps = np.where(rng.rand(40, 6) < 0.3, np.nan, X)
    gaps[3, 1] = np.inf
    yield "gaps", gaps, {}
    yield "constant", np.c_[X[:, :2], np.full(40, 2.5), np.full(40, np.nan)], {}
    yield "immutable", X, {"mutable": [0, -1]}
    yield "mask", X, {"mutable": np.arange(6) % 2 == 0}
    yield "nothing", X, {"mutable": []}
    mixed = np.c_[
        X[:, :2], rng.randint(0, 5, (40, 2)), np.eye(3)[rng.randint(0, 3, 40)]
    ]
    roles = {"integer": [2], "categorical": [3], "one_hot": [[4, 5, 6]]}
    yield "roles", mixed, roles
    yield "roles float32", mixed.astype("float32"), roles
    yield "half-open", X, {"bounds": (-np.inf, X.max(axis=0) + 1)}
    cells = np.empty((40, 4), dtype=object)
    cells[:, 0] = X[:, 0].tolist()
    cells[:, 1] = rng.randint(0, 5, 40).tolist()
    cells[:, 2] = [["u", "v", None][i] for i in rng.randint(0, 3, 40)]
    cells[:, 3] = [None if i % 5 == 0 else float(i) for i in range(40)]
    yield "object", cells, {}
    yield "text", np.array(list("abcd" * 30)).reshape(40, 3), {}
    yield "bool", rng.rand(40, 3) < 0.5, {}


def _same(one, other):
    """Cells and types are equal, NaN included."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif hasattr(one, "iloc"):
        import pandas as pd

        pd.testing.assert_frame_equal(one, other, check_exact=True)
    else:
        assert one.equals(other) and one.dtypes == other.dtypes


def _check_table(X, params):
    """What must hold for any table."""
    legal = LegalRows(X, **params)
    take = getattr(X, "iloc", X)
    rows = take[np.arange(7)]
    before = rows.copy() if hasattr(rows, "copy") else rows.clone()
    Z = legal.relax(rows)
    assert Z.shape == (7, legal.n_coordinates) and np.isfinite(Z).all()
    assert legal.is_legal(rows).all() and legal.is_legal(X).all()
    _same(legal.decode(Z, rows), before)
    np.testing.assert_array_equal(legal.project(Z), Z)
    rng = np.random.RandomState(1)
    for size in (0.02, 0.3, 3.0):
        moved = legal.project(Z + size * rng.randn(*Z.shape))
        np.testing.assert_allclose(legal.project(moved), moved, atol=1e-12)
        out = legal.decode(moved, rows)
        assert legal.is_legal(out).all()
        assert type(out) is type(rows)
        # what has been decoded is a legal start too
        _same(legal.decode(legal.relax(out), out), out)
        if isinstance(out, np.ndarray):
            assert out.dtype == X.dtype
        else:
            assert list(out.dtypes) == list(X.dtypes)
    # outside the box decode cuts off
    assert legal.is_legal(legal.decode(Z + 5 * rng.randn(*Z.shape), rows)).all()
    _same(rows, before)  # never written to
    return legal, rows, out


@pytest.mark.parametrize("name, X, params", list(_tables()), ids=lambda v: str(v)[:14])
def test_arrays(name, X, params):
    legal, rows, out = _check_table(X, params)
    fixed = np.ones(X.shape[1], dtype=bool)
    if params.get("mutable") is not None:
        fixed[params["mutable"]] = False
        assert (out[:, fixed] == rows[:, fixed]).all()
    if X.dtype.kind == "f":
        assert (np.isnan(out) == np.isnan(rows)).all()
    assert legal.n_mobile <= legal.n_coordinates


def test_frames():
    frame = _frame()
    legal, rows, out = _check_table(frame, FRAME_ROLES)
    assert (out["id"] == rows["id"]).all() and (out.index == rows.index).all()
    assert (out.isna() == rows.isna()).all().all()
    changed = {c for c in out if not out[c].equals(rows[c])}
    assert changed | {"red", "green", "blue"} == set(out) - {"id"}
    assert set(out["level"]) <= {"low", "high"}  # "mid" is never seen
    assert (out[["red", "green", "blue"]].astype(float).sum(axis=1) <= 1).all()
    names = {frame.columns[j]: v for j, v in legal.categories.items()}
    assert names["text"] == ["ant", "bee", "cat", "dog"] and names["code"] == [0, 1, 2]
    assert names["name"] == ["a", "b"] and names["Bool"] == [False, True]
    assert names["id"] == [] and "red" not in names and "green" not in names
    assert legal.n_coordinates == 12 + 3 + 2 + 4 + 2 + 3 + 2 + 2


def test_arrow_frames():
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = _frame()[["x", "x32", "count", "gap", "flag", "text", "Int", "name"]]
    _check_table(frame.convert_dtypes(dtype_backend="pyarrow"), {})
    dates = pd.DataFrame({"d": pd.to_datetime(["2020-01-01", "2021-01-01"] * 9)})
    _check_table(dates.convert_dtypes(dtype_backend="pyarrow"), {})


def test_polars_frames():
    pl = pytest.importorskip("polars")
    frame = _frame()
    columns = ["x", "x32", "count", "byte", "gap", "whole", "code", "flag", "text"]
    table = {c: frame[c].tolist() for c in [*columns, "red", "green", "blue", "id"]}
    table = pl.DataFrame(table).with_columns(
        pl.col("x32").cast(pl.Float32),
        pl.col("byte").cast(pl.UInt8),
        pl.col("gap").fill_nan(None),
        level=pl.Series(frame["level"].tolist(), dtype=pl.Categorical),
        maybe=pl.Series([None if i % 3 == 0 else i % 4 for i in range(40)]),
        day=pl.Series([f"2020-01-0{1 + i % 5}" for i in range(40)]).str.to_date(),
        price=pl.Series([f"{i % 4}.50" for i in range(40)]).cast(pl.Decimal(9, 2)),
    )
    wanted = [c for c in FRAME_ROLES["mutable"] if c in table.columns]
    roles = FRAME_ROLES | {"mutable": [*wanted, "maybe", "day", "price"]}
    _, rows, out = _check_table(table, roles)
    assert out["id"].equals(rows["id"]) and out["gap"].null_count() > 0
    assert not out["day"].equals(rows["day"])


def test_unit_is_the_range():
    X = np.array([[0.0, 10.0], [4.0, 30.0]])
    for bounds in ("data", None):
        np.testing.assert_array_equal(
            LegalRows(X, bounds=bounds).relax(X), [[0, 0], [1, 1]]
        )
    legal = LegalRows(X, bounds=([-4.0, 0.0], [4.0, 40.0]))
    np.testing.assert_array_equal(legal.relax(X), [[0.5, 0.25], [1, 0.75]])
    np.testing.assert_array_equal(legal.decode(np.array([[0, 0.5]]), X[:1]), [[-4, 20]])
    assert LegalRows(X, bounds=None).decode(np.array([[2.0, -1]]), X[:1]).tolist() == [
        [8, -10]
    ]


def test_bounds_hold_exactly_in_single_precision():
    rng = np.random.RandomState(0)
    X = (rng.rand(50, 4) * 0.3 + 0.35).astype(np.float32)
    legal = LegalRows(X, bounds=(0.1, 0.7))
    out = legal.decode(10 * rng.randn(50, 4), X)
    assert out.dtype == np.float32
    assert out.min() == np.float32(0.1) and out.max() == np.float32(0.7)
    data = LegalRows(X)
    out = data.decode(10 * rng.randn(50, 4), X)
    np.testing.assert_array_equal(out.max(axis=0), X.max(axis=0))
    np.testing.assert_array_equal(out.min(axis=0), X.min(axis=0))


def test_whole_numbers_stay_inside_bounds_and_type():
    X = np.arange(8).reshape(4, 2) + 1
    legal = LegalRows(X, bounds=(0.5, 8.7))
    Z = np.array([[-9.0, 9.0]])
    assert legal.decode(Z, X[:1]).tolist() == [[1, 8]]
    with pytest.raises(ValueError, match="hold no whole number for column 0"):
        LegalRows(np.ones((3, 2), int), bounds=(1.2, 1.8))
    huge = np.array([[2**63 - 1, 0], [-(2**63), 2**53 + 1]])
    for bounds in ("data", None):
        legal = LegalRows(huge, bounds=bounds)
        assert (legal.decode(legal.relax(huge), huge) == huge).all()
        out = legal.decode(np.full((1, 2), 3.0), huge[1:])
        assert out[0, 0] > 2**62 and out[0, 1] >= 2**53
    byte = LegalRows(np.array([[3], [7]], dtype=np.uint8), bounds=None)
    start = np.array([[5], [5]], dtype=np.uint8)
    assert byte.decode(np.array([[-90.0], [90.0]]), start).tolist() == [[0], [255]]


def test_one_hot_rule():
    X = np.eye(3)
    legal = LegalRows(X, one_hot=[[0, 1, 2]])
    start = X[[0] * 4]
    Z = np.array([[0.24, 0.2, 0.1], [0.26, 0.2, 0.1], [1, 0.2, 0.9], [0.4, 1, 1.5]])
    expected = [[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(legal.decode(Z, start), expected)
    gap = np.array([[1.0, np.nan, 0.0]])
    np.testing.assert_array_equal(legal.decode(Z[3:], gap), gap)


def test_projection_onto_the_simplex():
    from scipy.optimize import minimize

    rng = np.random.RandomState(0)
    V = 2 * rng.randn(30, 4)
    P = _onto_simplex(V)
    assert (P >= 0).all() and np.allclose(P.sum(axis=1), 1)
    for v, p in zip(V[:5], P[:5], strict=True):
        found = minimize(
            lambda q, v=v: ((q - v) ** 2).sum(),
            np.full(4, 0.25),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
        )
        np.testing.assert_allclose(p, found.x, atol=1e-6)
    assert _onto_simplex(np.zeros((3, 0))).shape == (3, 0)


def test_gradients_follow_the_coordinates():
    rng = np.random.RandomState(0)
    X = np.c_[rng.randn(20, 3), rng.randint(0, 3, 20), np.ones(20), rng.randn(20)]
    X[0, 1] = np.nan
    legal = LegalRows(X, mutable=[0, 1, 3, 4], categorical=[3])
    A = rng.randn(X.shape[1])
    gains = rng.randn(20, 3)
    G = legal.pull(np.tile(A, (20, 1)), {3: gains}, X)
    assert G.shape == (20, legal.n_coordinates) == (20, 6) and legal.n_mobile == 3
    scale = np.nanmax(X, axis=0) - np.nanmin(X, axis=0)
    expected = np.tile(A * scale, (20, 1))[:, [0, 1]]
    expected[0, 1] = 0  # stays NaN
    np.testing.assert_allclose(G[:, :2], expected)
    assert (G[:, 2] == 0).all()  # one legal value only
    np.testing.assert_array_equal(G[:, 3:], gains)
    # a step of the coordinates is the step of the cells that the gradient tells
    Z = legal.relax(X)
    step = 1e-3 * rng.rand(20, 2) * (1 - 2 * Z[:, :2])
    Z[:, :2] += step
    moved = np.nansum((legal.decode(Z, X) - X) * A, axis=1)
    inside = (Z[:, :2] >= 0).all(axis=1) & (Z[:, :2] <= 1).all(axis=1)
    np.testing.assert_allclose(moved[inside], (G[:, :2] * step).sum(axis=1)[inside])
    assert (legal.pull(np.tile(A, (20, 1)))[:, 3:] == 0).all()
    gains[0], gains[1, :2] = np.nan, np.nan
    G = legal.pull(np.tile(A, (20, 1)), {3: gains})
    assert (G[0, 3:] == 0).all() and (G[1, 3:] == gains[1, 2]).all()
    lengths = legal.in_ranges(np.full(6, 0.1))
    np.testing.assert_allclose(lengths[:2], 0.1 / scale[:2])
    assert lengths[2] == 0.1 and np.isinf(lengths[3:]).all()


def test_the_best_value_wins_by_ascent():
    legal = LegalRows(np.array(list("abc")).reshape(3, 1))
    rows = np.array([["a"]])
    Z = legal.relax(rows)
    for _ in range(30):
        step = legal.pull(np.zeros((1, 1)), {0: np.array([[0.0, 0.3, 1.0]])})
        Z = legal.project(Z + 0.1 * step)
    assert legal.decode(Z, rows).tolist() == [["c"]]


def test_unknown_categories_stay_and_are_told():
    legal = LegalRows(np.array([["a"], ["b"]], dtype=object))
    rows = np.array([["z"], ["a"], [None]], dtype=object)
    assert legal.is_legal(rows).tolist() == [False, True, True]
    Z = np.tile([0.0, 1.0], (3, 1))
    assert legal.decode(Z, rows).tolist() == [["z"], ["b"], [None]]


def test_starts_outside_the_box_are_cut_off():
    legal = LegalRows(np.array([[0.0], [1.0]]))
    rows = np.array([[3.0], [-0.5]])
    assert legal.is_legal(rows).tolist() == [False, False]
    assert legal.decode(legal.relax(rows), rows).tolist() == [[1], [0]]


NUMBERS = np.c_[np.arange(6.0), np.arange(6) % 2, 1 - np.arange(6) % 2]


@pytest.mark.parametrize(
    "params, message",
    [
        ({"mutable": [3]}, r"mutable: 3 is out of range for X with 3 columns"),
        ({"mutable": [-4]}, r"mutable: -4 is out of range"),
        ({"mutable": ["age"]}, r"mutable: 'age' is not a column of X, which has no n"),
        ({"mutable": "age"}, r"mutable must be a list of columns"),
        ({"mutable": 1}, r"mutable must be a list of columns"),
        ({"mutable": [True, False]}, r"mutable as a mask must have one entry a column"),
        ({"mutable": [0, -3]}, r"mutable names column -3 twice"),
        ({"mutable": [0.5]}, r"mutable must be an int, got 0.5"),
        ({"integer": None}, r"integer must be a list of columns"),
        ({"integer": [1], "categorical": [1]}, r"column 1 is named in both integer an"),
        ({"integer": [1], "one_hot": [[1, 2]]}, r"column 1 is named in both integer a"),
        ({"categorical": [2], "one_hot": [[1, 2]]}, r"column 2 .* both categorical an"),
        ({"one_hot": [1, 2]}, r"one_hot must be a list of lists"),
        ({"one_hot": [[]]}, r"one_hot holds an empty group"),
        ({"one_hot": [[1, 2], [2]]}, r"one_hot: column 2 is in two groups"),
        ({"one_hot": [[0, 1]]}, r"one_hot: column 0 holds other values than 0 and 1"),
        ({"one_hot": [[1, 2]], "mutable": [1]}, r"one_hot: of the group of column 1"),
        ({"bounds": 3}, r"bounds must be 'data', None or a pair"),
        ({"bounds": "all"}, r"bounds must be 'data', None or a pair"),
        ({"bounds": (0, [1, 2])}, r"bounds must be 'data', None or a pair"),
        ({"bounds": (5, 0)}, r"bounds must have low <= high"),
        ({"bounds": (0, np.nan)}, r"bounds must have low <= high"),
        ({"bounds": (0, 3)}, r"X lies outside bounds=\(0, 3\): column 0 spans \[0, 5"),
    ],
)
def test_bad_parameters_are_named(params, message):
    with pytest.raises((ValueError, TypeError), match=message):
        LegalRows(NUMBERS, **params)


def test_bad_parameters_of_frames_are_named():
    frame = _frame()
    with pytest.raises(ValueError, match=r"mutable: 'age' is not a column .*\['x', 'x"):
        LegalRows(frame, mutable=["age"])
    with pytest.raises(ValueError, match="integer: column 'text' holds no numbers"):
        LegalRows(frame, integer=["text"])
    with pytest.raises(ValueError, match="integer: column 'x' holds numbers that are"):
        LegalRows(frame, integer=["x"])
    with pytest.raises(ValueError, match="one_hot: column 'text' holds other values"):
        LegalRows(frame, one_hot=[["text", "red"]])
    with pytest.raises(ValueError, match="one_hot: row 0 has more than one 1"):
        LegalRows(np.ones((2, 2)), one_hot=[[0, 1]])
    lists = np.empty((2, 1), dtype=object)
    lists[:, 0] = [[1], [2]]
    with pytest.raises(TypeError, match="column 0 holds list, which can't be a categ"):
        LegalRows(lists)
    assert LegalRows(lists, mutable=[]).n_coordinates == 0
    for X in (np.ones(3), np.ones((3, 1, 2)), [[1.0]]):
        with pytest.raises(TypeError, match="X must be a two-dimensional array"):
            LegalRows(X)


def test_bounds_concern_columns_of_numbers():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [0.0, 1.0], "t": ["u", "v"], "b": [5.0, 6.0]})
    for bounds in (
        ([-1.0, 4.0], [1.0, 8.0]),
        ([-1.0, np.nan, 4.0], [1.0, np.nan, 8.0]),
    ):
        legal = LegalRows(frame, bounds=bounds)
        out = legal.decode(np.array([[9.0, 9, 0, 1], [-9, -9, 0, 1]]), frame)
        assert out["b"].tolist() == [8, 4] and out["t"].tolist() == ["v", "v"]
        assert out["a"].tolist() == [1, -1]
    # nor does it matter where columns that may not change lie
    assert LegalRows(frame, bounds=(0, 1), mutable=["a"]).n_coordinates == 1
