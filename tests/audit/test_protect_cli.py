"""The command ``protect``: what it prints and what it refuses."""

import sys

import numpy as np
import pytest

pytest.importorskip("pandas")
testing = pytest.importorskip("click.testing")
Image = pytest.importorskip("PIL.Image")

from skpoison.audit._cli import cli  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    rng = np.random.RandomState(0)
    for i in range(8):
        path = tmp_path / "in" / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.randint(0, 255, (8, 8, 3)).astype(np.uint8)).save(path)
    return tmp_path


def _run(folder, *args):
    command = ["protect", folder / "in", folder / "out", *args]
    return testing.CliRunner().invoke(cli, [str(a) for a in command])


def test_protect_then_again(folder):
    args = ["--labels", "folders", "--eps", 6, "--steps", 2, "--preview", 1]
    found = _run(folder, *args)
    assert found.exit_code == 0, found.stderr
    assert found.stdout == (
        f"8 protected, 0 done before, largest change 6 of 255: {folder / 'out'}\n"
    )
    assert "images" in found.stderr
    assert len(list((folder / "out" / "previews").iterdir())) == 1
    again = _run(folder, *args, "--quiet")
    assert again.stdout.startswith("0 protected, 8 done before")
    assert again.stderr == ""


def test_labels_size_seed_and_method(folder):
    names = [
        p.relative_to(folder / "in").as_posix() for p in (folder / "in").glob("*/*")
    ]
    lines = ["file,label", *(f"{n},{i % 2}" for i, n in enumerate(names))]
    (folder / "labels.csv").write_text("\n".join(lines))
    found = _run(
        folder, "--labels", folder / "labels.csv", "--size", "4x6", "--seed", 3,
        "--method", "random", "--quiet",
    )  # fmt: skip
    assert found.exit_code == 0 and found.stderr == ""
    assert Image.open(folder / "out" / "cat" / "1.png").size == (6, 4)


@pytest.mark.parametrize(
    "args, message",
    [
        (["--labels", "no.csv"], "is no file"),
        (["--labels", "folders", "--eps", "0.1"], "eps must be in [1, 255]"),
        (["--labels", "folders", "--size", "8"], "--size: '8' is no HEIGHTxWIDTH"),
        (["--labels", "folders", "--steps", "0"], "max_iter must be >= 1"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(folder, args, message):
    found = _run(folder, *args)
    assert found.exit_code == 2 and found.stdout == ""
    assert message in found.stderr and found.stderr.count("\n") == 1
    assert not (folder / "out").exists()


def test_broken_file_and_missing_pillow(folder, monkeypatch):
    (folder / "in" / "cat" / "x.jpg").write_bytes(b"\xff\xd8 no")
    found = _run(folder, "--labels", "folders")
    assert found.exit_code == 2 and found.stderr.count("\n") == 1
    assert "x.jpg can't be read" in found.stderr
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    found = _run(folder, "--labels", "folders")
    assert found.exit_code == 2 and "skpoison[images]" in found.stderr
