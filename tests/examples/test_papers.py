"""The scripts that repeat the papers: what they share, runs of a moment, the page."""

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

ROOT = Path(__file__).parents[2]
PAPERS = ROOT / "examples" / "papers"
NAMES = sorted(p.stem for p in PAPERS.glob("*.py") if not p.stem.startswith("_"))
PAGE = ROOT / "docs" / "reproduction.rst"
PREPRINTS = {
    *("2103.02079", "2102.13624", "2103.02683", "2011.09527", "2009.02276"),
    *("2004.11075", "2004.00225", "2003.14053", "1911.07989", "1910.00359"),
    "1911.11815",
}
#: options of a tiny run, entries in its file, heads of its table
RUNS = {
    "graph_discretization": (["--images", "1"], 8, "setting +published +ours"),
    "witchcraft": (["--seeds", "1"], 23, "attack +gradients +published"),
    "byzantine": (["--seeds", "2", "--rules", "krum"], 6, "rule, attack +published"),
    "inverting_gradients": (
        ["--seeds", "2", "--settings", "cosine", "lbfgs"],
        4,
        "setting +published +PSNR",
    ),
    "backpropaganda": (
        ["--seeds", "2", "--findings", "norms"],
        10,
        "network, method +published",
    ),
}
SLOW = {
    "backpropaganda": (
        ["--seeds", "1", "--findings", "minima", "kernels", "ranks"],
        9 + 4 + 6,
        "training loss +published",
    ),
    "inverting_gradients": (
        ["--seeds", "1", "--settings", "closed", "four-tv", "fedavg-four"],
        3,
        "setting +published +PSNR",
    ),
    "byzantine": (["--seeds", "1", "--cells", "all"], 50, "rule, attack +published"),
}


def fetch(size, subset, n_samples=None, dtype="float32", **_):
    """Return noise with a bright line that tells the class of most images."""
    rng = np.random.default_rng(subset == "test")
    y = np.arange(n_samples or 600) % 10
    X = rng.integers(0, 64, (len(y), *size), dtype=np.uint8)
    X[np.arange(len(y)), :, 2 * y] += 128
    y = np.where(rng.random(len(y)) < 0.2, rng.integers(0, 10, len(y)), y)
    return (X if dtype == "uint8" else (X / 255).astype(dtype)), y


@pytest.fixture
def papers(monkeypatch, tmp_path):
    """The scripts' folder on the path, data that are there at once, a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(PAPERS)
    found = importlib.import_module("_runs")
    sizes = {"mnist": 1, "fashion_mnist": 1, "cifar10": 3}
    for name, n_channels in sizes.items():
        side = 32 if n_channels == 3 else 28
        size = n_channels, side, side
        monkeypatch.setitem(
            found.FETCH, name, lambda size=size, **params: fetch(size, **params)
        )
    return found


def _main(name, *options):
    importlib.import_module(name).main(["--out", "runs.jsonl", "--tiny", *options])


def _check_runs(name, options, n_runs, heads, capsys):
    _main(name, *options)
    lines = Path("runs.jsonl").read_text().splitlines()
    assert (
        len(lines) == n_runs == len({json.dumps(json.loads(x)["run"]) for x in lines})
    )
    out = capsys.readouterr().out
    assert re.search(heads, out)
    _main(name, *options)  # nothing is missing
    assert Path("runs.jsonl").read_text().splitlines() == lines
    _main(name, *options, "--show")
    again = capsys.readouterr().out
    # the tables, twice, and no line of JSON before the first of them
    assert again == 2 * again[: len(again) // 2]
    assert out.endswith(again[: len(again) // 2]) and '{"run"' not in again


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_runs_and_shows(name, papers, capsys):
    _check_runs(name, *RUNS[name], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_other_settings_run(name, papers, capsys):
    _check_runs(name, *SLOW[name], capsys)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments(name, papers, capsys):
    main = importlib.import_module(name).main
    for options, message in [
        (["--show"], "there is no runs.jsonl"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--seeds", "few"], "invalid int value: 'few'"),
    ]:
        with pytest.raises(SystemExit):
            main(["--out", "runs.jsonl", *options])
        assert message in capsys.readouterr().err
    assert not Path("runs.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("graph_discretization", ["--full"], "--full needs --data"),
        ("graph_discretization", ["--data", "."], "there is no folder segmentation"),
        ("witchcraft", ["--data", "cifar10"], "--data cifar10 needs --full"),
        ("byzantine", ["--model", "cnn", "--data", "breast_cancer"], "needs images"),
    ],
)
def test_what_does_not_go_together(name, options, message, papers, capsys):
    with pytest.raises(SystemExit):
        _main(name, *options)
    assert message in capsys.readouterr().err


class _ParsedError(Exception):
    pass


def test_every_command_is_understood(papers, monkeypatch):
    # of the page and of the docstrings: whatever they say must parse
    def parse_args(self, argv=None):
        parse(self, argv)
        raise _ParsedError

    parse = papers._Parser.parse_args
    monkeypatch.setattr(papers._Parser, "parse_args", parse_args)
    texts = [PAGE.read_text("utf-8")]
    texts += [importlib.import_module(name).__doc__ for name in NAMES]
    line = re.compile(r"^ +\$? ?python examples/papers/(\w+)\.py((?:.*\\\n)*.*)$", re.M)
    of_page, *others = map(line.findall, texts)
    assert {name for name, _ in of_page} == {name for name, _ in sum(others, [])}
    assert {name for name, _ in of_page} == set(NAMES)
    commands = sum(others, of_page)
    for name, options in commands:
        argv = shlex.split(options.replace("\\\n", ""))
        if "--show" in argv:
            Path(argv[argv.index("--out") + 1]).touch()
        with pytest.raises(_ParsedError):
            importlib.import_module(name).main(argv)


def test_page_names_eleven_papers():
    text = PAGE.read_text("utf-8")
    assert len(NAMES) == 11
    assert set(re.findall(r"arXiv:(\d{4}\.\d{5})", text)) >= PREPRINTS


def test_runs_are_measured_once(papers, capsys):
    runs, asked = papers.Runs("kept.jsonl"), []

    def measure(seed):
        asked.append(seed)
        return {"value": 10.0 * seed, "same": {"as": [1, 2]}}

    for seed in (2, 0, 2):
        assert runs.get({"seed": seed}, measure)["value"] == 10 * seed
    assert asked == [2, 0] and runs.get({"seed": 1}) is None
    runs.keep({"run": {"seed": 1}, "value": 7.0, "same": {}})
    again = papers.Runs("kept.jsonl")
    assert again.results == runs.results
    np.testing.assert_array_equal(again.values("value"), [0.0, 7.0, 20.0])
    np.testing.assert_array_equal(again.values("value", seed=2), [20.0])
    assert again.get({"seed": 0})["seconds"] >= 0
    assert len(again.values("value", seed=3)) == 0


def test_intervals_and_signs(papers):
    values = [1.0, 2.0, 4.0]
    mean, half = papers.interval(values)
    low, high = student.interval(
        0.95, 2, np.mean(values), np.std(values, ddof=1) / 3**0.5
    )
    np.testing.assert_allclose([mean - half, mean + half], [low, high])
    assert papers.shown(values, 1) == "2.3 +- 3.8"
    assert [papers.sign(v) for v in ([1, 2, 4], [1.0, 1.1], [-1.0, -1.1])] == [0, 1, -1]
    assert papers.sign([5.0]) == 0  # one run has no interval
    assert papers.shown_share(1, 2) == "0.50 [0.09, 0.91]"


def test_table(papers, capsys):
    papers.print_table([("a", 1, "x"), ("long name", 22, "")], ("setting", "n", "by"))
    assert capsys.readouterr().out.splitlines() == [
        "setting     n  by",
        "a           1   x",
        "long name  22    ",
    ]


@pytest.mark.long
def test_published_settings_can_be_built(papers, monkeypatch):
    # with few rows, epochs and steps: the networks and recipes are those of --full
    def few(name, n_train, n_test, seed):
        return all_images(name, 20, 10, seed)

    all_images = papers.images
    names = "_norms", "_ranks", "_minima", "_kernels", "witchcraft", "byzantine"
    norms, ranks, minima, kernels, witchcraft, byzantine = map(
        importlib.import_module, names
    )
    for module in (norms, ranks, minima, kernels, witchcraft, byzantine):
        monkeypatch.setattr(module, "images", few)
    X, y, _, _ = few("cifar10", 20, 10, 0)
    for setting in norms.FULL.values():
        clf = setting.classifier(0, "cpu", 0.0, norms.NormBias(10.0), 1)
        assert clf.set_params(max_epochs=0).fit(X, y).predict_proba(X).shape == (20, 10)
    short = {"epochs": 1, "at_epochs": (1,), "train_attack": {"max_iter": 1}}
    for name, value in short.items():
        monkeypatch.setitem(ranks.SETTINGS["full"], name, value)
    found = ranks.measure("adversarial", "max", 1.5, 0, "full", "cpu")
    assert 0 <= found["robust"] <= found["clean"] <= 100
    monkeypatch.setitem(witchcraft.EPOCHS, "cifar10", 1)
    module = witchcraft.trained("cifar10", None, 1, 0, "cpu")
    assert type(module.network).__name__ == "ResNet18"
    setting = minima.Setting("full")
    setting.n_epochs = 1
    for net in setting.trained:
        assert setting.measure_start(net, "biases +20", 0, "cpu")["accuracy"] <= 100
    for family in ("MLP", "ConvNet", "ResNet", "ResNet, neither"):
        network, params = kernels.network(family, 8, True)
        params = {name.removeprefix("module__"): v for name, v in params.items()}
        assert network(X.shape[1:], 10, **params) is not None
    federated = byzantine.federation("cnn", "mnist", "full", "cpu")
    assert (federated.n_clients, federated.n_rounds) == (100, 2000)
