import gzip
import shutil

import numpy as np
import pytest

from skpoison.datasets import (
    DatasetCorruptError,
    DatasetNotFoundError,
    fetch_fashion_mnist,
    fetch_mnist,
    find_dataset,
)

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("inner", ["", "raw", "MNIST/raw", "package/data"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dots", [False, True])
def test_forms(tmp_path, write_idx, inner, suffix, dots):
    written = write_idx(tmp_path / inner, suffix=suffix, dots=dots)
    bunch = fetch_mnist(path=tmp_path, subset="all", verify=False)
    images, labels = map(np.concatenate, zip(*written.values(), strict=True))
    np.testing.assert_array_equal(bunch.images, images)
    np.testing.assert_array_equal(bunch.target, labels)
    assert find_dataset("mnist", path=tmp_path) == str(tmp_path / inner)


def test_fashion_mnist_finds_its_torchvision_tree(tmp_path, write_idx):
    write_idx(tmp_path / "FashionMNIST/raw")
    write_idx(tmp_path / "MNIST/raw", n_train=10)
    bunch = fetch_fashion_mnist(data_home=tmp_path, verify=False)
    assert len(bunch.target) == 40
    assert bunch.target_names[9] == "Ankle boot"


def test_a_file_is_no_folder(tmp_path, write_idx):
    write_idx(tmp_path)
    with pytest.raises(DatasetNotFoundError, match="is a file, expected the folder"):
        fetch_mnist(path=tmp_path / IMAGES)


def test_unpublished_data_fails_verification(tmp_path, write_idx):
    write_idx(tmp_path)
    with pytest.raises(DatasetCorruptError) as info:
        fetch_mnist(path=tmp_path)
    message = str(info.value)
    assert str(tmp_path / IMAGES) in message
    assert "741c988805d0" in message  # the published hash
    assert "verify=False" in message


def flip_a_pixel(folder):
    data = bytearray((folder / IMAGES).read_bytes())
    data[-1] ^= 1
    (folder / IMAGES).write_bytes(data)


def wrong_magic(folder):
    data = (folder / IMAGES).read_bytes()
    (folder / IMAGES).write_bytes(b"\0\0\x08\x02" + data[4:])


def swapped(folder):
    shutil.move(folder / IMAGES, folder / "x")
    shutil.move(folder / LABELS, folder / IMAGES)
    shutil.move(folder / "x", folder / LABELS)


def truncated(folder):
    (folder / IMAGES).write_bytes((folder / IMAGES).read_bytes()[:-1])


def trailing(folder):
    (folder / LABELS).write_bytes((folder / LABELS).read_bytes() + b"\0")


def only_a_header(folder):
    (folder / IMAGES).write_bytes((folder / IMAGES).read_bytes()[:10])


def truncated_gzip(folder):
    data = gzip.compress((folder / IMAGES).read_bytes())
    (folder / IMAGES).write_bytes(data[: len(data) // 2])


def damaged_gzip(folder):
    data = bytearray(gzip.compress((folder / IMAGES).read_bytes()))
    data[-8:-4] = b"\0\0\0\0"  # its checksum
    (folder / IMAGES).write_bytes(data)


def other_size(folder):
    data = bytearray((folder / IMAGES).read_bytes())
    data[11], data[15] = 56, 14
    (folder / IMAGES).write_bytes(data)


def fewer_labels(folder):
    data = bytearray((folder / LABELS).read_bytes()[:-1])
    data[7] -= 1
    (folder / LABELS).write_bytes(data)


def label_ten(folder):
    (folder / LABELS).write_bytes((folder / LABELS).read_bytes()[:-1] + b"\x0a")


@pytest.mark.parametrize(
    "damage, message",
    [
        (wrong_magic, "magic number 2050, expected 2051"),
        (swapped, "magic number 2049, expected 2051"),
        (truncated, "31359 bytes after the header, expected 31360"),
        (trailing, "41 bytes after the header, expected 40"),
        (only_a_header, "10 bytes, too short"),
        (truncated_gzip, "damaged gzip"),
        (damaged_gzip, "damaged gzip"),
        (other_size, "images of 56 x 14, expected 28 x 28"),
        (fewer_labels, "40 images but 39 labels"),
        (label_ten, "label 10 for train, expected 0 to 9"),
    ],
)
def test_corruption(tmp_path, write_idx, damage, message):
    write_idx(tmp_path)
    damage(tmp_path)
    with pytest.raises(DatasetCorruptError, match=message):
        fetch_mnist(path=tmp_path, verify=False)


@pytest.mark.dataset("fashion_mnist", "mnist")
def test_the_other_set_is_named():
    with pytest.raises(DatasetCorruptError, match="which is that of mnist"):
        fetch_fashion_mnist(path=find_dataset("mnist"), subset="test")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fetch, mean, std, counts, accuracy",
    [
        pytest.param(
            fetch_fashion_mnist,
            0.2860,
            0.3530,
            [6000] * 10,
            0.8028,
            marks=pytest.mark.dataset("fashion_mnist"),
        ),
        pytest.param(
            fetch_mnist,
            0.1307,
            0.3081,
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            0.8916,
            marks=pytest.mark.dataset("mnist"),
        ),
    ],
)
def test_published_figures(fetch, mean, std, counts, accuracy):
    from sklearn.linear_model import LogisticRegression

    train, test = fetch(), fetch(subset="test")
    assert train.verified and test.verified
    assert abs(train.data.mean() - mean) < 5e-5
    assert abs(train.data.std() - std) < 5e-5
    assert np.bincount(train.target).tolist() == counts
    model = LogisticRegression(C=0.01, max_iter=200)
    model.fit(train.data[:5000], train.target[:5000])
    assert abs(model.score(test.data, test.target) - accuracy) < 0.003
