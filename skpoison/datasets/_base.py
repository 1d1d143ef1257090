"""What every data set shares: its errors, its home, and the search for its files."""

import gzip
import hashlib
import io
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from skpoison.datasets._download import NetworkFailure, cache_folder, download, new_file

SPLITS = {"train": 0, "test": 1}


class DatasetNotFoundError(OSError):
    """No place that was looked at holds the data set, and none could deliver it.

    The message lists each place with the reason why it was not used and says what
    to do. It derives from :class:`OSError`, as what scikit-learn's fetchers raise.

    Examples
    --------
    >>> from skpoison.datasets import fetch_mnist
    >>> try:
    ...     fetch_mnist(path="/no/such/folder")
    ... except OSError as error:
    ...     print(type(error).__name__)
    DatasetNotFoundError
    """


class DatasetCorruptError(OSError):
    """A file is there, but it does not hold what it should.

    The file is left alone and no other source is tried: which data an experiment
    ran on must not depend on whether a file happened to be damaged. It derives from
    :class:`OSError`, as what scikit-learn's fetchers raise for a wrong checksum.

    Examples
    --------
    >>> from skpoison.datasets import DatasetCorruptError
    >>> issubclass(DatasetCorruptError, OSError)
    True
    """


class NotHere(Exception):
    """Why one place does not hold a data set."""


@dataclass
class Rows:
    """A data set as read: uint8 images (n, C, H, W) or a float table (n, d)."""

    values: np.ndarray
    target: np.ndarray
    index: np.ndarray
    split: np.ndarray
    verified: bool

    @classmethod
    def join(cls, parts, n_train):
        """Put {split: (values, target, positions in it, verified)} together."""
        values, target, index, verified = zip(*parts.values(), strict=True)
        lengths = [len(part) for part in target]
        split = np.repeat([SPLITS[name] for name in parts], lengths)
        return cls(
            values=np.concatenate(values),
            target=np.concatenate(target).astype(np.int64),
            index=np.concatenate(index).astype(np.int64) + n_train * split,
            split=split.astype(np.int8),
            verified=all(verified),
        )


def splits_of(subset):
    """Return the names of the splits that make up a subset."""
    return tuple(SPLITS) if subset == "all" else (subset,)


class Dataset:
    """Where one data set may lie and how it is read.

    A subclass sets the attributes and writes `find`, `read`, `files` and `check`;
    with an `openml_id` also `from_openml`.
    """

    name: str
    page: str  # where a person finds the data
    forms: str  # what is accepted, for the message that nothing was found
    descr: str
    target_names: tuple
    hints: tuple = ()  # other ways to get it, for the same message
    packages: tuple = ()  # folders that operating systems' packages fill
    openml_id: int | None = None

    def find(self, place, subset):
        """Return the accepted file or folder at or in `place`, or raise NotHere."""
        raise NotImplementedError

    def read(self, path, subset, verify):
        """Return the Rows of what `find` returned."""
        raise NotImplementedError

    def files(self, subset):
        """Return {file name: addresses in order of preference} to download."""
        raise NotImplementedError

    def check(self, path, *, name):
        """Raise DatasetCorruptError unless `path` holds the published file `name`."""
        raise NotImplementedError

    def from_openml(self, bunch):
        """Return {file name: bytes} in a form that `find` accepts."""
        raise NotImplementedError

    def search(self, data_home, path, subset):
        """Look through the local places.

        Returns the step and the path of the first that holds the data, or None, and
        one line for each place that was passed over.
        """
        home = Path(get_data_home(data_home))
        if path is not None:
            places = [("path", Path(path).expanduser())]
        else:
            places = [("data_home", home / self.name), ("data_home", home)]
            places += [("package", Path(folder)) for folder in self.packages]
        misses: list[str] = []
        for step, place in places:
            try:
                if not place.exists():
                    raise NotHere("does not exist")
                return (step, self.find(place, subset)), misses
            except NotHere as reason:
                misses.append(f"{place}: {reason}")
        return None, misses

    def obtain(
        self,
        *,
        data_home,
        path,
        subset,
        download_if_missing,
        n_retries,
        delay,
        timeout,
        verify,
    ):
        """Return the Rows and a line on where they came from."""
        found, misses = self.search(data_home, path, subset)
        if found is not None:
            step, place = found
            return self.read(place, subset, verify), f"{step}: {place}"

        if path is not None:
            obstacle = "path was given"
        elif not download_if_missing:
            obstacle = "download_if_missing=False"
        elif os.environ.get("SKPOISON_OFFLINE", "").lower() not in ("", "0", "false"):
            obstacle = "the environment variable SKPOISON_OFFLINE is set"
        else:
            obstacle = None
        steps = [] if obstacle else [("download", self._download)]
        if steps and self.openml_id is not None:
            steps.append(("openml", self._openml))
        if obstacle:
            misses.append(f"network: not tried, {obstacle}")

        home = Path(get_data_home(data_home))
        network = {"n_retries": n_retries, "delay": delay, "timeout": timeout}
        cause = None
        for step, fill in steps:
            try:
                with cache_folder(home / self.name) as folder:
                    fill(folder, subset, self._check_new if verify else None, **network)
                    place = self.find(folder, subset)
                    rows = self.read(place, subset, verify)
                return rows, f"{step}: {place}"
            except NetworkFailure as error:
                misses.append(f"{step}: {error}")
                cause = error
        raise DatasetNotFoundError(self._advice(home, misses)) from cause

    def _check_new(self, path, *, name):
        try:
            self.check(path, name=name)
        except DatasetCorruptError as error:
            raise DatasetCorruptError(
                f"What was downloaded as {name} was refused and not kept: {error}"
            ) from error

    def _download(self, folder, subset, check, *, n_retries, delay, timeout):
        for name, urls in self.files(subset).items():
            # The other subset's call may have left it; `read` verifies it anyway.
            if not (folder / name).exists():
                download(
                    urls,
                    folder / name,
                    check and partial(check, name=name),
                    n_retries=n_retries,
                    delay=delay,
                    timeout=timeout,
                )

    def _openml(self, folder, subset, check, *, n_retries, delay, timeout):
        # fetch_openml has no timeout, hence its place after `_download`, which has.
        from sklearn.datasets import fetch_openml

        try:
            bunch = fetch_openml(
                data_id=self.openml_id,
                as_frame=False,
                parser="auto",
                n_retries=max(1, n_retries),  # its own minima: one, and above zero
                delay=delay or 1.0,
            )
        except (OSError, ValueError, ImportError) as error:
            # ValueError is its "no such data", ImportError a parser without pandas.
            raise NetworkFailure(f"data_id={self.openml_id}: {error}") from error
        for name, content in self.from_openml(bunch).items():
            with new_file(folder / name, check and partial(check, name=name)) as file:
                file.write(content)

    def _advice(self, home, misses):
        lines = [f"The data set {self.name} was not found. Looked at:"]
        lines += [f"  - {miss}" for miss in misses]
        lines.append(f"Accepted: {self.forms}.")
        lines.append("What to do, one of:")
        lines.append(f"  - download it from {self.page} into {home / self.name}")
        lines += [f"  - {hint}" for hint in self.hints]
        lines.append(
            f"  - name a file or folder of your own with fetch_{self.name}(path=...), "
            "or a folder for all data sets with data_home=... or the environment "
            "variable SKPOISON_DATA"
        )
        return "\n".join(lines)


def get_data_home(data_home=None):
    """Return the folder where downloaded data sets are kept.

    Unlike :func:`sklearn.datasets.get_data_home` it does not create the folder:
    that happens when a file is written to it.

    Parameters
    ----------
    data_home : str or path-like, default=None
        The folder; ``~`` is expanded. None takes the environment variable
        ``SKPOISON_DATA``, and ``~/skpoison_data`` if that is unset or empty.

    Returns
    -------
    data_home : str
        The path of the folder.

    See Also
    --------
    clear_data_home : Delete what the fetchers keep there.

    Examples
    --------
    >>> from skpoison.datasets import get_data_home
    >>> get_data_home("/srv/data")
    '/srv/data'
    """
    if data_home is None:
        data_home = os.environ.get("SKPOISON_DATA") or os.path.join(
            "~", "skpoison_data"
        )
    return os.path.expanduser(os.fspath(data_home))


@contextmanager
def refusing_damage(path, what):
    """Turn whatever damaged bytes make a library raise into DatasetCorruptError."""
    try:
        yield
    except DatasetCorruptError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) is not None:  # the system's: no right to read
            raise
        raise DatasetCorruptError(f"{path}: damaged {what} ({error})") from error


def read_payload(path):
    """Return the bytes of a file, decompressed if it is gzip, whatever its name."""
    data = Path(path).read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    with refusing_damage(path, "gzip file"):
        return gzip.decompress(data)


def is_zip(path):
    """Return whether a file starts like a zip archive, whatever its name."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_hash(path, what, data, expected, *, algorithm="sha256", known=None):
    """Compare the hash of a part of a file, or of a whole one, with the published one.

    `data` are its bytes or the Path of a file too large to hold; `known` names what
    other hashes would mean, for the message.
    """
    with open(data, "rb") if isinstance(data, Path) else io.BytesIO(data) as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != expected:
        name = (known or {}).get(found)
        raise DatasetCorruptError(
            f"{path}: {algorithm} of {what} is {found}"
            + (f", which is that of {name}" if name else "")
            + f", expected {expected}. Replace the file, or pass verify=False to read "
            "it as it is."
        )
