"""The state of a long search on disk, so that a killed one goes on where it was."""

import io
import pickle
from pathlib import Path

import joblib
import numpy as np

from skpoison.utils._files import write_atomically


class Store:
    """Arrays by name in a folder; nothing without one.

    Parameters
    ----------
    folder : str, Path or None
    identity : object
        Whatever decides the result. A folder with another one's state is refused, as
        is one with a damaged file.
    kind : str, default="attack"
        What the folder is of, in errors.

    Attributes
    ----------
    keeps : bool
        Whether there is a folder.
    """

    def __init__(self, folder, identity, kind="attack"):
        self.keeps, self.kind = folder is not None, kind
        if not self.keeps:
            return
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"checkpoint={str(folder)!r} is a file, not a folder")
        try:
            self.identity = joblib.hash(identity)
        except pickle.PicklingError as error:
            raise TypeError(
                "checkpoint needs parameters that can be pickled: functions with a "
                f"name, at the top level of a module ({error.args[0]})"
            ) from error
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.npz"):
            self._read(path)

    def get(self, key):
        """Return the arrays kept under a key, or None."""
        if not self.keeps or key is None:
            return None
        path = self.folder / f"{key}.npz"
        return self._read(path) if path.exists() else None

    def _read(self, path):
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            identity = str(found.pop("identity"))
        except Exception as error:  # damaged archives raise nearly anything
            raise ValueError(f"checkpoint file {path} is damaged: {error}") from error
        if identity != self.identity:
            raise ValueError(
                f"checkpoint={str(self.folder)!r} holds another {self.kind} or other "
                "data; give another folder or remove it"
            )
        return found

    def put(self, key, **arrays):
        """Keep arrays under a key, whole or not at all."""
        if self.keeps:
            buffer = io.BytesIO()
            np.savez(buffer, identity=np.asarray(self.identity), **arrays)
            write_atomically(self.folder / f"{key}.npz", buffer.getvalue())
