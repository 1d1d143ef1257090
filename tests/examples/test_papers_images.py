"""The scripts that repeat the papers on poisoned images, in runs of a moment."""

import importlib
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

PAPERS = Path(__file__).parents[2] / "examples" / "papers"
COUNTS = ["--seeds", "1", "--targets", "2", "--victims", "1"]
SHORT = ["--epochs", "1"]
FEW = ["--defenses", "none", "cutmix", "dp-sgd", "--poisons", "clean-75"]
RUNS = {
    "augmentation": ["--seeds", "2", *FEW, *SHORT],
    "dp_instahide": ["--seeds", "1", *SHORT],
    "adversarial_poisons": [
        "--poisons",
        "badnets-1",
        *COUNTS,
        *SHORT,
        "--targets",
        "1",
    ],
    "release": ["--seeds", "1"],
    "witches_brew": COUNTS,
    "metapoison": COUNTS,
}
N_RUNS = {
    "augmentation": 2 * 4,
    "dp_instahide": 7,
    "adversarial_poisons": 4 + 3,
    "release": 6,
    "witches_brew": 6,
    "metapoison": 3,
}
WARNINGS = ["ignore:the victims' accuracy", "ignore:epsilon is"]
pytestmark = [pytest.mark.filterwarnings(text) for text in WARNINGS]


def fetch(size, subset, n_samples=None, dtype="uint8", **_):
    """Return images with a bright line that tells their class."""
    rng = np.random.default_rng(subset == "test")
    y = np.arange(n_samples or 400) % 10
    X = rng.integers(0, 64, (len(y), *size), dtype=np.uint8)
    X[np.arange(len(y)), :, 2 * y] = 255
    return (X if dtype == "uint8" else (X / 255).astype(dtype)), y


@pytest.fixture
def papers(monkeypatch):
    """The scripts' folder on the path, and data that are there at once."""
    monkeypatch.syspath_prepend(PAPERS)
    found = importlib.import_module("_runs").FETCH
    for name, size in [("fashion_mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))]:
        monkeypatch.setitem(found, name, lambda size=size, **kw: fetch(size, **kw))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_tiny_run_prints_its_table_and_is_kept(name, papers, tmp_path, capsys):
    out = tmp_path / "kept.jsonl"
    argv = ["--out", str(out), "--tiny", *RUNS[name]]
    main = runpy.run_path(str(PAPERS / f"{name}.py"))["main"]
    main(argv)
    first = capsys.readouterr().out
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(kept) == N_RUNS[name] and all(r["seconds"] >= 0 for r in kept)
    table = "\n".join(line for line in first.splitlines() if not line.startswith("{"))
    assert table.split()[:2] == ["setting", "published"]
    few = name in ("adversarial_poisons", "release")  # one trial each
    words = "Too few runs for a claim" if few else "The claim here: "
    assert table.splitlines()[-1].startswith(words)
    for shown in (argv, [*argv, "--show"]):
        main(shown)
        assert capsys.readouterr().out.strip() == table.strip()
    assert len(out.read_text().splitlines()) == len(kept)


@pytest.mark.parametrize("name", RUNS)
def test_wrong_arguments_are_refused(name, papers, tmp_path, capsys):
    main = runpy.run_path(str(PAPERS / f"{name}.py"))["main"]
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "none.jsonl"), "--show"])
    assert "there is no" in capsys.readouterr().err
    wrong = "--defenses" if "--epochs" in RUNS[name] else "--unknown"
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "none.jsonl"), wrong, "prayer"])
    assert "prayer" in capsys.readouterr().err


def test_figures_are_paired_by_seed_and_the_verdict_follows_them(papers, tmp_path):
    backdoored = importlib.import_module("_backdoored")
    runs = importlib.import_module("_runs").Runs(tmp_path / "kept.jsonl")
    parser = backdoored.backdoor_arguments("", ["none", "cutmix"], ["badnets-1"], 3)
    args = parser.parse_args(["--out", "x", "--seeds", "3"])
    for seed in (2, 0, 1):
        for name, success in (("none", 0.9 + seed / 100), ("cutmix", 0.1)):
            key = backdoored.key(args, name, "badnets-1", seed)
            runs.keep({"run": key, "success": success})
    gap = backdoored.change(runs, args, "cutmix", "success", "badnets-1")
    np.testing.assert_allclose(gap, [-0.8, -0.81, -0.82])
    assert backdoored.change(runs, args, "cutmix", "success", "clean-75") is None
    longer = parser.parse_args(["--out", "x", "--epochs", "4"])
    assert backdoored.change(runs, longer, "cutmix", "success", "badnets-1") is None
    verdicts = importlib.import_module("_verdicts")
    assert verdicts.told(gap) == "falls (-0.81 +- 0.02)"
    assert verdicts.told(-gap) == "rises (+0.81 +- 0.02)"
    assert verdicts.told(gap - gap.mean()).startswith("is not seen to change")
    assert verdicts.compared(gap, "none") == "below none (-0.81 +- 0.02)"


def test_all_defenses_and_poisons_can_be_asked_for(papers):
    backdoored = importlib.import_module("_backdoored")
    parser = backdoored.backdoor_arguments("", ["none"], ["badnets-1"], 12)
    argv = ["--out", "x", "--defenses", "all", "--poisons", "all"]
    cells = backdoored.cells(parser.parse_args(argv))
    assert len(cells) == 1 + 15 * 3 == len(set(cells))


def test_mixtures_are_hidden_at_least_k_times_better(papers, capsys):
    script = runpy.run_path(str(PAPERS / "dp_instahide.py"))
    assert script["show_mixing"](n=50)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["1", "2", "4", "8"]
    # log(1 + (k / n) (exp(sensitivity / (k scale)) - 1))
    for line, k in zip(lines, (1, 2, 4, 8), strict=True):
        exact = np.log1p(k / 50 * np.expm1(5 / k))
        assert float(line.split()[-1]) == pytest.approx(exact, abs=1e-5)


def test_the_published_setting_of_backdoors_runs(papers, tmp_path):
    backdoored = importlib.import_module("_backdoored")
    parser = backdoored.backdoor_arguments("", ["none"], ["badnets-1"], 12)
    args = parser.parse_args(["--out", "x", "--full", "--device", "cpu"])
    defenses = backdoored.make_defenses(args)
    assert defenses["none"].max_epochs == 40 and defenses["none"].batch_size == 128
    X, y = fetch((3, 32, 32), "train", 40, "float32")
    for name in ("cutmix", "adversarial patches", "dp-instahide 4, .1", "dp-sgd"):
        small = {"module__width": 2, "max_epochs": 1, "random_state": 0}
        fitted = defenses[name].set_params(**small).fit(X, y)
        assert fitted.module_.network.__class__.__name__ == "ResNet18"


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["release", "adversarial_poisons", "witches_brew", "metapoison"]
)
def test_published_settings_run(name, papers, tmp_path, monkeypatch, capsys):
    script = runpy.run_path(str(PAPERS / f"{name}.py"))
    scope = script["main"].__globals__
    selection = importlib.import_module("skpoison.model_selection")
    published = selection.published_setting

    def smaller(title, **_):
        setting = published(title, max_epochs=1)
        setting.victim.set_params(module__width=2, batch_size=16)
        known = setting.attack.get_params()
        few = {"max_iter": 1, "n_restarts": 1, "n_ensemble": 1, "batch_size": 16}
        if setting.budget < 1:
            few["budget"] = 4
        setting.attack.set_params(**{k: v for k, v in few.items() if k in known})
        return setting

    monkeypatch.setitem(scope, "published_setting", smaller)
    if name == "adversarial_poisons":
        monkeypatch.setitem(scope, "run_backdoors", lambda runs, args: None)
    if "FULL" in scope and name != "release":
        monkeypatch.setitem(scope, "FULL", scope["FULL"][:1])
    sizes = {"fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
    for kind, size in sizes.items():
        monkeypatch.setitem(
            importlib.import_module("_runs").FETCH,
            kind,
            lambda size=size, n_samples=None, **kw: fetch(size, n_samples=60, **kw),
        )
    argv = ["--out", str(tmp_path / "full.jsonl"), "--full", "--device", "cpu"]
    counts = ["--targets", "1", "--victims", "1"] if name != "release" else []
    script["main"]([*argv, "--seeds", "1", *counts])
    out = capsys.readouterr().out
    assert "published" in out and "claim" in out.splitlines()[-1]


def test_release_settings_are_the_published_ones(papers):
    script = runpy.run_path(str(PAPERS / "release.py"))
    parser = importlib.import_module("_runs").arguments("")
    args = parser.parse_args(["--out", "x", "--full", "--device", "cpu"])
    for method, eps in script["FULL_ARMS"]:
        attack, victim = script["make_setting"](args, method, eps)
        assert victim.max_epochs == 40
        if method == "clean":
            assert attack is None
            continue
        assert attack.method == method and attack.eps == 8 / 255
        assert attack.max_iter == 250
        assert attack.surrogate is not victim and attack.surrogate.max_epochs == 40
