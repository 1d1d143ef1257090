"""Results on disk, so that a killed audit goes on where it was."""

import json
from pathlib import Path

from skpoison.utils._files import locked, write_atomically

#: Of what a job returns; changes with it, so that no old folder is read as a new one.
RESULT_KEYS = [
    "rows",
    "twins",
    "notes",
    "stand_ins",
    "helpless",
    "poisons",
    "seconds",
]
RESULT_VERSION = "2"


class Checkpoint:
    """Finished jobs of one audit, one JSON file each; in memory without a folder.

    Parameters
    ----------
    folder : str, Path or None
    fingerprint : dict of str
        What decides the results. A folder with another fingerprint is refused.
    root_seed : int
        Kept in the folder, so that an unseeded audit resumes with its own seed.

    Attributes
    ----------
    root_seed : int
        That of the folder, where it had one.
    """

    def __init__(self, folder, fingerprint, root_seed):
        self.folder = None if folder is None else Path(folder)
        self.root_seed = root_seed
        self._results = {}
        if self.folder is None:
            return
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"checkpoint={str(folder)!r} is a file, not a folder")
        (self.folder / "jobs").mkdir(parents=True, exist_ok=True)
        head = self.folder / "audit.json"
        with locked(self.folder / "lock", wait=True):  # several may begin at once
            if head.exists():
                found = _read(head, ["root_seed"])
                differs = [k for k, v in fingerprint.items() if found.get(k) != v]
                if differs:
                    raise ValueError(
                        f"checkpoint={str(folder)!r} holds another audit: "
                        f"{', '.join(differs)} differ; give another folder or remove it"
                    )
                self.root_seed = found["root_seed"]
                if not isinstance(self.root_seed, int):
                    raise ValueError(f"checkpoint file {head} is damaged: root_seed")
            else:
                text = json.dumps({**fingerprint, "root_seed": root_seed}, indent=1)
                write_atomically(head, text)

    def get(self, job):
        """Return the result of a finished job, or None."""
        if self.folder is None or job in self._results:
            return self._results.get(job)
        path = self.folder / "jobs" / f"{job}.json"
        return _read(path, RESULT_KEYS) if path.exists() else None

    def put(self, job, result):
        """Keep the result of a job."""
        self._results[job] = result
        if self.folder is not None:
            path = self.folder / "jobs" / f"{job}.json"
            write_atomically(path, json.dumps(result))


def _read(path, keys):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"checkpoint file {path} is damaged: {error}") from error
    if not isinstance(found, dict) or not set(keys) <= set(found):
        raise ValueError(f"checkpoint file {path} is damaged: no {', '.join(keys)}")
    return found
