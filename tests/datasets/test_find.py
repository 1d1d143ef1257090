import os
import subprocess
import sys
from pathlib import Path

import pytest

from skpoison.datasets import (
    DatasetCorruptError,
    DatasetNotFoundError,
    clear_data_home,
    fetch_ch_mnist,
    fetch_cifar10,
    fetch_fashion_mnist,
    fetch_mnist,
    fetch_spambase,
    find_dataset,
    get_data_home,
)
from skpoison.datasets._find import DATASETS

FETCHERS = {
    "ch_mnist": fetch_ch_mnist,
    "cifar10": fetch_cifar10,
    "fashion_mnist": fetch_fashion_mnist,
    "mnist": fetch_mnist,
    "spambase": fetch_spambase,
}


@pytest.fixture(autouse=True)
def no_packages(monkeypatch):
    """What the operating system has installed must not decide these tests."""
    for dataset in DATASETS.values():
        monkeypatch.setattr(dataset, "packages", ())


def test_data_home_default_variable_and_argument(monkeypatch, tmp_path):
    monkeypatch.delenv("SKPOISON_DATA", raising=False)
    default = os.path.expanduser(os.path.join("~", "skpoison_data"))
    assert get_data_home() == default
    monkeypatch.setenv("SKPOISON_DATA", "")
    assert get_data_home() == default
    monkeypatch.setenv("SKPOISON_DATA", os.path.join("~", "x"))
    assert get_data_home() == os.path.expanduser(os.path.join("~", "x"))
    assert get_data_home(tmp_path) == str(tmp_path)


@pytest.mark.parametrize("fetch", FETCHERS.values())
def test_failing_fetch_creates_nothing(fetch, tmp_path):
    home = tmp_path / "home"
    with pytest.raises(DatasetNotFoundError):
        fetch(data_home=home)
    assert not home.exists()


def test_clear_deletes_only_what_fetchers_write(tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "file").touch()
    (tmp_path / "thesis.tex").touch()
    clear_data_home(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "thesis.tex").unlink()
    clear_data_home(tmp_path)
    assert not tmp_path.exists()
    clear_data_home(tmp_path)


def test_find_unknown_name():
    with pytest.raises(ValueError, match="name must be one of .*'mnist'.* got 'svhn'"):
        find_dataset("svhn")


def test_find_absent_and_partial(tmp_path, write_idx):
    assert find_dataset("mnist", data_home=tmp_path) is None
    assert find_dataset("mnist", path=tmp_path / "absent") is None
    write_idx(tmp_path / "mnist", splits=("train",))
    assert find_dataset("mnist", data_home=tmp_path) is None
    fetch_mnist(data_home=tmp_path, verify=False)
    with pytest.raises(DatasetNotFoundError, match="lacks t10k-images-idx3-ubyte"):
        fetch_mnist(data_home=tmp_path, subset="all", verify=False)


def test_own_folder_of_the_home_comes_first(tmp_path, write_idx):
    write_idx(tmp_path)
    assert find_dataset("mnist", data_home=tmp_path) == str(tmp_path)
    write_idx(tmp_path / "mnist")
    assert find_dataset("mnist", data_home=tmp_path) == str(tmp_path / "mnist")
    bunch = fetch_mnist(data_home=tmp_path, verify=False)
    assert bunch.source == f"data_home: {tmp_path / 'mnist'}"


def test_packages_come_last(tmp_path, write_idx, monkeypatch):
    package = tmp_path / "package"
    write_idx(package)
    monkeypatch.setattr(DATASETS["fashion_mnist"], "packages", (str(package),))
    bunch = fetch_fashion_mnist(data_home=tmp_path / "home", verify=False)
    assert bunch.source == f"package: {package}"


def test_path_is_exclusive(tmp_path, write_idx):
    write_idx(tmp_path / "mnist")
    absent = tmp_path / "absent"
    with pytest.raises(DatasetNotFoundError) as info:
        fetch_mnist(data_home=tmp_path, path=absent)
    assert f"{absent}: does not exist" in str(info.value)
    assert "network: not tried, path was given" in str(info.value)
    assert f"{tmp_path / 'mnist'}:" not in str(info.value)


def test_path_expands_the_user_folder(monkeypatch, tmp_path, write_idx):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_idx(tmp_path / "files")
    assert find_dataset("mnist", path="~/files") == str(tmp_path / "files")


@pytest.mark.parametrize("name", FETCHERS)
def test_message_says_what_to_do(name, tmp_path):
    with pytest.raises(DatasetNotFoundError) as info:
        FETCHERS[name](data_home=tmp_path)
    message = str(info.value)
    for part in (
        f"data set {name} was not found",
        f"{tmp_path / name}: does not exist",
        f"{tmp_path}: has none of",
        "SKPOISON_OFFLINE is set",
        DATASETS[name].page,
        f"fetch_{name}(path=...)",
        "SKPOISON_DATA",
        *DATASETS[name].hints,
    ):
        assert part in message


def test_message_when_downloads_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("SKPOISON_OFFLINE")
    with pytest.raises(DatasetNotFoundError, match="download_if_missing=False"):
        fetch_mnist(data_home=tmp_path, download_if_missing=False)


def test_corrupt_file_stops_the_search(tmp_path, write_idx):
    write_idx(tmp_path / "mnist")
    (tmp_path / "mnist" / "train-images-idx3-ubyte").write_bytes(b"")
    write_idx(tmp_path)
    with pytest.raises(DatasetCorruptError, match="too short"):
        fetch_mnist(data_home=tmp_path, verify=False)
    assert (tmp_path / "mnist" / "train-images-idx3-ubyte").exists()


def test_import_is_light():
    code = (
        "import sys, skpoison.datasets; "
        "print([m for m in ('torch', 'pandas', 'PIL', 'rdata') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert output.stdout.strip() == "[]", output.stderr
