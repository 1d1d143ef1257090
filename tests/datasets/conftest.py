import gzip
import struct

import numpy as np
import pytest

STEMS = {"train": "train", "test": "t10k"}


def idx_bytes(array):
    header = struct.pack(f">{1 + array.ndim}I", 2048 + array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def write_idx():
    """Writer of a set of tiny idx files, which returns {split: (images, labels)}."""

    def write(folder, n_train=40, n_test=20, suffix="", dots=False, splits=STEMS):
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.RandomState(0)
        written = {}
        for split, n in (("train", n_train), ("test", n_test)):
            images = rng.randint(0, 256, (n, 28, 28)).astype(np.uint8)
            labels = (np.arange(n) % 10).astype(np.uint8)
            written[split] = images, labels
            if split not in splits:
                continue
            for kind, array in (("images", images), ("labels", labels)):
                name = f"{STEMS[split]}-{kind}-idx{array.ndim}-ubyte"
                if dots:
                    name = name.replace("-idx", ".idx")
                data = idx_bytes(array)
                if suffix == ".gz":
                    data = gzip.compress(data)
                (folder / (name + suffix)).write_bytes(data)
        return written

    return write
