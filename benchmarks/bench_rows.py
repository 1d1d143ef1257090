"""Row keys: names of rows by content, against other ways to hash every row."""

import hashlib

import numpy as np
import pandas as pd

from skpoison.utils import row_keys


def measure(bench):
    """Time row keys of tables and images."""
    bench.title("Row keys, seconds a call; bound: one BLAKE2b of all float32 bytes")
    xxhash = bench.optional("xxhash")
    n_rows = bench.size(60_000, 6_000)
    rng = np.random.default_rng(0)
    table = rng.random((n_rows, 784), dtype=np.float32)
    images = rng.random((bench.size(5_000, 500), 3, 32, 32), dtype=np.float32)
    cases = [
        (f"{n_rows:,} x 784 float32", table),
        (f"{n_rows:,} x 784 float64", table.astype(np.float64)),
        (f"{len(images):,} x 3 x 32 x 32 float32", images),
    ]
    for name, X in cases:
        single = np.ascontiguousarray(X, dtype=np.float32)
        frame = pd.DataFrame(X.reshape(len(X), -1))

        def hash_with(digest, X=X):
            return [digest(np.ascontiguousarray(row)) for row in X]

        def sha256(hash_with=hash_with):
            return hash_with(lambda row: hashlib.sha256(row).hexdigest())

        def siphash(hash_with=hash_with):
            return hash_with(lambda row: hash(row.tobytes()))

        def pandas_hash(frame=frame):
            return pd.util.hash_pandas_object(frame, index=False)

        peers = {
            "sha256 loop": sha256,
            "pandas, 64 bits": pandas_hash,
            "hash(), 64 bits, salted": siphash,
        }
        # a bar only against what promises as much: whoever writes the rows can make two
        # of them collide under the others, and hash() holds in one process only
        bars = {"sha256 loop": 1.0}
        if xxhash is not None:

            def xxh3(xxhash=xxhash, hash_with=hash_with):
                return hash_with(lambda row: xxhash.xxh3_128_hexdigest(row))

            peers["xxh3_128, breakable"] = xxh3
        assert len(set(row_keys(X))) == len(set(peers["sha256 loop"]())) == len(X)
        bench.compare(
            f"row_keys, {name}",
            lambda X=X: row_keys(X),
            peers,
            repeats=5,
            bound=lambda single=single: hashlib.blake2b(single, digest_size=16),
            bars=bars,
        )
