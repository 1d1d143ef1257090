"""The command line: what it prints, and one clear line for what it can't do."""

import subprocess
import sys

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
testing = pytest.importorskip("click.testing")

from sklearn.datasets import load_diabetes, load_wine  # noqa: E402
from sklearn.linear_model import LogisticRegression, Ridge  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from skpoison.audit._cli import cli  # noqa: E402

NAIVE_BAYES, RIDGE = "sklearn.naive_bayes.GaussianNB", "sklearn.linear_model.Ridge"
FAST = ["--cv", "2", "--budgets", "0,0.1", "--attacks", "random-flips,backdoor"]
CHEAP = [*FAST, "--defenses", ""]


@pytest.fixture
def table(tmp_path):
    X, y = load_wine(return_X_y=True)
    frame = pd.DataFrame(X[:, :4], columns=["alcohol", "acid", "ash", "alkali"])
    frame["colour"] = np.where(X[:, 9] > 5, "dark", "light")
    frame.loc[::10, "ash"] = np.nan
    frame.loc[::15, "colour"] = None
    frame["picked"] = pd.date_range("2020-01-01", periods=len(frame))
    frame["wine"] = np.array(["a", "b", "c"])[y]
    return frame


def _run(*args):
    return testing.CliRunner().invoke(cli, [str(a) for a in args])


def _write(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.mark.long
def test_audit_of_a_raw_table(table, tmp_path):
    path = _write(table, tmp_path / "t.csv")
    page = tmp_path / "r.html"
    found = _run(
        "audit", path, "--target", "wine", *FAST, "--defenses", "label-filter",
        "--report", page,
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    assert "178 rows, 3 classes" in found.stdout and "label-filter" in found.stdout
    assert "estimator: " in found.stdout and page.read_text().startswith("<!DOCTYPE")
    assert "fits to go" in found.stderr


@pytest.mark.parametrize("name", ["t.csv.gz", "t.tsv", "t.parquet"])
def test_other_formats_hold_the_same_table(table, tmp_path, name):
    from skpoison.audit._ingest import read_table

    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
        table = table.drop(columns="picked")  # which a text file holds as text
    X, y = read_table(_write(table, tmp_path / name), "wine")
    expected, labels = read_table(_write(table, tmp_path / "t.csv"), "wine")
    pd.testing.assert_frame_equal(X, expected, check_dtype=False)
    np.testing.assert_array_equal(y, labels)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_are_seconds_whatever_their_unit(tmp_path, unit):
    pytest.importorskip("pyarrow")
    from skpoison.audit._ingest import read_table

    frame = pd.DataFrame({"wine": ["a", "b", "a"]})
    days = np.array(["2020-01-01", "NaT", "2020-01-02"], dtype=f"datetime64[{unit}]")
    frame["day"] = days
    frame["zoned"] = pd.Series(days).dt.tz_localize("UTC")
    X, _ = read_table(_write(frame, tmp_path / "t.parquet"), "wine")
    for column in ("day", "zoned"):
        np.testing.assert_array_equal(X[column], [1577836800, np.nan, 1577923200])


@pytest.mark.slow
def test_quiet_and_jobs_give_the_same_output(table, tmp_path):
    path = _write(table, tmp_path / "t.csv")
    one, two = (
        _run("audit", path, "--target", "wine", *CHEAP, "--quiet", "--jobs", n)
        for n in (1, 2)
    )
    assert one.stdout == two.stdout != "" and one.stderr == two.stderr == ""


def test_estimator_by_dotted_path_and_file(table, tmp_path):
    io = pytest.importorskip("skops.io")
    numbers = table[["alcohol", "acid", "alkali", "wine"]]
    path = _write(numbers, tmp_path / "t.csv")
    common = ["audit", path, "--target", "wine", *FAST, "--quiet", "--defenses", ""]
    found = _run(*common, "--estimator", "sklearn.naive_bayes.GaussianNB")
    assert found.exit_code == 0 and "sklearn.naive_bayes.GaussianNB" in found.stdout
    model = tmp_path / "m.skops"
    io.dump(make_pipeline(StandardScaler(), LogisticRegression()), model)
    found = _run(*common, "--estimator", model)
    assert found.exit_code == 0, found.stderr


@pytest.mark.parametrize(
    "change, message",
    [
        (["--target", "vine"], "no column 'vine'; there are alcohol, acid"),
        (["--target", "constant"], "'constant' holds one class, 'x'"),
        (["--target", "alcohol", "--task", "classification"], "holds fractions"),
        (["--target", "alcohol", "--attacks", "backdoor"], "apply to a regressor on"),
        (["--task", "regression"], "'wine' holds text, 'a' for one"),
        (["--target", "colour"], "12 rows have no value in 'colour'"),
        (
            ["--estimator", "sklearn.svm.SVC"],
            "is not numeric and sklearn.svm.SVC is no",
        ),
        (["--estimator", "sklearn.svm.SVX"], "can't be imported"),
        (["--estimator", "SVC"], "a dotted path such as"),
        (["--estimator", "sklearn.model_selection.GridSearchCV"], "without arguments"),
        (["--estimator", "sklearn.linear_model.Ridge"], "is not numeric"),
        (["--estimator", "nope.skops"], "no such file"),
        (["--attacks", "nuke"], "'nuke' is not known"),
        (["--budgets", "0,lots"], "'lots' is no number"),
        (["--budgets", "0,1.5"], "budgets must be in"),
        (["--jobs", "0"], "n_jobs must not be 0"),
        (["--report", "/"], "can't be written"),
        (["--report", "/nowhere/r.html"], "does not exist"),
        (["--json", "/nowhere/r.json"], "--json: the folder of /nowhere/r.json does"),
        (["--json", "/"], "--json: / can't be written"),
        (["--checkpoint", __file__], "is a file, not a folder"),
        (["--cv", "1"], "cv must be >= 2"),
        (["--cv", "50"], "fewer than cv=50 folds"),
        (["--scoring", "acuracy"], "acuracy"),
    ],
)
def test_one_clear_line_exit_code_two_nothing_written(table, tmp_path, change, message):
    path = _write(table.assign(constant="x"), tmp_path / "t.csv")
    page, state = tmp_path / "r.html", tmp_path / "state"
    found = _run(
        "audit", path, "--target", "wine", *FAST, "--report", page,
        "--checkpoint", state, *change, "--quiet",
    )  # fmt: skip
    assert found.exit_code == 2 and found.stdout == ""
    assert message in found.stderr and found.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    "change, message",
    [
        (["--target", "alcohol", "--estimator", NAIVE_BAYES], "holds fractions"),
        (["--task", "regression", "--estimator", NAIVE_BAYES], "is for classification"),
        (["--task", "classification", "--estimator", RIDGE], "is for regression"),
        (["--estimator", RIDGE], "'wine' holds text, 'a' for one"),
        (["--estimator", "sklearn.cluster.KMeans"], "a classifier or a regressor"),
        (["--estimator", RIDGE, "--target", "alcohol"], "to a regressor on numeric"),
    ],
)
def test_task_estimator_and_target_must_agree(table, tmp_path, change, message):
    columns = ["alcohol", "acid", "alkali", *["wine"] * ("--target" not in change)]
    path = _write(table[columns], tmp_path / "t.csv")
    found = _run("audit", path, "--target", "wine", *FAST, *change)
    assert found.exit_code == 2 and found.stdout == ""
    assert message in found.stderr and found.stderr.count("\n") == 1


@pytest.fixture
def prices(tmp_path):
    X, y = load_diabetes(return_X_y=True)
    frame = pd.DataFrame(X[:150, 1:6]).add_prefix("f")
    frame["price"] = y[:150].astype(int)  # 110 values: some are in fewer than 2 rows
    return frame


@pytest.mark.long
def test_audit_of_a_table_with_numbers_to_predict(prices, tmp_path):
    frame = prices.assign(kind=np.where(prices["f0"] > 0, "old", "young"))
    frame.loc[::10, "f1"] = np.nan
    path, page = _write(frame, tmp_path / "t.csv"), tmp_path / "r.html"
    common = ["--target", "price", "--cv", "2", "--budgets", "0,0.1"]
    attacks = "flipped-rows,statp-rows,regression-rows"
    found = _run("audit", path, *common, "--defenses", "", "--attacks", attacks)
    assert found.exit_code == 0, found.stderr
    assert "150 rows, target from 37 to 341; damage in R² lost" in found.stdout
    for word in ("ridge", "boosting", "flipped-rows", "statp-rows", "regression-rows"):
        assert word in found.stdout
    cheap = ["audit", _write(prices, tmp_path / "n.csv"), *common, "--report", page]
    cheap += ["--attacks", "flipped-rows", "--defenses", "trim", "--estimator", RIDGE]
    loud = _run(*cheap)
    quiet = _run(*cheap, "--quiet", "--task", "regression", "--jobs", "2")
    assert quiet.stdout == loud.stdout and quiet.stderr == ""
    assert "trim" in loud.stdout and "R² lost" in page.read_text(encoding="utf-8")
    found = _run("audit", path, *common, "--task", "classification")
    assert found.exit_code == 2 and "fewer than cv=2 folds" in found.stderr


def test_compare_ranks_and_saves(table, tmp_path):
    from skpoison.audit import AuditReport

    path = _write(table[["alcohol", "acid", "wine"]], tmp_path / "t.csv")
    page, saved = tmp_path / "r.html", tmp_path / "r.json"
    found = _run(
        "compare", path, "--target", "wine", "--cv", "2", "--budgets", "0.2",
        "--attacks", "random-flips", "--defenses", "sanitizer", "--estimator",
        NAIVE_BAYES, "--quiet", "--report", page, "--json", saved,
    )  # fmt: skip
    assert found.exit_code == 0 and found.stderr == ""
    head, first, second, *_ = found.stdout.splitlines()
    assert head.split()[:3] == ["rank", "defense", "price"] and head.endswith("time")
    assert {first.split()[1], second.split()[1]} == {"none", "sanitizer"}
    ranking = AuditReport.from_json(saved).ranking()
    for _, row in ranking.iterrows():
        assert f"{row['rank']}. {row['defense']}: {row['reason']}." in found.stdout
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE")
    found = _run("compare", path, "--target", "vine")
    assert found.exit_code == 2 and found.stderr.count("\n") == 1


@pytest.mark.slow
def test_regressors_by_dotted_path_and_file(prices, tmp_path):
    io = pytest.importorskip("skops.io")
    model = tmp_path / "m.skops"
    io.dump(make_pipeline(StandardScaler(), Ridge()), model)
    path = _write(prices, tmp_path / "t.csv")
    for spec in (RIDGE, model):
        found = _run(
            "audit", path, "--target", "price", "--cv", "2", "--budgets", "0,0.1",
            "--attacks", "flipped-rows,statp-rows", "--defenses", "isolation-forest",
            "--scoring", "explained_variance", "--estimator", spec, "--quiet",
        )  # fmt: skip
        assert found.exit_code == 0 and found.stderr == ""
        assert "explained_variance lost" in found.stdout
    found = _run("audit", path, "--target", "price", "--scoring", "max_error")
    assert found.exit_code == 2 and "max_error" in found.stderr


@pytest.mark.parametrize(
    "y, task",
    [
        (np.array(["a", "b"]), "classification"),
        (np.arange(10) % 2, "classification"),
        (np.arange(100) % 30, "regression"),  # 3 rows a value, fewer than 5 folds
        (np.arange(600) % 30, "classification"),
        (np.arange(600.0) % 30, "classification"),
        (np.arange(20), "classification"),  # ids, and refused as such
        (np.array([0.5, 1.5, 0.5]), "regression"),
        (np.array([1.0, np.inf]), "regression"),
    ],
)
def test_the_target_tells_the_task(y, task):
    from skpoison.audit._ingest import choose_task

    assert choose_task(y, 5) == task


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("no.csv", None, "no such file"),
        ("empty.csv", b"", "can't be read as a table"),
        ("binary.csv", bytes(range(256)) * 9, "can't be read as a table"),
        ("bad.parquet", b"PAR1 not really", "can't be read as a table"),
        ("head.csv", b"a,wine\n", "a table with rows and features is needed"),
        ("one.csv", b"wine\na\nb\n", "a table with rows and features is needed"),
        ("twice.csv", b"a,wine,wine\n1,x,x\n2,y,y\n", "two columns are called 'wine'"),
        ("blank.csv", b"a,wine\n,x\n,y\n", "no feature holds a value"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    found = _run("audit", path, "--target", "wine", *FAST)
    assert found.exit_code == 2, found.output
    assert message in found.stderr and found.stderr.count("\n") == 1


def test_pickles_are_not_loaded(table, tmp_path):
    joblib = pytest.importorskip("joblib")
    pytest.importorskip("skops")

    path = _write(table, tmp_path / "t.csv")
    model = tmp_path / "m.joblib"
    joblib.dump(_Bomb(tmp_path / "ran"), model)
    found = _run("audit", path, "--target", "wine", *FAST, "--estimator", model)
    assert found.exit_code == 2 and "save the model with skops.io.dump" in found.stderr
    assert not (tmp_path / "ran").exists()


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_untrusted_types_are_named_and_can_be_trusted(table, tmp_path):
    io = pytest.importorskip("skops.io")
    from sklearn.preprocessing import FunctionTransformer

    numbers = table[["alcohol", "acid", "wine"]]
    path = _write(numbers, tmp_path / "t.csv")
    model = tmp_path / "m.skops"
    io.dump(
        make_pipeline(FunctionTransformer(np.fft.fftshift), LogisticRegression()), model
    )
    unknown = io.get_untrusted_types(file=model)
    common = ["audit", path, "--target", "wine", *FAST, "--quiet", "--estimator", model]
    found = _run(*common)
    assert found.exit_code == 2 and unknown[0] in found.stderr
    trust = [word for name in unknown for word in ("--trust", name)]
    assert _run(*common, *trust, "--defenses", "").exit_code == 0


@pytest.mark.parametrize(
    "kind, name",
    [
        ("attacks", "adversarial-flips"),
        ("defenses", "label-filter"),
        ("datasets", "fetch_fashion_mnist"),
    ],
)
def test_lists(kind, name):
    found = _run("list", kind)
    assert found.exit_code == 0 and name in found.stdout
    if kind != "datasets":
        assert "; classification]" in found.stdout
        assert "; classification, regression]" in found.stdout


@pytest.mark.slow
def test_as_a_module():
    out = subprocess.run(
        [sys.executable, "-m", "skpoison", "--version"], capture_output=True, text=True
    )
    assert out.returncode == 0 and "skpoison" in out.stdout


def test_missing_extra_is_named(monkeypatch):
    from skpoison import __main__

    monkeypatch.setitem(sys.modules, "click", None)
    assert __main__.main() == 2
