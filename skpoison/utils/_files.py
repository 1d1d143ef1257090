"""Files that are there whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_atomically(path, content):
    """Write a file whole or not at all.

    Parameters
    ----------
    path : str or Path
    content : str or bytes
        Text is encoded as UTF-8.
    """
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".part"
    )
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
