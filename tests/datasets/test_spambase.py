import gzip
import importlib.util
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from skpoison.datasets import (
    DatasetCorruptError,
    DatasetNotFoundError,
    _spambase,
    fetch_spambase,
    find_dataset,
)

NAMES = _spambase.FEATURE_NAMES


@pytest.fixture
def table():
    rng = np.random.RandomState(0)
    features = rng.randint(0, 400, (20, 57)) / 100
    return np.column_stack([features, [1.0] * 5 + [0.0] * 15])


def text(table, header=False, end="\n"):
    rows = [",".join(f"{value:g}" for value in row) for row in table]
    if header:
        rows.insert(0, ",".join([*NAMES, "spam"]))
    return (end.join(rows) + end).encode()


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "name", ["spambase.data", "spambase.csv", "spambase.data.gz", "spambase.zip"]
)
def test_forms(tmp_path, table, header, end, name):
    data = text(table, header, end)
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("spambase.names", "x")
            archive.writestr("spambase.data", data)
    else:
        data = gzip.compress(data) if name.endswith(".gz") else data
        (tmp_path / name).write_bytes(data)
    bunch = fetch_spambase(data_home=tmp_path, verify=False)
    np.testing.assert_array_equal(bunch.data, table[:, :-1])
    np.testing.assert_array_equal(bunch.target, table[:, -1])
    assert bunch.target.dtype == np.int64
    assert bunch.index.tolist() == list(range(20))
    assert "images" not in bunch
    assert bunch.source == f"data_home: {tmp_path / name}"
    assert find_dataset("spambase", data_home=tmp_path) == str(tmp_path / name)


def test_names():
    assert len(NAMES) == len(set(NAMES)) == 57
    assert NAMES[0] == "word_freq_make"
    assert NAMES[47:49] == ["word_freq_conference", "char_freq_;"]
    assert NAMES[-1] == "capital_run_length_total"


def test_own_split(tmp_path, table):
    (tmp_path / "spambase.data").write_bytes(text(table))
    parts = {
        subset: fetch_spambase(path=tmp_path, subset=subset, verify=False)
        for subset in ("train", "test", "all")
    }
    assert np.bincount(parts["test"].target).tolist() == [3, 1]
    for name, code in (("train", 0), ("test", 1)):
        rows = np.flatnonzero(parts["all"].split == code)
        np.testing.assert_array_equal(parts[name].index, rows)
        np.testing.assert_array_equal(parts[name].data, table[rows, :-1])


def test_as_frame(tmp_path, table):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "spambase.data").write_bytes(text(table))
    bunch = fetch_spambase(path=tmp_path, as_frame=True, verify=False)
    assert list(bunch.data.columns) == bunch.feature_names == NAMES
    assert list(bunch.frame.columns) == [*NAMES, "target"]
    assert isinstance(bunch.target, pandas.Series)
    np.testing.assert_array_equal(bunch.frame.to_numpy(), table)
    X, y = fetch_spambase(path=tmp_path, as_frame=True, return_X_y=True, verify=False)
    assert X.shape == (20, 57)
    assert y.name == "target"


def test_as_frame_without_pandas(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="as_frame=True needs pandas: pip install"):
        fetch_spambase(path="/no/such/folder", as_frame=True)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "columns, expected 58"),
        (b"1,2,3\n", "3 columns, expected 58"),
        (b"1,x,3\n", "could not convert"),
        (b"1,2\n1\n", "columns"),
        (text(np.full((2, 58), 2.0)), "labels other than 0 and 1"),
        (text(np.ones((2, 58))), "sha256 of its table is"),
        (gzip.compress(text(np.ones((2, 58))), mtime=0)[:-9], "damaged gzip"),
        (b"PK\x03\x04 damaged", "zip"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_corruption(tmp_path, data, message):
    (tmp_path / "x.data").write_bytes(data)
    with pytest.raises(DatasetCorruptError, match=message):
        fetch_spambase(path=tmp_path / "x.data")


def test_zip_without_the_table(tmp_path):
    with zipfile.ZipFile(tmp_path / "spambase.zip", "w") as archive:
        archive.writestr("spambase.names", "x")
    with pytest.raises(DatasetCorruptError, match="spambase.data"):
        fetch_spambase(path=tmp_path)


def test_rda_needs_its_reader(tmp_path, monkeypatch):
    (tmp_path / "spam.rda").write_bytes(b"x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetNotFoundError, match="needs rdata: pip install rdata"):
        fetch_spambase(path=tmp_path)


@pytest.mark.filterwarnings("ignore:Unknown file type", "ignore:Wrong extension")
def test_damaged_rda(tmp_path):
    pytest.importorskip("rdata")
    (tmp_path / "spam.rda").write_bytes(b"x")
    with pytest.raises(DatasetCorruptError, match="not kernlab's data frame"):
        fetch_spambase(path=tmp_path)


def score(X, y, *steps):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(*steps, StandardScaler(), LogisticRegression())
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return cross_val_score(model, X, y, cv=folds).mean()


@pytest.mark.dataset("spambase")
def test_published_figures():
    from sklearn.preprocessing import FunctionTransformer

    bunch = fetch_spambase()
    assert bunch.verified
    assert bunch.data.shape == (4601, 57)
    assert bunch.target.sum() == 1813
    assert (np.diff(bunch.target) <= 0).all()  # sorted, spam first
    rows = np.column_stack([bunch.data, bunch.target])
    assert len(np.unique(rows, axis=0)) == 4210
    assert bunch.data.max() == 15_841
    assert np.bincount(fetch_spambase(subset="test").target).tolist() == [558, 363]
    assert abs(score(bunch.data, bunch.target) - 0.9244) < 0.003
    log = FunctionTransformer(np.log1p)
    assert abs(score(bunch.data, bunch.target, log) - 0.9387) < 0.003


@pytest.mark.skipif(
    "SKPOISON_SHARED_DATA" not in os.environ, reason="SKPOISON_SHARED_DATA is not set"
)
def test_text_of_the_real_set():
    root = Path(os.environ["SKPOISON_SHARED_DATA"])
    assert fetch_spambase(path=root / "tabular" / "spambase.data.gz").verified
