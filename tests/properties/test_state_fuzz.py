"""State on disk that is damaged or holds something else is named and refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties._damage import damaged, file_of, outcome

from skpoison.attacks import protect_images
from skpoison.attacks._image_files import as_png
from skpoison.attacks._store import Store
from skpoison.audit._checkpoint import Checkpoint

pytest.importorskip("PIL.Image")

_PICTURE = as_png(np.zeros((1, 9, 7), dtype=np.uint8))

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["root_seed", "rows", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def _bytes_of(values):
    return values.map(json.dumps).map(str.encode) | st.just(b"[" * 5000)


_HEAD = json.dumps({"data": "abc", "root_seed": 5}).encode()


@given(head=damaged(_HEAD) | _JSON.map(json.dumps).map(str.encode))
def test_heads_of_audits(head):
    with file_of("audit.json", head) as path:
        found = outcome(
            lambda: Checkpoint(path.parent, {"data": "abc"}, root_seed=1), ValueError
        )
        assert found is None or (path.parent / "jobs").is_dir()


_JOB = json.dumps({"rows": [], "notes": [], "stand_ins": {}}).encode()


@given(job=damaged(_JOB) | _JSON.map(json.dumps).map(str.encode))
def test_jobs_of_audits(job):
    with file_of("jobs/j.json", job) as path:
        kept = Checkpoint(path.parents[1], {"data": "abc"}, root_seed=1)
        found = outcome(lambda: kept.get("j"), ValueError)
    assert found is None or {"rows", "notes", "stand_ins"} <= set(found)


@given(data=st.data())
def test_stores_of_attacks(data):
    with file_of("x/unused", b"") as path:
        Store(path.parent, "me").put("k", a=np.arange(5.0))
        file = path.parent / "k.npz"
        file.write_bytes(data.draw(damaged(file.read_bytes())))
        found = outcome(lambda: Store(path.parent, "me").get("k"), ValueError)
    if found:
        # zip checks sums: what is read is what was written, but for a name's case
        for array in found.values():
            np.testing.assert_array_equal(array, np.arange(5.0))


_SETTINGS = {
    "eps": 8.0,
    "random_state": 0,
    "attack": {"method": "alignment"},
    "channels": 1,
    "size": [9, 7],
    "classes": ["ant", "bee"],
}
_INDEX = b'{"a.png": {"sha256": "0", "label": "ant"}}'


@given(
    settings_=st.none()
    | _bytes_of(_JSON)
    | _bytes_of(
        st.builds(
            lambda key, value: {**_SETTINGS, key: value},
            st.sampled_from(list(_SETTINGS)),
            _JSON,
        )
    ),
    index=damaged(_INDEX) | _bytes_of(_JSON) | st.just(_INDEX),
)
def test_states_of_releases(settings_, index):
    with file_of("out/.skpoison/index.json", index) as path:
        if settings_ is not None:
            path.with_name("settings.json").write_bytes(settings_)
        folder = path.parents[2] / "in"
        folder.mkdir()
        (folder / "a.png").write_bytes(_PICTURE)
        (folder / "b.png").write_bytes(b"not a picture")
        labels = {"a.png": "ant", "b.png": "bee"}
        with pytest.raises(ValueError) as caught:
            protect_images(folder, path.parents[1], labels)
        assert not isinstance(caught.value, UnicodeError)
