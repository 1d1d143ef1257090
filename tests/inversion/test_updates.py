"""Updates in every form that a client's may come in, and files nobody should trust."""

import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from torch import nn

from skpoison.inversion import load_update, save_update

SUFFIXES = [".npz", ".safetensors"]


def module(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))


@pytest.fixture(autouse=True)
def _own_stream():
    with torch.random.fork_rng():
        yield


NET = module()
NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
SHAPES = [(3, 4), (3,), (3,), (3,), (2, 3), (2,)]
RNG = np.random.default_rng(0)
ARRAYS = [RNG.normal(size=shape) for shape in SHAPES]


def tensors(dtype=torch.float64):
    return [torch.tensor(a, dtype=dtype) for a in ARRAYS]


def forms():
    flat = np.concatenate([a.ravel() for a in ARRAYS])
    strided = np.zeros((len(flat), 2))
    strided[:, 0] = flat
    reverse = dict(reversed(list(zip(NAMES, ARRAYS, strict=True))))
    return {
        "list": ARRAYS,
        "tuple of tensors": tuple(tensors()),
        "parameters": [nn.Parameter(t) for t in tensors()],
        "nested lists": [a.tolist() for a in ARRAYS],
        "dict in another order": reverse,
        "flat": flat,
        "flat strided": strided[:, 0],
        "flat backwards": flat[::-1].copy()[::-1],
        "flat tensor": torch.tensor(flat),
        "flat tensor strided": torch.tensor(strided)[:, 0],
        "big-endian": [a.astype(">f8") for a in ARRAYS],
        "long double": [a.astype(np.longdouble) for a in ARRAYS],
    }


@pytest.mark.parametrize("form", forms())
def test_every_form(form):
    update = load_update(forms()[form], NET)
    assert list(update) == NAMES
    for (name, value), array in zip(update.items(), ARRAYS, strict=True):
        assert value.dtype == torch.float64 and not value.requires_grad, name
        np.testing.assert_array_equal(value.numpy(), array)


def test_gradients_of_a_backward_pass():
    net = module()
    net(torch.randn(5, 4)).square().sum().backward()
    by_name = load_update({n: p.grad for n, p in net.named_parameters()}, net)
    in_order = load_update([p.grad for p in net.parameters()], net)
    for name, parameter in net.named_parameters():
        assert torch.equal(by_name[name], parameter.grad)
        assert torch.equal(in_order[name], parameter.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_floating_types_are_kept(dtype):
    update = load_update(tensors(dtype), NET)
    assert {value.dtype for value in update.values()} == {dtype}


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64])
def test_whole_numbers_become_floats(dtype):
    update = load_update([np.ones(shape, dtype) for shape in SHAPES], NET)
    assert {value.dtype for value in update.values()} == {torch.float32}
    assert all((value == 1).all() for value in update.values())


def test_fitted_classifier():
    X, y = load_iris(return_X_y=True)
    clf = LogisticRegression(max_iter=1000).fit(X, y)
    weight, bias = load_update([clf.coef_, clf.intercept_], clf).values()
    np.testing.assert_array_equal(weight, clf.coef_)
    np.testing.assert_array_equal(bias, clf.intercept_)


def test_frozen_parameters_are_left_out():
    net = module()
    net[0].requires_grad_(False)
    assert list(load_update(ARRAYS[2:], net)) == NAMES[2:]
    with pytest.raises(ValueError, match=r"shape \(3, 4\) for '1.weight'"):
        load_update(ARRAYS, net)
    full = dict(zip(NAMES, ARRAYS, strict=True))
    with pytest.raises(ValueError, match="'0.weight', a frozen parameter"):
        load_update(full, net)
    with pytest.raises(ValueError, match="no parameters that are trained"):
        load_update(ARRAYS, net.requires_grad_(False))


def bad_forms():
    full = dict(zip(NAMES, ARRAYS, strict=True))
    nan = [a.copy() for a in ARRAYS]
    nan[4][1, 2] = np.nan
    huge = tensors(torch.bfloat16)
    huge[5] = huge[5] * torch.inf
    wrong = [*ARRAYS[:2], np.ones((3, 1)), np.ones(9), *ARRAYS[4:]]
    return {
        "too short": (
            ARRAYS[:4],
            r"4 arrays.* 6 trained parameters .* disagree from '3.weight'",
        ),
        "too long": ([*ARRAYS, np.ones(2)], "7 arrays.*disagree after '3.bias'"),
        "first wrong shape": (
            wrong,
            r"shape \(3, 1\) for '1.weight', but the parameter has shape \(3,\)",
        ),
        "shape before count": (wrong[:3], r"shape \(3, 1\) for '1.weight'"),
        "wrong shape by name": (
            {**full, "3.bias": np.ones(3)},
            r"shape \(3,\) for '3.bias'.* shape \(2,\)",
        ),
        "missing": ({n: full[n] for n in NAMES[1:]}, r"lacks .*'0.weight' of shape"),
        "unknown": ({**full, "head": np.ones(2)}, "'head', which is no parameter"),
        "buffer": (
            {**full, "1.running_mean": np.ones(3)},
            "'1.running_mean', a buffer of the module: drop it",
        ),
        "none": ([None, *ARRAYS[1:]], "None for '0.weight': pass zeros"),
        "flat length": (np.ones(5), r"shape \(29,\).* got \(5,\)"),
        "flat matrix": (np.ones((29, 1)), r"shape \(29,\).* got \(29, 1\)"),
        "nan": (nan, "update of '3.weight' holds NaN"),
        "infinite": (huge, "update of '3.bias' holds NaN or infinite"),
        "zero": ([0 * a for a in ARRAYS], "^the update is zero; nothing can be recon"),
        "zero flat": (np.zeros(29, np.float16), "^the update is zero"),
    }


@pytest.mark.parametrize("form", bad_forms())
def test_what_does_not_fit_is_named(form):
    source, message = bad_forms()[form]
    with pytest.raises(ValueError, match=message):
        load_update(source, NET)


@pytest.mark.parametrize(
    "source",
    [None, 3.5 + 1j, {1, 2}, [ARRAYS[0].astype(complex)] + ARRAYS[1:], np.array([{}])],
    ids=["none", "complex", "set", "complex array", "objects"],
)
def test_other_types(source):
    with pytest.raises(TypeError, match="real numbers"):
        load_update(source, NET)


class TestFiles:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
    def test_round_trip(self, tmp_path, suffix, dtype):
        path = tmp_path / f"update{suffix}"
        update = load_update(tensors(dtype), NET)
        save_update(path, update)
        for source in (path, str(path)):
            loaded = load_update(source, NET)
            assert list(loaded) == NAMES
            for name in NAMES:
                assert loaded[name].dtype == dtype
                assert torch.equal(loaded[name], update[name])
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize("suffix, kept", [(".npz", False), (".safetensors", True)])
    def test_bfloat16(self, tmp_path, suffix, kept):
        path = tmp_path / f"update{suffix}"
        update = load_update(tensors(torch.bfloat16), NET)
        save_update(path, update)
        loaded = load_update(path, NET)
        wanted = torch.bfloat16 if kept else torch.float32
        assert {value.dtype for value in loaded.values()} == {wanted}
        assert all(torch.equal(loaded[n].bfloat16(), update[n]) for n in NAMES)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_views_of_one_vector(self, tmp_path, suffix):
        flat = torch.arange(29.0, requires_grad=True)
        parts = flat.split([12, 3, 3, 3, 6, 2])
        views = {n: v.view(s) for n, v, s in zip(NAMES, parts, SHAPES, strict=True)}
        views["0.weight"] = views["0.weight"].view(4, 3).T
        save_update(tmp_path / f"u{suffix}", views)
        loaded = load_update(tmp_path / f"u{suffix}", NET)
        assert all(torch.equal(loaded[n], views[n]) for n in NAMES)

    def test_numbered_arrays(self, tmp_path):
        np.savez(tmp_path / "list.npz", *ARRAYS)
        np.savez_compressed(tmp_path / "flat.npz", forms()["flat"])
        for name in ("list.npz", "flat.npz"):
            loaded = load_update(tmp_path / name, NET)
            for value, array in zip(loaded.values(), ARRAYS, strict=True):
                np.testing.assert_array_equal(value.numpy(), array)

    def test_numbers_of_twelve_arrays(self, tmp_path):
        net = nn.Sequential(*[nn.Linear(1, 1) for _ in range(6)])
        np.savez(
            tmp_path / "u.npz",
            *(np.full((1, 1)[: 1 + (i + 1) % 2], i + 1.0) for i in range(12)),
        )
        loaded = load_update(tmp_path / "u.npz", net)
        assert [value.item() for value in loaded.values()] == list(range(1, 13))

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_update(tmp_path / "u.npz", NET)

    @pytest.mark.parametrize("name", ["update.pt", "update.npy", "update"])
    def test_other_endings(self, tmp_path, name):
        with pytest.raises(ValueError, match=f"{name}: update files end in .npz or"):
            load_update(tmp_path / name, NET)
        with pytest.raises(ValueError, match="could run code when they are read"):
            save_update(tmp_path / name, load_update(ARRAYS, NET))

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_failed_save_leaves_the_old_file(self, tmp_path, suffix):
        path = tmp_path / f"u{suffix}"
        save_update(path, {"a": np.ones(2)})
        before = path.read_bytes()
        with pytest.raises(TypeError, match=r"update\['b'\] must be an array of real"):
            save_update(path, {"a": np.ones(2), "b": object()})
        assert path.read_bytes() == before
        with pytest.raises(TypeError, match="dict of arrays by parameter name"):
            save_update(path, ARRAYS)

    def test_safetensors_is_optional(self, tmp_path, monkeypatch):
        (tmp_path / "u.safetensors").write_bytes(b"")
        monkeypatch.setitem(sys.modules, "safetensors.torch", None)
        monkeypatch.setitem(sys.modules, "safetensors", None)
        with pytest.raises(ImportError, match=r'pip install "skpoison\[safetensors\]"'):
            load_update(tmp_path / "u.safetensors", NET)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def as_bytes(save, *args, **kwargs):
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


def hostile(fuse):
    """Return the bytes of files by name; `fuse` is what running code would leave."""
    bomb = np.empty(1, object)
    bomb[0] = Bomb(fuse)
    good = as_bytes(np.savez, **dict(zip(NAMES, ARRAYS, strict=True)))
    entries = io.BytesIO()
    with zipfile.ZipFile(entries, "w") as archive:
        for name in NAMES:
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00\xff\xffnot a header")
    zeros = as_bytes(np.savez_compressed, **{"0.weight": np.zeros(10**6)})
    flipped = bytearray(good)
    flipped[200] ^= 0xFF
    return {
        "empty": b"",
        "text": b"0.1 0.2 0.3\n" * 50,
        "truncated": good[: len(good) // 2],
        "flipped": bytes(flipped),
        "pickle": pickle.dumps(Bomb(fuse)),
        "pickled arrays": as_bytes(np.savez, **{"0.weight": bomb}),
        "npy": as_bytes(np.save, ARRAYS[0]),
        "npy of objects": as_bytes(np.save, bomb),
        "torch.save": as_bytes(lambda f, a: torch.save(a, f), {"w": Bomb(fuse)}),
        "text arrays": as_bytes(np.savez, **{"0.weight": np.array(["a"])}),
        "bad headers": entries.getvalue(),
        "unpacks to much more": zeros,
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", hostile("nowhere"))
def test_hostile_files(tmp_path, suffix, kind):
    fuse, path = tmp_path / "ran", tmp_path / f"update{suffix}"
    path.write_bytes(hostile(fuse)[kind])
    with pytest.raises(ValueError, match=f"update{suffix} can't be read as {suffix}"):
        load_update(path, NET)
    assert not fuse.exists()


def test_the_bomb_would_go_off(tmp_path):
    pickle.loads(hostile(tmp_path / "ran")["pickle"]).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("cut", [7, 8, 60, -1])
def test_truncated_safetensors(tmp_path, cut):
    path = tmp_path / "update.safetensors"
    save_update(path, dict(zip(NAMES, ARRAYS, strict=True)))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="update.safetensors can't be read"):
        load_update(path, NET)
