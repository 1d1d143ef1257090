"""Whatever is typed: exit code 0 or 2, and words instead of a traceback."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties._damage import at_most, file_of

testing = pytest.importorskip("click.testing")
Image = pytest.importorskip("PIL.Image")

from skpoison.audit._cli import cli  # noqa: E402

_RNG = np.random.RandomState(0)
_CODES = np.arange(36) % 2
_TABLE = "x0,x1,who,y\n" + "\n".join(
    f"{_RNG.rand():.3f},{_RNG.rand() + code:.3f},{i % 5},{'ab'[code]}"
    for i, code in enumerate(_CODES)
)
_NUMBERS = ["0", "1", "2", "-1", "1.5", "nan", "x", "", str(2**70)]
_TEXTS = ["", ",", "nope", "x0", "y", "ü", "--", " ", "a,b"]
_AUDIT = {
    "--target": ["y", "x0", "who", *_TEXTS],
    "--task": ["auto", "regression", "classification", "nope"],
    "--estimator": ["sklearn.svm.SVC", "os.getcwd", "json.loads", "m.skops", "..a", "."]
    + ["sklearn.linear_model.Ridge", "sklearn.cluster.KMeans", "a b.c", *_TEXTS],
    "--trust": _TEXTS,
    "--attacks": ["backdoor", "random-flips,random-flips", *_TEXTS],
    "--defenses": ["label-filter", "none", *_TEXTS],
    "--budgets": ["0", "0.5", "1.0", "1e999", "-0.1", "0,0,0.1", "٣", "²", "1_0"]
    + ["9" * 5000, "0.1;0.2", *_NUMBERS, *_TEXTS],
    "--cv": ["3", "99", *_NUMBERS],
    "--trials": _NUMBERS[:-1],  # as many would be run
    "--n-targets": _NUMBERS,
    "--client-id": ["who", *_TEXTS],
    "--scoring": ["accuracy", "r2", "roc_auc", "neg_log_loss", *_TEXTS],
    "--seed": _NUMBERS,
    "--jobs": ["0", "1", "x", "1.5", ""],
    "--report": ["/nowhere/r.html", ".", "/"],
    "--json": ["/nowhere/r.json", "."],
    "--nonsense": ["1"],
}
_PROTECT = {
    "--labels": ["folders", "labels.csv", *_TEXTS],
    "--eps": ["8", "0", "300", *_NUMBERS],
    "--method": ["random", "error_max", "nope"],
    "--steps": _NUMBERS,
    "--seed": _NUMBERS,
    "--size": ["9x7", "0x0", "-1x2", "²x²", "x", "9", "99999999x99999999", *_TEXTS],
    "--preview": _NUMBERS,
}


def _options(table):
    pairs = [(name, value) for name, values in table.items() for value in values]
    return st.lists(
        st.sampled_from(pairs), min_size=1, max_size=2, unique_by=lambda pair: pair[0]
    )


def _run(*args):
    with at_most(60):
        found = testing.CliRunner().invoke(cli, [str(a) for a in args])
    assert found.exit_code in (0, 2), (args, found.exception)
    assert found.exception is None or isinstance(found.exception, SystemExit)
    assert "Traceback" not in found.output
    if found.exit_code == 2:
        assert found.stdout == ""
        if found.stderr.startswith("Usage: "):  # click's own
            assert "Error: " in found.stderr
        else:
            assert found.stderr.startswith("skpoison: ")
            assert found.stderr.count("\n") == 1 and len(found.stderr) > 12
    return found


@pytest.mark.filterwarnings("ignore")
@given(changes=_options(_AUDIT))
def test_audits(changes):
    with file_of("t.csv", _TABLE.encode()) as path:
        fast = {
            "--target": "y",
            "--estimator": "sklearn.naive_bayes.GaussianNB",
            "--attacks": "random-flips",
            "--defenses": "",
            "--budgets": "0.1",
            "--cv": "2",
        }
        fast.update(changes)
        found = _run("audit", path, *sum(fast.items(), ()), "--quiet")
    if found.exit_code == 0:
        assert "attack" in found.stdout


def _picture():
    file = io.BytesIO()
    Image.fromarray(_RNG.randint(0, 256, (9, 7), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@given(changes=_options(_PROTECT))
def test_protection(changes):
    with file_of("in/ant/a.png", _picture()) as path:
        folder = path.parents[1]
        (folder / "bee").mkdir()
        (folder / "bee" / "b.png").write_bytes(b"not a picture")
        out = folder.parent / "out"
        given_ = {"--labels": "folders", "--steps": "1", **dict(changes)}
        found = _run("protect", folder, out, *sum(given_.items(), ()), "--quiet")
        assert found.exit_code == 2 and not out.exists()


_WORDS = st.sampled_from(["list", "audit", "protect", "attacks", "x", "-h"])


@given(words=st.lists(_WORDS, min_size=1))
def test_words(words):
    _run(*words)
