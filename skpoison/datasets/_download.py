"""Downloads that leave a whole, checked file or nothing."""

import http.client
import logging
import os
import shutil
import ssl
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from skpoison.utils import _files

logger = logging.getLogger("skpoison.datasets")

# What another attempt may cure. Other OSErrors, such as a full disk, are not the
# network's and reach the caller.
_TRANSIENT = (
    URLError,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
    http.client.HTTPException,
)


class NetworkFailure(Exception):
    """No address delivered a file; the text says why for each."""


@contextmanager
def cache_folder(folder):
    """Give `folder` if files can be written there, else a temporary one.

    Nothing is created: `new_file` does that once there is something to write.
    """
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="skpoison-") as temporary:
        yield Path(temporary)
    warnings.warn(
        f"{folder} cannot be written to: the data was loaded but not cached, and "
        "the next call downloads it again. Name another folder with data_home or "
        "the environment variable SKPOISON_DATA.",
        UserWarning,
        stacklevel=2,
    )


@contextmanager
def new_file(target, check):
    """Open a binary file that appears as `target` only once written and checked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _files.new_file(target, check) as file:
        yield file


def download(urls, target, check, *, n_retries, delay, timeout):
    """Fetch the first of several addresses of one file that delivers it.

    Parameters
    ----------
    urls : sequence of str
        Tried in order, then all again for each retry.
    target : Path
    check : callable or None
        Given the path of the temporary file; what it raises is not retried.
    n_retries : int
    delay : float
        Seconds between the rounds.
    timeout : float
        Seconds without an answer after which a connection is given up.
    """
    for attempt in range(n_retries + 1):
        if attempt:
            time.sleep(delay)
        failures = []
        for url in urls:
            try:
                return _download_once(url, target, check, timeout)
            except _TRANSIENT as error:
                failures.append(f"{url}: {str(error) or repr(error)}")
                cause = error
    raise NetworkFailure("; ".join(failures)) from cause


def _download_once(url, target, check, timeout):
    request = Request(url, headers={"User-Agent": "skpoison"})
    with urlopen(request, timeout=timeout) as response:
        if response.status != 200:
            raise URLError(f"HTTP status {response.status}")
        logger.info("downloading %s to %s", url, target)
        with new_file(target, check) as file:
            shutil.copyfileobj(response, file)
            announced = response.headers.get("Content-Length")
            if announced is not None and file.tell() != int(announced):
                raise URLError(f"{file.tell()} of {announced} bytes arrived")
