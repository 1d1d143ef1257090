"""Protected copies of image folders: limits after saving, late files, killed calls."""

import csv
import json
import shutil

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Image = pytest.importorskip("PIL.Image")

from skpoison.attacks import _protect  # noqa: E402
from skpoison.attacks._protect import protect_images  # noqa: E402
from skpoison.attacks._release import ReleasePoisonAttack  # noqa: E402
from skpoison.models import MLP, TorchClassifier  # noqa: E402

NET = TorchClassifier(max_epochs=2, device="cpu")
FAST = ReleasePoisonAttack(online=True, max_iter=3, surrogate=NET, device="cpu")
DIGITS = load_digits()


def _image(row, mode="L"):
    grey = (DIGITS.images[row] / 16 * 255).astype(np.uint8)
    return Image.fromarray(grey).convert(mode)


def _fill(folder, rows, mode="L", suffix="png"):
    """Write digits to a sub-folder a class."""
    for row in rows:
        path = folder / f"digit {DIGITS.target[row]}" / f"{row}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        _image(row, mode).save(path)


def _protect_folder(folder, labels="folders", attack=FAST, **params):
    return protect_images(
        folder / "in", folder / "out", labels, attack=attack, **params
    )


def _contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize(
    "mode, suffix, params",
    [
        ("L", "png", {}),
        ("RGB", "PNG", {"method": "error_max"}),
        ("RGB", "jpg", {"method": "class_target"}),
        ("L", "jpeg", {"method": "random"}),
        ("P", "png", {"method": "random"}),
        ("1", "png", {"method": "random"}),
    ],
)
def test_what_is_saved_is_inside_eps(tmp_path, mode, suffix, params):
    source, target = tmp_path / "in", tmp_path / "out"
    _fill(source, range(12), mode, suffix)
    before = _contents(source)
    attack = clone(FAST).set_params(**params)
    report = _protect_folder(tmp_path, attack=attack, eps=5)
    assert _contents(source) == before
    assert report.n_protected == 12 and report.n_skipped == 0
    assert sorted(report.files) == sorted(p for p in target.rglob("*.png"))
    changes = []
    for name in before:
        clean = Image.open(source / name)
        saved = Image.open((target / name).with_suffix(".png"))
        assert saved.format == "PNG" and saved.mode == (
            "RGB" if mode in "RGBP" else "L"
        )
        shown = np.asarray(clean.convert(saved.mode), dtype=int)
        changes.append(np.abs(np.asarray(saved) - shown).max())
    assert max(changes) == report.max_change <= 5
    assert min(changes) > 0


def test_grey_among_colours_becomes_colour(tmp_path):
    _fill(tmp_path / "in", range(6), "RGB")
    _fill(tmp_path / "in", range(6, 12), "L")
    report = _protect_folder(tmp_path)
    assert {Image.open(p).mode for p in report.files} == {"RGB"}
    _fill(tmp_path / "in", range(12, 14), "L")
    assert {Image.open(p).mode for p in _protect_folder(tmp_path).files} == {"RGB"}


def test_orientation_size_and_profile(tmp_path):
    wide = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12))
    turn = Image.Exif()
    turn[0x0112] = 6  # a quarter turn, as phones note it
    turn[0x010F] = "maker"
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        wide.save(tmp_path / "in" / name / "x.png", exif=turn, icc_profile=b"profile")
    report = _protect_folder(tmp_path)
    saved = Image.open(report.files[0])
    assert saved.size == (8, 12) and saved.info["icc_profile"] == b"profile"
    assert not saved.getexif()
    upright = np.asarray(wide.transpose(Image.Transpose.ROTATE_270), dtype=int)
    assert np.abs(np.asarray(saved) - upright).max() <= 8
    shutil.rmtree(tmp_path / "out")
    report = _protect_folder(tmp_path, size=(5, 7))
    assert Image.open(report.files[0]).size == (7, 5)


@pytest.mark.parametrize("kind", ["csv", "dict"])
def test_labels_by_file_name(tmp_path, kind):
    _fill(tmp_path / "in", range(12))
    names = [p.relative_to(tmp_path / "in").as_posix() for p in _files(tmp_path / "in")]
    labels = {name: i % 2 for i, name in enumerate(names)}
    if kind == "csv":
        with open(tmp_path / "labels.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerows([["label", "file"], *([v, k] for k, v in labels.items())])
        labels = tmp_path / "labels.csv"
    assert _protect_folder(tmp_path, labels).n_protected == 12
    settings = json.loads((tmp_path / "out/.skpoison/settings.json").read_text())
    assert settings["classes"] == ["0", "1"]


def _files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_late_files_get_the_same_surrogate(tmp_path):
    _fill(tmp_path / "in", range(12))
    _protect_folder(tmp_path)
    first = _contents(tmp_path / "out")
    nothing = _protect_folder(tmp_path)
    assert nothing.n_protected == 0 and nothing.n_skipped == 12 and nothing.files == []
    _fill(tmp_path / "in", range(12, 20))
    late = _protect_folder(tmp_path)
    assert late.n_protected == 8 and late.n_skipped == 12
    now = _contents(tmp_path / "out")
    kept = [n for n in first if not n.endswith("index.json")]
    assert {n: now[n] for n in kept} == {n: first[n] for n in kept}
    # what fit learned from the first files alone protects the late ones
    X = np.stack([np.asarray(_image(row)) for row in range(20)])[:, None]
    y = np.array([f"digit {c}" for c in DIGITS.target[:20]])
    order = sorted(range(12), key=lambda row: f"{y[row]}/{row}.png")
    attack = clone(FAST).set_params(eps=8, bounds=None, random_state=0)
    attack.fit(X[order], y[order])
    order = sorted(range(12, 20), key=lambda row: f"{y[row]}/{row}.png")
    wanted = attack.protect(X[order], y[order])
    for path, pixels in zip(late.files, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels[0])


def test_changed_removed_and_relabelled_files_are_done_again(tmp_path):
    _fill(tmp_path / "in", range(12))
    paths = _files(tmp_path / "in")
    names = [p.relative_to(tmp_path / "in").as_posix() for p in paths]
    labels = {name: i % 2 for i, name in enumerate(names)}
    first = _protect_folder(tmp_path, labels)
    _image(50).save(paths[0])
    first.files[3].unlink()
    labels[names[7]] = 0
    again = _protect_folder(tmp_path, labels)
    assert again.files == [first.files[i] for i in (0, 3, 7)]


@pytest.mark.parametrize("when", [0, 1, 2, 3, 5, 9, 14, 17])
def test_a_killed_call_ends_with_the_same_files(tmp_path, monkeypatch, when):
    monkeypatch.setattr(_protect, "_BATCH", 4)
    for name in ("whole", "killed"):
        _fill(tmp_path / name / "in", range(12))
    _protect_folder(tmp_path / "whole", preview=2)

    from skpoison.attacks import _store
    from skpoison.utils import _files

    count = iter(range(100))
    write = _files.write_atomically

    def killed(path, content):
        if next(count) == when:
            (path.parent / ".skpoison-0.part").write_text("half")
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for module in (_protect, _store):
            patch.setattr(module, "write_atomically", killed)
        _protect_folder(tmp_path / "killed", preview=2)
    _protect_folder(tmp_path / "killed", preview=2)
    whole, resumed = (_contents(tmp_path / n / "out") for n in ("whole", "killed"))
    assert list(whole) == list(resumed)
    for name, content in whole.items():
        if not name.endswith(".npz"):  # zip files hold the time
            assert resumed[name] == content, name


def test_previews(tmp_path):
    _fill(tmp_path / "in", range(12))
    _protect_folder(tmp_path, preview=3)
    found = _files(tmp_path / "out" / "previews")
    assert [p.name for p in found] == [
        "digit 0_0.png", "digit 0_10.png", "digit 1_1.png"
    ]  # fmt: skip
    shown = np.asarray(Image.open(found[0]))[16:, :, 0]
    zoom = shown.shape[0] // 8
    before, after, change = np.split(shown[::zoom, ::zoom].astype(float), 3, axis=1)
    np.testing.assert_array_equal(before, np.asarray(_image(0)))
    np.testing.assert_allclose(change, 127.5 + 127 / 8 * (after - before), atol=1)
    _fill(tmp_path / "in", range(12, 15))
    _protect_folder(tmp_path, preview=3)
    assert _files(tmp_path / "out" / "previews") == found


def _write_16_bit(path):
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(path)


def _write_16_bit_colour(path):
    _image(0, "RGB").save(path)
    content = bytearray(path.read_bytes())
    content[24] = 16  # the header says 16 bits
    path.write_bytes(content)


def _write_frames(path):
    _image(0).save(path, save_all=True, append_images=[_image(1)])


def _write_half(path):
    _image(0).resize((64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    "name, write, message",
    [
        ("x.png", lambda p: p.write_bytes(b"no image"), "can't be read as PNG or JPEG"),
        ("x.png", _write_half, "can't be read as PNG or JPEG"),
        ("x.png", lambda p: _image(0, "RGBA").save(p), "has transparency"),
        ("x.png", lambda p: _image(0, "LA").save(p), "has transparency"),
        ("x.png", lambda p: _image(0, "P").save(p, transparency=0), "transparency"),
        ("x.png", _write_16_bit, "has 16 bits"),
        ("x.png", _write_16_bit_colour, "x.png"),
        ("x.png", _write_frames, "has several frames"),
        ("x.jpg", lambda p: _image(0, "CMYK").save(p), "colour mode CMYK"),
        ("x.jpg", lambda p: _image(0).resize((9, 8)).save(p), "8 x 9 pixels, .*8 x 8"),
        ("x.gif", lambda p: _image(0).save(p), "neither PNG nor JPEG"),
        ("0.JPG", lambda p: _image(0).save(p), "would both become digit 0/0.png"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_bad_files_are_named_before_anything_is_written(
    tmp_path, name, write, message, late
):
    _fill(tmp_path / "in", range(12))
    attack = ReleasePoisonAttack("random")
    if late:
        _protect_folder(tmp_path, attack=attack)
    before = _contents(tmp_path / "out")
    write(tmp_path / "in" / "digit 0" / name)
    with pytest.raises(ValueError, match=message) as found:
        _protect_folder(tmp_path, attack=attack)
    assert name in str(found.value)
    assert _contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"in_folder": "no"}, ValueError, "is no folder"),
        ({"out_folder": "in"}, ValueError, "another folder"),
        ({"out_folder": "in/out"}, ValueError, "another folder"),
        ({"out_folder": "."}, ValueError, "another folder"),
        ({"out_folder": "file"}, ValueError, "is a file"),
        ({"out_folder": "full"}, ValueError, "holds files of something else"),
        ({"in_folder": "full"}, ValueError, "no PNG or JPEG file"),
        ({"labels": {}}, ValueError, "none for digit 0/0.png and 11 more"),
        ({"labels": "no.csv"}, ValueError, "is no file"),
        ({"labels": "file"}, ValueError, "columns file and label"),
        ({"eps": 0.03}, ValueError, "eps must be in"),
        ({"size": 8}, ValueError, "size must be None or"),
        ({"size": (8, 0)}, ValueError, "each side in size"),
        ({"preview": -1}, ValueError, "preview must be"),
        ({"random_state": None}, TypeError, "random_state must be"),
        ({"attack": NET}, TypeError, "must be a ReleasePoisonAttack"),
        ({"attack": ReleasePoisonAttack()}, ValueError, "all rows together"),
        (
            {"attack": clone(FAST).set_params(surrogate=make_pipeline(NET))},
            TypeError,
            "the surrogate of images",
        ),
    ],
)
def test_bad_arguments(tmp_path, params, error, message):
    _fill(tmp_path / "in", range(12))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("name,kind\n")
    before = _contents(tmp_path)
    folders = {
        name: tmp_path / params.pop(name, name.partition("_")[0])
        for name in ("in_folder", "out_folder")
    }
    if params.get("labels") in ("no.csv", "file"):
        params["labels"] = tmp_path / params["labels"]
    with pytest.raises(error, match=message):
        protect_images(**{"labels": "folders", "attack": FAST, **folders, **params})
    assert _contents(tmp_path) == before


def test_labels_must_be_of_sub_folders_and_two(tmp_path):
    _fill(tmp_path / "in", [0, 10])
    with pytest.raises(ValueError, match="must hold two classes"):
        _protect_folder(tmp_path)
    assert not (tmp_path / "out").exists()
    _image(3).save(tmp_path / "in" / "3.png")
    with pytest.raises(ValueError, match="3.png is in none"):
        _protect_folder(tmp_path)


def test_a_folder_keeps_to_its_first_call(tmp_path):
    _fill(tmp_path / "in", range(9))
    _protect_folder(tmp_path)
    _fill(tmp_path / "in", range(9, 10))
    for params in ({"eps": 4}, {"random_state": 1}, {"attack": _other(max_iter=9)}):
        with pytest.raises(ValueError, match="begun with other settings"):
            _protect_folder(tmp_path, **params)
    with pytest.raises(ValueError, match="label 'digit 9' is none of the first"):
        _protect_folder(tmp_path)
    labels = {
        p.relative_to(tmp_path / "in").as_posix(): "digit 3"
        for p in _files(tmp_path / "in")
    }
    _image(9, "RGB").save(tmp_path / "in" / "digit 9" / "9.png")
    with pytest.raises(ValueError, match="has colours"):
        _protect_folder(tmp_path, labels)
    _image(9).save(tmp_path / "in" / "digit 9" / "9.png")
    with pytest.raises(ValueError, match="6 x 6 pixels, the images of the first call"):
        _protect_folder(tmp_path, labels, size=(6, 6))
    state = tmp_path / "out" / ".skpoison" / "settings.json"
    state.write_text("{")
    with pytest.raises(ValueError, match="settings.json is damaged"):
        _protect_folder(tmp_path)


def _other(**params):
    return clone(FAST).set_params(**params)


def test_missing_pillow_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"skpoison\[images\]"):
        _protect_folder(tmp_path)


@pytest.mark.slow
def test_the_copies_do_harm(tmp_path):
    """Networks trained on the copies misread clean images."""
    _fill(tmp_path / "in", range(400))
    net = TorchClassifier(MLP, device="cpu", random_state=3)
    attack = clone(FAST).set_params(max_iter=30, surrogate=clone(net))
    scores = {}
    for name, one in (("craft", attack), ("noise", ReleasePoisonAttack("random"))):
        out = tmp_path / name
        report = protect_images(
            tmp_path / "in", out, "folders", attack=one, eps=90, random_state=1
        )
        X = np.stack([np.asarray(Image.open(p)) for p in report.files])[:, None]
        y = [p.parent.name for p in report.files]
        clean = np.stack([np.asarray(_image(row)) for row in range(400, 800)])[:, None]
        truth = [f"digit {c}" for c in DIGITS.target[400:800]]
        scores[name] = net.fit(X, y).score(clean, truth)
    assert scores["noise"] > 0.7 and scores["craft"] < scores["noise"] - 0.1


def test_scaler_is_no_part_of_an_image_surrogate():
    with pytest.raises(TypeError, match="the surrogate of images"):
        _protect._checked_attack(
            _other(surrogate=[make_pipeline(StandardScaler(), NET)]), 8, 0
        )
