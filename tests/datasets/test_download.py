import gzip
import hashlib
import http.server
import os
import socket
import threading
import types

import numpy as np
import pytest

from skpoison.datasets import (
    DatasetCorruptError,
    DatasetNotFoundError,
    _download,
    fetch_mnist,
    fetch_spambase,
)
from skpoison.datasets._base import check_hash
from skpoison.datasets._download import NetworkFailure, download
from skpoison.datasets._mnist import MNIST
from skpoison.datasets._spambase import SPAMBASE

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def server(monkeypatch):
    """A server of `pages`: path -> bytes, a status, or a function of the handler."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.requests.append(self.path)
            page = state.pages.get(self.path, 404)
            if callable(page):
                page(self)
            elif isinstance(page, int):
                self.send_response(page)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        root = f"http://127.0.0.1:{httpd.server_port}/"
        state = types.SimpleNamespace(pages={}, requests=[], root=root)
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield state
        httpd.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "set" / "file.gz"


def check(path):
    expected = hashlib.sha256(CONTENT).hexdigest()
    check_hash(path, "it", path.read_bytes(), expected)


def get(urls, target, n_retries=0, delay=0.0, timeout=5.0, check=check):
    download(urls, target, check, n_retries=n_retries, delay=delay, timeout=timeout)


def assert_whole(target):
    assert [p.name for p in target.parent.iterdir()] == [target.name]
    assert target.read_bytes() == CONTENT


def assert_nothing(target):
    assert not target.parent.exists() or not list(target.parent.iterdir())


def truncated(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[:1000])


def reset(handler):
    truncated(handler)
    handler.connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
    )
    handler.connection.close()


def test_success(server, target, caplog):
    server.pages["/a"] = CONTENT
    with caplog.at_level("INFO", logger="skpoison.datasets"):
        get([server.root + "a"], target)
    assert_whole(target)
    assert len(caplog.records) == 1
    assert f"{server.root}a" in caplog.text


def test_new_files_have_the_usual_permissions(server, target):
    server.pages["/a"] = CONTENT
    get([server.root + "a"], target)
    (target.parent / "reference").touch()
    reference = (target.parent / "reference").stat().st_mode
    assert target.stat().st_mode == reference


def test_second_mirror(server, target):
    server.pages["/b"] = CONTENT
    get([server.root + "a", server.root + "b"], target)
    assert server.requests == ["/a", "/b"]
    assert_whole(target)


@pytest.mark.parametrize("page", [404, 500, 204, truncated, reset])
def test_failures_are_retried_and_leave_nothing(server, target, page):
    server.pages["/a"] = page
    with pytest.raises(NetworkFailure, match="127.0.0.1.*/a: ."):
        get([server.root + "a"], target, n_retries=2)
    assert server.requests == ["/a"] * 3
    assert_nothing(target)


def test_a_retry_succeeds(server, target):
    def once(handler):
        server.pages["/a"] = CONTENT
        truncated(handler)

    server.pages["/a"] = once
    get([server.root + "a"], target, n_retries=1)
    assert_whole(target)


def test_delay_between_rounds(server, target, monkeypatch):
    waits = []
    monkeypatch.setattr(_download.time, "sleep", waits.append)
    with pytest.raises(NetworkFailure):
        get([server.root + "a", server.root + "b"], target, n_retries=2, delay=7.0)
    assert waits == [7.0, 7.0]
    assert server.requests == ["/a", "/b"] * 3


def test_wrong_bytes_are_not_retried(server, target):
    server.pages["/a"] = CONTENT[::-1]
    server.pages["/b"] = CONTENT
    with pytest.raises(DatasetCorruptError, match="sha256"):
        get([server.root + "a", server.root + "b"], target, n_retries=3)
    assert server.requests == ["/a"]
    assert_nothing(target)
    get([server.root + "a"], target, check=None)
    assert target.read_bytes() == CONTENT[::-1]


def test_connection_refused(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NetworkFailure, match="refused"):
        get([f"http://127.0.0.1:{port}/a"], target)
    assert_nothing(target)


def test_silence_times_out(target):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        with pytest.raises(NetworkFailure, match="timed out"):
            get([url], target, timeout=0.1)
    assert_nothing(target)


def test_interrupt_leaves_nothing(server, target, monkeypatch):
    def interrupted(source, file):
        file.write(source.read(100))
        file.flush()
        assert len(list(target.parent.iterdir())) == 1
        raise KeyboardInterrupt

    server.pages["/a"] = CONTENT
    monkeypatch.setattr(_download.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get([server.root + "a"], target)
    assert_nothing(target)


def test_two_at_once(server, target):
    both_asked = threading.Barrier(2, timeout=5)

    def wait(handler):
        both_asked.wait()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT)

    server.pages["/a"] = wait
    threads = [
        threading.Thread(target=get, args=([server.root + "a"], target))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_whole(target)


@pytest.fixture
def online(server, monkeypatch):
    """The server stands in for the network, with tiny files of its own."""
    monkeypatch.setenv("SKPOISON_OFFLINE", "0")
    monkeypatch.setattr(MNIST, "addresses", (server.root,))
    monkeypatch.setattr(MNIST, "openml_id", None)
    return server


@pytest.fixture
def tiny_mnist(tmp_path, write_idx, monkeypatch):
    """Compressed idx files whose hashes count as the published ones."""
    written = write_idx(tmp_path / "made", suffix=".gz")
    hashes = {
        (split, kind): hashlib.sha256(array).hexdigest()
        for split, pair in written.items()
        for kind, array in zip(("images", "labels"), pair, strict=True)
    }
    monkeypatch.setattr(MNIST, "hashes", hashes)
    files = {p.name: p.read_bytes() for p in (tmp_path / "made").iterdir()}
    return files, written


def test_fetch_downloads_what_it_needs(tmp_path, online, tiny_mnist):
    files, written = tiny_mnist
    online.pages = {f"/{name}": data for name, data in files.items()}
    home = tmp_path / "home"
    bunch = fetch_mnist(data_home=home, n_retries=0)
    assert bunch.source == f"download: {home / 'mnist'}"
    assert bunch.verified
    np.testing.assert_array_equal(bunch.images, written["train"][0])
    assert sorted(p.name for p in (home / "mnist").iterdir()) == sorted(
        name for name in files if name.startswith("train")
    )
    fetch_mnist(data_home=home, subset="all", n_retries=0)
    assert sorted(online.requests) == sorted(f"/{name}" for name in files)
    again = fetch_mnist(data_home=home, subset="all")
    assert again.source == f"data_home: {home / 'mnist'}"
    assert len(online.requests) == 4


def test_fetch_refuses_wrong_bytes(tmp_path, online, tiny_mnist):
    files, _ = tiny_mnist
    online.pages = {f"/{name}": data for name, data in files.items()}
    online.pages["/train-labels-idx1-ubyte.gz"] = files["t10k-labels-idx1-ubyte.gz"]
    home = tmp_path / "home"
    with pytest.raises(DatasetCorruptError) as info:
        fetch_mnist(data_home=home, n_retries=0)
    message = "downloaded as train-labels-idx1-ubyte.gz was refused and not kept"
    assert message in str(info.value)
    assert [p.name for p in (home / "mnist").iterdir()] == [
        "train-images-idx3-ubyte.gz"
    ]


def test_fetch_reports_the_network(tmp_path, online):
    with pytest.raises(DatasetNotFoundError) as info:
        fetch_mnist(data_home=tmp_path / "home", n_retries=0)
    assert "download: " in str(info.value)
    assert "HTTP Error 404" in str(info.value)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("value, tried", [("", 1), ("0", 1), ("False", 1), ("yes", 0)])
def test_offline_switch(tmp_path, online, monkeypatch, value, tried):
    monkeypatch.setenv("SKPOISON_OFFLINE", value)
    with pytest.raises(DatasetNotFoundError):
        fetch_mnist(data_home=tmp_path, n_retries=0)
    assert len(online.requests) == tried


def test_home_that_cannot_be_written(tmp_path, online, tiny_mnist):
    files, written = tiny_mnist
    online.pages = {f"/{name}": data for name, data in files.items()}
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    with pytest.warns(UserWarning, match="loaded but not cached"):
        bunch = fetch_mnist(data_home=home, subset="test", n_retries=0)
    np.testing.assert_array_equal(bunch.target, written["test"][1])
    place = bunch.source.removeprefix("download: ")
    assert not os.path.exists(place)


@pytest.fixture
def openml(monkeypatch):
    """A stand-in for fetch_openml, whose answer is set by the test."""
    state = types.SimpleNamespace(answer=None, calls=[])

    def fetch_openml(**params):
        state.calls.append(params)
        if isinstance(state.answer, Exception):
            raise state.answer
        return state.answer

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    return state


def test_mnist_from_openml(tmp_path, online, tiny_mnist, openml, monkeypatch):
    _, written = tiny_mnist
    monkeypatch.setattr(MNIST, "openml_id", 554)
    monkeypatch.setattr("skpoison.datasets._mnist._N_TRAIN", 40)
    images, labels = map(np.concatenate, zip(*written.values(), strict=True))
    openml.answer = types.SimpleNamespace(
        data=images.reshape(60, 784).astype(np.int64),
        target=labels.astype(str).astype(object),
    )
    home = tmp_path / "home"
    bunch = fetch_mnist(data_home=home, subset="all", n_retries=0, delay=0)
    assert bunch.source == f"openml: {home / 'mnist'}"
    assert bunch.verified
    np.testing.assert_array_equal(bunch.images, images)
    np.testing.assert_array_equal(bunch.target, labels)
    assert openml.calls == [
        {
            "data_id": 554,
            "as_frame": False,
            "parser": "auto",
            "n_retries": 1,
            "delay": 1.0,
        }
    ]
    assert fetch_mnist(data_home=home).source.startswith("data_home")

    openml.answer.data = openml.answer.data[::-1]
    with pytest.raises(DatasetCorruptError, match="refused and not kept"):
        fetch_mnist(data_home=tmp_path / "other", n_retries=0)
    assert not list((tmp_path / "other" / "mnist").iterdir())


def test_spambase_from_openml(tmp_path, online, openml, monkeypatch):
    rng = np.random.RandomState(0)
    table = np.column_stack([rng.rand(10, 57), np.arange(10) % 2])
    digest = hashlib.sha256(table.tobytes()).hexdigest()
    monkeypatch.setattr("skpoison.datasets._spambase._TABLE_SHA256", digest)
    monkeypatch.setattr(SPAMBASE, "packages", ())
    monkeypatch.setattr(
        SPAMBASE, "files", lambda subset: {"spambase.zip": [online.root + "x"]}
    )
    openml.answer = types.SimpleNamespace(
        data=table[:, :-1], target=table[:, -1].astype(int).astype(str).astype(object)
    )
    bunch = fetch_spambase(data_home=tmp_path / "home", n_retries=0)
    np.testing.assert_array_equal(bunch.data, table[:, :-1])
    path = tmp_path / "home" / "spambase" / "spambase.csv.gz"
    assert bunch.source == f"openml: {path}"
    assert gzip.decompress(path.read_bytes()).count(b"\n") == 10


def test_openml_fails_too(tmp_path, online, openml, monkeypatch):
    monkeypatch.setattr(MNIST, "openml_id", 554)
    openml.answer = ValueError("no such data")
    with pytest.raises(DatasetNotFoundError) as info:
        fetch_mnist(data_home=tmp_path, n_retries=0)
    assert "openml: data_id=554: no such data" in str(info.value)
    assert "HTTP Error 404" in str(info.value)
