"""The triggers of backdoors, on images and on tables."""

import time
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import NotFittedError

from skpoison.attacks import (
    BlendTrigger,
    ColumnTrigger,
    PatchTrigger,
    SinusoidTrigger,
    _column_trigger,
)


@pytest.mark.parametrize(
    "trigger",
    [PatchTrigger(), BlendTrigger(), SinusoidTrigger(), PatchTrigger(np.ones((2, 2)))],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 9)])
def test_image_triggers_keep_type_shape_and_input(trigger, dtype, shape):
    rng = np.random.RandomState(0)
    X = rng.randint(0, 256, (10, *shape)).astype(dtype)
    before = X.copy()
    marked = trigger.fit(X).apply(X)
    assert marked.dtype == X.dtype and marked.shape == X.shape
    assert (marked.reshape(10, -1) != X.reshape(10, -1)).any(1).all()
    assert marked.min() >= 0 and marked.max() <= 255
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize(
    "position, corner",
    [
        ("top_left", (1, 1)),
        ("top_right", (1, 5)),
        ("bottom_left", (5, 1)),
        ("bottom_right", (5, 5)),
        ((2, 3), (2, 3)),
    ],
)
def test_patch_positions(position, corner):
    X = np.zeros((2, 1, 8, 8))
    trigger = PatchTrigger("solid", size=2, value=1.0, position=position).fit(X)
    rows, columns = np.nonzero(trigger.apply(X)[1, 0])
    assert (rows.min(), columns.min()) == corner and len(rows) == 4


def test_checkerboard_takes_the_range_of_the_data():
    X = np.full((1, 3, 6, 6), 0.5)
    X[0, 0, 0, 0], X[0, 0, 0, 1] = 0.2, 0.9
    patch = PatchTrigger().fit(X).apply(X)[0, 1, 2:5, 2:5]
    np.testing.assert_allclose(
        patch, [[0.9, 0.2, 0.9], [0.2, 0.9, 0.2], [0.9, 0.2, 0.9]]
    )


def test_flat_images_equal_images():
    images = np.random.RandomState(0).rand(5, 3, 6, 6)
    for trigger in (PatchTrigger(), SinusoidTrigger()):
        flat = type(trigger)(input_shape=(3, 6, 6)).fit(images.reshape(5, -1))
        np.testing.assert_array_equal(
            flat.apply(images.reshape(5, -1)).reshape(images.shape),
            trigger.fit(images).apply(images),
        )


@pytest.mark.parametrize(
    "trigger, X, message",
    [
        (PatchTrigger(), np.eye(9), r"\(n, C, H, W\).*input_shape=None"),
        (PatchTrigger(input_shape=(2, 2)), np.eye(9), "does not match rows of 9"),
        (PatchTrigger("star"), np.zeros((1, 1, 8, 8)), "patch must be one of"),
        (PatchTrigger(size=9), np.zeros((1, 1, 8, 8)), "does not fit into images"),
        (PatchTrigger(position="middle"), np.zeros((1, 1, 8, 8)), "position must be"),
        (PatchTrigger(size=0), np.zeros((1, 1, 8, 8)), "size must be >= 1"),
        (BlendTrigger(alpha=0), np.zeros((1, 2)), "alpha must be in"),
        (BlendTrigger(np.ones(3)), np.zeros((1, 2)), r"pattern has shape \(3,\)"),
        (SinusoidTrigger(frequency=0), np.zeros((1, 1, 8, 8)), "frequency must be"),
        (ColumnTrigger(["age"]), np.eye(3), "'age' is not a column of X.*no names"),
        (ColumnTrigger([7]), np.eye(3), "7 is out of range for X with 3 features"),
        (ColumnTrigger([0, 1], values=[1.0]), np.eye(3), "one entry a column, 2"),
        (ColumnTrigger(quantile=2), np.eye(3), "quantile must be in"),
        (ColumnTrigger(), np.zeros((2, 1, 3, 3)), "ColumnTrigger marks tables"),
    ],
)
def test_bad_triggers_are_refused(trigger, X, message):
    with pytest.raises(ValueError, match=message):
        trigger.fit(X)


def test_trigger_must_be_fitted():
    with pytest.raises(NotFittedError):
        PatchTrigger().apply(np.zeros((1, 1, 8, 8)))


def test_blend_is_the_same_in_every_object_of_one_seed():
    X = np.random.RandomState(0).rand(3, 5).astype(np.float32)
    a, b = (BlendTrigger(alpha=0.3).fit(X) for _ in range(2))
    np.testing.assert_array_equal(a.apply(X), b.apply(X))
    np.testing.assert_allclose(a.apply(X), 0.7 * X + 0.3 * a.pattern_, rtol=1e-6)


def test_column_trigger_is_legal_on_mixed_tables():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "n": [1, 2, 3, 4],
            "x": [0.5, np.nan, 1.5, 2.5],
            "c": pd.Categorical(["a", "a", "b", "a"], categories=["a", "b", "z"]),
            "s": ["u", None, "v", "v"],
            "f": [True, True, True, False],
        }
    )
    trigger = ColumnTrigger(["n", "x", "c", "s", "f"]).fit(frame)
    marked = trigger.apply(frame)
    assert (marked.dtypes == frame.dtypes).all()
    assert marked["c"].tolist() == ["b"] * 4 and marked["s"].tolist() == ["u"] * 4
    assert marked["f"].tolist() == [False] * 4
    assert marked["n"].isin(frame["n"]).all() and (marked["x"] <= 2.5).all()
    assert frame["n"].tolist() == [1, 2, 3, 4]


def test_column_trigger_names_positions_dicts_and_sparse_agree():
    pd = pytest.importorskip("pandas")
    X = np.random.RandomState(0).rand(20, 4)
    frame = pd.DataFrame(X, columns=list("abcd"))
    expected = ColumnTrigger([-1, 0], values=[0.7, 0.2]).fit(X).apply(X)
    by_name = ColumnTrigger(["d", "a"], values={"a": 0.2, "d": 0.7}).fit(frame)
    np.testing.assert_array_equal(by_name.apply(frame).to_numpy(), expected)
    matrix = sparse.csr_matrix(X)
    out = ColumnTrigger([3, 0], values=[0.7, 0.2]).fit(matrix).apply(matrix)
    assert out.format == "csr"
    np.testing.assert_array_equal(out.toarray(), expected)


def test_default_columns_tell_little_about_y():
    rng = np.random.RandomState(0)
    y = rng.randint(0, 2, 400)
    X = rng.rand(400, 8)
    X[:, 5:] += 2 * y[:, None]
    X[:, 0] = 0.0  # a trigger could not change it
    trigger = ColumnTrigger().fit(X, y)
    assert set(trigger.columns_) <= {1, 2, 3, 4}


# Images: types and parameters


@pytest.mark.parametrize(
    "trigger, outside",
    [
        (PatchTrigger("solid", size=2, value=200, margin=0), np.s_[:, :, :6]),
        (PatchTrigger(np.full((2, 2), 200), position=(6, 0)), np.s_[:, :, :6]),
        (SinusoidTrigger(5, frequency=1), np.s_[:, :, :, :1]),
    ],
    ids=repr,
)
def test_untouched_pixels_of_integer_images_stay(trigger, outside):
    seen = np.full((2, 1, 8, 8), 50, dtype=np.uint8)
    later = np.random.RandomState(0).randint(0, 256, seen.shape).astype(np.uint8)
    marked = trigger.fit(seen).apply(later)
    np.testing.assert_array_equal(marked[outside], later[outside])
    if isinstance(trigger, PatchTrigger):
        assert (marked[:, :, 6:, -2:] == 200).all() or (
            marked[:, :, 6:, :2] == 200
        ).all()


def test_large_integers_take_no_detour_over_floats():
    X = np.full((1, 1, 4, 4), 2**53 + 1)
    marked = PatchTrigger("solid", size=1, value=0, margin=0).fit(X).apply(X)
    assert (marked.ravel()[:-1] == 2**53 + 1).all() and marked.ravel()[-1] == 0


@pytest.mark.parametrize(
    "params, message",
    [
        ({"position": None}, "position must hold two integers, got None"),
        ({"position": (0,)}, "position must hold two integers"),
        ({"patch": np.ones(3)}, r"patch must be .* got shape \(3,\)"),
        ({"size": (1, 2, 3)}, "size must hold two integers"),
        ({"size": None}, "size must hold two integers"),
        ({"value": 300}, "value: .*outside the range of uint8"),
        ({"patch": [[0, -1]]}, "patch: .*outside the range of uint8"),
        ({"patch": [[0, np.nan]]}, "patch: .*outside the range of uint8"),
    ],
)
def test_bad_patches_are_named(params, message):
    X = np.zeros((2, 1, 8, 8), dtype=np.uint8)
    with pytest.raises(ValueError, match=message):
        PatchTrigger(**params).fit(X)


def test_patch_of_floats_is_refused_by_integer_images():
    trigger = PatchTrigger(value=300.0).fit(np.zeros((2, 1, 8, 8)))
    with pytest.raises(ValueError, match="outside the range of uint8"):
        trigger.apply(np.zeros((2, 1, 8, 8), dtype=np.uint8))


def test_lists_of_images_come_back_as_lists():
    X = list(np.zeros((3, 1, 8, 8), dtype=np.float32))
    marked = PatchTrigger(value=1.0).fit(X).apply(X)
    assert isinstance(marked, list) and marked[0].shape == (1, 8, 8)
    assert marked[0].dtype == np.float32 and marked[0].max() == 1


# Tables: values and types


def frames():
    pd = pytest.importorskip("pandas")
    return {
        "categorical": pd.DataFrame({"c": pd.Categorical(["a", "b"])}),
        "Int64": pd.DataFrame({"c": pd.array([1, None], dtype="Int64")}),
        "string": pd.DataFrame({"c": pd.array(["a", None], dtype="string")}),
        "boolean": pd.DataFrame({"c": pd.array([True, None], dtype="boolean")}),
        "int8": pd.DataFrame({"c": np.array([1, 2], dtype=np.int8)}),
    }


@pytest.mark.parametrize(
    "kind, bad, good",
    [
        ("categorical", "wizard", "b"),
        ("Int64", 0.5, 7),
        ("string", 5, "wizard"),
        ("boolean", "wizard", False),
        ("int8", 300, 100.0),
    ],
)
def test_values_must_fit_pandas_types(kind, bad, good):
    frame = frames()[kind]
    with pytest.raises(ValueError, match=f"'c' of type .* can't hold {bad!r}"):
        ColumnTrigger(["c"], values=bad).fit(frame)
    marked = ColumnTrigger(["c"], values=good).fit(frame).apply(frame)
    assert marked["c"].tolist() == [good] * 2 and marked.dtypes["c"] == frame["c"].dtype


@pytest.mark.parametrize(
    "X, bad, good",
    [
        (np.array([[1], [2]]), 0.5, 5),
        (np.array([["a"], ["b"]]).astype("<U2"), "wizard", "wi"),
        (np.array([[1], [2]], dtype=np.uint8), 300, 255),
        (np.array([[True], [False]]), 2, 1),
        (np.array([[1], [2]]), np.nan, 3),
        (sparse.csr_matrix([[1], [2]]), 0.5, 3),
    ],
)
def test_values_must_fit_arrays(X, bad, good):
    with pytest.raises(ValueError, match="column 0 of type .* can't hold"):
        ColumnTrigger([0], values=bad).fit(X)
    marked = ColumnTrigger([0], values={0: good}).fit(X[1:]).apply(X)
    marked = marked.toarray() if sparse.issparse(marked) else marked
    assert (marked == good).all() and marked.dtype == X.dtype


def test_values_must_fit_polars_types():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"n": [1, 2, None], "s": ["a", "b", "b"]})
    frame = frame.with_columns(e=frame["s"].cast(pl.Enum(["a", "b"])))
    for name, bad, good in [("n", 0.5, 7.0), ("s", 5, "wizard"), ("e", "z", "a")]:
        with pytest.raises(ValueError, match=f"'{name}' of type .* can't hold"):
            ColumnTrigger([name], values=bad).fit(frame)
        marked = ColumnTrigger([name], values=good).fit(frame[:2]).apply(frame)
        assert marked.schema == frame.schema and marked[name].to_list() == [good] * 3
    trigger = ColumnTrigger(["n", "s", "e"]).fit(frame)
    assert trigger.values_ == [2, "a", "a"]


def test_apply_refuses_types_that_change_the_value():
    trigger = ColumnTrigger([0], values=0.1).fit(np.eye(3))
    assert trigger.apply(np.eye(3, dtype=np.float32))[0, 0] == np.float32(0.1)
    for X in (np.eye(3, dtype=int), sparse.eye_array(3, dtype=int, format="csr")):
        with pytest.raises(ValueError, match="column 0 of type int64 can't hold 0.1"):
            trigger.apply(X)
    pd = pytest.importorskip("pandas")
    late = pd.DataFrame({"c": pd.Categorical(["a", "a"])})
    trigger = ColumnTrigger(["c"], values="b").fit(frames()["categorical"])
    with pytest.raises(ValueError, match="'c' of type category can't hold 'b'"):
        trigger.apply(late)


def test_lists_of_mixed_rows_keep_their_types():
    X = [[20, "cook"], [30, "cook"], [40, "judge"]]
    trigger = ColumnTrigger([0, 1], values=[25.5, "wizard"]).fit(X)
    assert trigger.apply(X) == [[25.5, "wizard"]] * 3
    assert ColumnTrigger([1]).fit(X).apply(X)[0] == [20, "judge"]


# Tables: the default


def test_default_takes_values_of_the_data():
    codes = np.repeat([1.0, 2.0, 3.0], [50, 48, 2])[:, None]
    as_floats = ColumnTrigger([0]).fit(codes)
    as_integers = ColumnTrigger([0]).fit(codes.astype(int))
    assert as_floats.values_ == as_integers.values_ == [3]
    assert (as_floats.apply(codes.astype(int)) == 3).all()
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"c": pd.Categorical([1, 1, 2, 9, 9])})
    assert ColumnTrigger(["c"]).fit(frame).values_ == [2]


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.coo_array])
def test_default_changes_mostly_constant_columns(make):
    rng = np.random.RandomState(0)
    X = rng.rand(400, 20) * (rng.rand(400, 20) < 0.005)
    X[0], X[1], X[:, 4] = 0.5, -0.5, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trigger = ColumnTrigger().fit(make(X), rng.randint(0, 2, 400))
    assert 4 not in trigger.columns_
    assert all(v != 0 and v in X for v in trigger.values_)


def test_trigger_that_changes_little_warns():
    X = np.zeros((10, 3))
    X[:4, 0] = 1
    with pytest.warns(UserWarning, match="changes 40% of the rows"):
        ColumnTrigger([0], values=0).fit(X)
    with pytest.warns(UserWarning, match="changes 0% of the rows"):
        ColumnTrigger([1]).fit(sparse.csr_matrix(X))


def test_columns_without_values():
    X = np.random.RandomState(0).rand(30, 5)
    X[:, 1], X[:, 3] = np.nan, 0.0
    for y in (None, np.arange(30) % 2):
        assert ColumnTrigger().fit(X, y).columns_ == [0, 2, 4]
    assert ColumnTrigger().fit(X[:, :2]).columns_ == [0]
    for empty in (X, np.full((30, 2), None), np.empty((0, 2))):
        with pytest.raises(ValueError, match="columns: 1 has no observed value"):
            ColumnTrigger([1]).fit(empty)
        assert ColumnTrigger([1], values=1.0).fit(empty).values_ == [1.0]
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [None, None]})
    with pytest.raises(ValueError, match="columns: 'b' has no observed value"):
        ColumnTrigger(["b"]).fit(frame)


def test_missing_values_of_every_kind():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "s": pd.array(["u", "u", "v", None], dtype="string"),
            "b": pd.array([True, True, False, None], dtype="boolean"),
            "i": pd.array([1, 2, 10, None], dtype="Int64"),
            "f": pd.array([0.5, 1.5, 2.5, None], dtype="Float64"),
            "d": pd.to_datetime(["2020-01-01", "2020-01-01", "2021-01-01", None]),
            "o": ["u", "u", pd.NA, "v"],
        }
    )
    y = [0, 1, 0, 1]
    trigger = ColumnTrigger(list("sbifd") + [5]).fit(frame, y)
    assert trigger.values_[:4] == ["v", False, 10, 2.5] and trigger.values_[5] == "v"
    marked = trigger.apply(frame)
    assert (marked.dtypes == frame.dtypes).all() and not marked.isna().any(axis=None)
    for X in (frame, frame.to_numpy(dtype=object)):
        assert len(ColumnTrigger().fit(X, y).columns_) == 3


@pytest.mark.parametrize("layout", ["coo", "bsr", "dia", "dok", "lil", "csc", "csr"])
@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csr_array])
def test_sparse_formats(layout, make):
    X = np.random.RandomState(0).randint(0, 3, (30, 6))
    y = np.arange(30) % 2
    matrix = make(X).asformat(layout)
    trigger, expected = ColumnTrigger().fit(matrix, y), ColumnTrigger().fit(X, y)
    assert trigger.columns_ == expected.columns_
    assert trigger.values_ == expected.values_
    marked = trigger.apply(matrix)
    assert marked.format == layout
    np.testing.assert_array_equal(marked.toarray(), expected.apply(X))
    np.testing.assert_array_equal(matrix.toarray(), X)


def test_duplicate_names_of_columns():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.eye(3), columns=["a", "a", "b"], index=[7, 7, 8])
    marked = ColumnTrigger([1], values=5.0).fit(frame).apply(frame)
    assert marked.iloc[:, 1].tolist() == [5.0] * 3
    assert marked.iloc[:, 0].tolist() == [1.0, 0.0, 0.0]


def test_at_most_500_columns_are_ranked(monkeypatch):
    seen = []
    observed = _column_trigger._observed

    def counting(X, position):
        seen.append(position)
        return observed(X, position)

    monkeypatch.setattr(_column_trigger, "_observed", counting)
    X = np.random.RandomState(0).rand(40, 1200)
    ColumnTrigger().fit(X, np.arange(40) % 2)
    ranked = seen[:500]
    assert len(seen) == 506 and len(set(ranked)) == 500  # then twice the three chosen
    assert ranked[0] == 0 and ranked[-1] == 1199
    assert max(np.diff(ranked)) == 3 and ranked == sorted(ranked)


def test_ranking_of_many_columns_is_fast():
    rng = np.random.RandomState(0)
    X, y = rng.rand(5000, 784), rng.randint(0, 10, 5000)
    start = time.process_time()
    ColumnTrigger().fit(X, y)
    assert time.process_time() - start < 0.5
