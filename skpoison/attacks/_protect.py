"""Protected copies of a folder of images, batch by batch as files arrive."""

import contextlib
import csv
import json
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.utils import Bunch
from tqdm.auto import tqdm

from skpoison.attacks._image_files import (
    as_png,
    as_preview,
    check_pillow,
    digest,
    find_images,
    read_picture,
)
from skpoison.attacks._release import ReleasePoisonAttack
from skpoison.attacks._store import Store
from skpoison.utils._files import locked, sweep, write_atomically
from skpoison.utils._validation import check_number

_STATE, _PREVIEWS = ".skpoison", "previews"
#: Images that are crafted together, and lost where a call is killed.
_BATCH = 64
#: As many as Pillow reads without a warning.
_MAX_PIXELS = 89_478_485
#: Parameters that don't decide what is written, are set here, or live in the weights.
_NOT_KEPT = (
    "batch_size",
    "bounds",
    "budget",
    "checkpoint",
    "device",
    "eps",
    "random_state",
    "surrogate",
    "target_data",
    "verbose",
)


def protect_images(
    in_folder,
    out_folder,
    labels,
    *,
    attack=None,
    eps=8,
    size=None,
    preview=0,
    random_state=0,
    verbose=0,
):
    """Write copies of images from which a model learns little, looking much the same.

    The first call trains a surrogate on the images and keeps it in
    ``out_folder/.skpoison``; every later one protects what has arrived since, by the
    same surrogate. A call that was killed is made again and ends with the same files.

    Parameters
    ----------
    in_folder : str or Path
        PNG and JPEG files, grey or RGB with 8 bits, in sub-folders as you like. Never
        written to.
    out_folder : str or Path
        Outside `in_folder`, and not around it. Gets a PNG file for each image, of the
        same name but for the suffix: a JPEG file would undo the perturbation.
    labels : "folders", str, Path or dict
        The class of each image: the name of its sub-folder in `in_folder`, a CSV file
        with the columns ``file`` and ``label``, or a dict. Files are named relative
        to `in_folder`.
    attack : ReleasePoisonAttack, default=None
        One that crafts each row by itself; its surrogates are TorchClassifiers,
        modules or frozen ones, which later calls must be given again. None is
        ``ReleasePoisonAttack(online=True)``.
    eps : float, default=8
        Radius in units of 1 of 255, in the attack's norm: the largest change of a pixel
        with "linf". The papers'; replaces the attack's.
    size : (height, width), default=None
        Resize images to this. None takes them as they are, all of one size.
    preview : int, default=0
        Write pictures of before, after and the amplified difference, side by side,
        into ``out_folder/previews``, for the first so many images that are protected
        into this folder.
    random_state : int, default=0
        Replaces the attack's.
    verbose : int, default=0
        1 shows progress on stderr.

    Returns
    -------
    report : Bunch
        ``n_protected`` and ``n_skipped``, images done in this call and before it;
        ``max_change``, the largest change of a pixel in this call; ``files``, paths of
        what was written, without previews.

    Raises
    ------
    ValueError
        Before anything is written: a file that can't be read, is transparent, has 16
        bits, several frames, another size than the rest or no label; or an
        `out_folder` that holds something else, was begun with other settings or is
        being written to by another call.
    ImportError
        Pillow is missing.

    See Also
    --------
    ReleasePoisonAttack : What is crafted; for arrays.

    Notes
    -----
    A file is known by the SHA-256 of its content: one that has changed, or whose
    label has, is protected again. Palettes become RGB, and so do grey images among
    colour ones. The EXIF orientation is applied; other metadata, where a photo was
    taken for one, is dropped, but for the colour profile. New images must be of the
    classes and the size of the first call.

    All images of a call are held in memory, and a network of the default surrogate
    sees them at their full size: choose `size` for photos.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from PIL import Image
    >>> from skpoison.attacks import ReleasePoisonAttack, protect_images
    >>> from skpoison.models import TorchClassifier
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name, grey in [("cat", 60), ("dog", 180)]:
    ...     (folder / "in" / name).mkdir(parents=True)
    ...     image = np.full((8, 8), grey, dtype=np.uint8)
    ...     Image.fromarray(image).save(folder / "in" / name / "1.png")
    >>> net = TorchClassifier(max_epochs=2, device="cpu")
    >>> attack = ReleasePoisonAttack(online=True, max_iter=5, surrogate=net)
    >>> report = protect_images(
    ...     folder / "in", folder / "out", "folders", attack=attack, eps=8
    ... )
    >>> report.n_protected, report.max_change
    (2, 8)
    >>> [path.relative_to(folder).as_posix() for path in report.files]
    ['out/cat/1.png', 'out/dog/1.png']
    """
    check_pillow()
    source, target = Path(in_folder), Path(out_folder)
    _check_folders(source, target)
    attack = _checked_attack(attack, eps, random_state)
    check_number("preview", preview, low=0, integer=True)
    size = _checked_size(size)
    images = find_images(source)
    classes = _labels_of(images, source, labels)
    if preview and any(name.startswith(f"{_PREVIEWS}/") for name in images):
        raise ValueError(f"preview needs {_PREVIEWS!r} for itself: rename that folder")
    release = _Release(target, attack)
    todo = [n for n, path in images.items() if not release.has(n, path, classes[n])]
    report = Bunch(
        n_protected=len(todo), n_skipped=len(images) - len(todo), max_change=0, files=[]
    )
    if not todo:
        return report
    first = release.settings is None
    read = {n: read_picture(images[n], size) for n in (images if first else todo)}
    read = _alike(read, release.settings)
    labels = [classes[n] for n in read]
    release.check(labels)
    bar = tqdm(total=len(todo), desc="images", disable=not verbose, leave=False)
    with release.alone(), bar:
        release.learn(read, labels)
        for start in range(0, len(todo), _BATCH):
            names = todo[start : start + _BATCH]
            pictures = [read[n] for n in names]
            before = np.stack([p.pixels for p in pictures])
            after = attack.protect(before, np.array([classes[n] for n in names]))
            change = np.abs(after.astype(int) - before).max()
            report.max_change = max(report.max_change, int(change))
            places = release.places(names)
            for name, picture, pixels, place in zip(
                names, pictures, after, places, strict=True
            ):
                report.files.append(
                    _write(target / name, as_png(pixels, picture.profile))
                )
                if place < preview:
                    path = target / _PREVIEWS / name.replace("/", "_")
                    _write(path, as_preview(picture.pixels, pixels, eps))
            release.remember(pictures, names, classes)
            bar.update(len(names))
    return report


def _check_folders(source, target):
    if not source.is_dir():
        raise ValueError(f"in_folder={str(source)!r} is no folder")
    if target.exists() and not target.is_dir():
        raise ValueError(f"out_folder={str(target)!r} is a file, not a folder")
    inside, outside = source.resolve(), target.resolve()
    if outside.is_relative_to(inside) or inside.is_relative_to(outside):
        raise ValueError(
            "out_folder must be another folder than in_folder, neither inside nor "
            f"around it, got {str(target)!r} for {str(source)!r}"
        )


def _checked_attack(attack, eps, random_state):
    """Return a copy of the attack for pixels, which learns without crafting."""
    from sklearn.pipeline import Pipeline

    from skpoison.attacks._surrogates import _factories, _is_skorch

    check_number("eps", eps, low=1, high=255)
    check_number("random_state", random_state, low=0, integer=True)
    attack = ReleasePoisonAttack(online=True) if attack is None else clone(attack)
    if not isinstance(attack, ReleasePoisonAttack):
        raise TypeError(f"attack must be a ReleasePoisonAttack, got {attack!r}")
    if not hasattr(attack, "protect"):
        raise ValueError(
            f"attack crafts all rows together by method={attack.method!r}; images that "
            "arrive one by one need method='alignment' with online=True, 'error_max', "
            "'class_target' or 'random'"
        )
    # `fit` asks for it when the folder is there already
    check_number("max_iter", attack.max_iter, low=1, integer=True)
    for one in _factories(attack.surrogate):
        if isinstance(one, Pipeline) or _is_skorch(one):
            raise TypeError(
                "the surrogate of images must be a TorchClassifier, a module or a "
                f"frozen classifier, got {one!r}"
            )
    return attack.set_params(
        budget=0, eps=eps, bounds=None, random_state=random_state, checkpoint=None
    )


def _checked_size(size):
    if size is None:
        return None
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"size must be None or (height, width), got {size!r}")
    for side in size:
        check_number("each side in size", side, low=1, integer=True)
    if size[0] * size[1] > _MAX_PIXELS:
        raise ValueError(f"size must be at most {_MAX_PIXELS:,} pixels, got {size!r}")
    return tuple(size)


def _labels_of(images, folder, labels):
    """Return the label of each image, as text."""
    if isinstance(labels, str) and labels == "folders":
        alone = [p for n, p in images.items() if "/" not in n]
        if alone:
            raise ValueError(
                f"labels='folders' takes the class from the sub-folder, but {alone[0]} "
                "is in none"
            )
        return {n: n.partition("/")[0] for n in images}
    if not isinstance(labels, dict):
        labels = _read_labels(Path(labels))
    names = {n: p.relative_to(folder).as_posix() for n, p in images.items()}
    missing = [name for name in names.values() if name not in labels]
    if missing:
        raise ValueError(
            f"labels has none for {missing[0]}"
            + (f" and {len(missing) - 1} more files" if len(missing) > 1 else "")
        )
    return {n: str(labels[name]) for n, name in names.items()}


def _read_labels(path):
    if not path.is_file():
        raise ValueError(
            f"labels={str(path)!r} is no file; 'folders' takes sub-folders"
        )
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns, rows = table.fieldnames, [(table.line_num, row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} can't be read as CSV in UTF-8: {error}") from error
    if not {"file", "label"} <= set(columns or []):
        raise ValueError(f"{path} must have the columns file and label, got {columns}")
    found: dict = {}
    for line, row in rows:
        if not row["label"]:
            raise ValueError(f"{path}: line {line} has no label")
        if found.setdefault(row["file"], row["label"]) != row["label"]:
            raise ValueError(f"{path} gives {row['file']} two labels")
    return found


def _alike(pictures, settings):
    """Return pictures with as many channels each, or raise where sizes differ."""
    name, first = next(iter(pictures.items()))
    size, owner = first.pixels.shape[1:], first.path
    colour = any(len(p.pixels) == 3 for p in pictures.values())
    if settings is not None:
        size, owner = tuple(settings["size"]), "the images of the first call"
        if colour and settings["channels"] == 1:
            name = next(n for n, p in pictures.items() if len(p.pixels) == 3)
            raise ValueError(f"{pictures[name].path} has colours, {owner} are grey")
        colour = settings["channels"] == 3
    for picture in pictures.values():
        found = picture.pixels.shape[1:]
        if found != size:
            raise ValueError(
                f"{picture.path} has {found[0]} x {found[1]} pixels, {owner} "
                f"{size[0]} x {size[1]}: all must have one size; size=(height, width) "
                "resizes them"
            )
    if colour:
        pictures = {n: p.as_colour() for n, p in pictures.items()}
    return pictures


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path


class _Release:
    """What an output folder remembers: settings, weights and the files that are done.

    Attributes
    ----------
    settings : dict or None
        None before the first call is through with learning.
    """

    def __init__(self, folder, attack):
        self.folder, self.attack = folder, attack
        self.state = folder / _STATE
        params = attack.get_params(deep=False).items()
        self.wanted: dict = {
            "eps": float(attack.eps),
            "random_state": int(attack.random_state),
            "attack": {n: _plain(v) for n, v in params if n not in _NOT_KEPT},
        }
        if folder.is_dir() and any(folder.iterdir()) and not self.state.is_dir():
            raise ValueError(
                f"out_folder={str(folder)!r} holds files of something else; give an "
                "empty folder"
            )
        self.settings, self.done = self._read()
        if self.settings is not None:
            kept = {**self.settings, **self.settings["attack"]}
            wanted = {**self.wanted, **self.wanted["attack"]}
            differ = [n for n in wanted if n != "attack" and kept.get(n) != wanted[n]]
            if differ:
                raise ValueError(
                    f"out_folder={str(folder)!r} was begun with other settings: "
                    f"{', '.join(differ)} differ; give another folder"
                )

    def _read(self):
        settings = _read_json(self.state / "settings.json", _is_settings)
        return settings, _read_json(self.state / "index.json", _is_index) or {}

    @contextlib.contextmanager
    def alone(self):
        """Keep other calls out of the folder, or raise where one is at work."""
        self.state.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.state / "lock", wait=False))
                if self._read() != (self.settings, self.done):
                    raise BlockingIOError
            except BlockingIOError:
                raise ValueError(
                    f"out_folder={str(self.folder)!r} is being written to by another "
                    "call: wait for its end"
                ) from None
            sweep(self.folder)
            yield

    def has(self, name, path, label):
        """Tell whether a file is done, with this content and label."""
        known = self.done.get(name)
        return (
            known is not None
            and known["label"] == label
            and known["sha256"] == digest(path)
            and (self.folder / name).is_file()
        )

    def places(self, names):
        """Return the places of files among all that were protected, by arrival."""
        order = {n: i for i, n in enumerate(dict.fromkeys([*self.done, *names]))}
        return [order[n] for n in names]

    def check(self, labels):
        """Raise where these classes can't be learned, or were not at first."""
        classes = np.unique(labels).tolist()
        if self.settings is None:
            if len(classes) < 2:
                raise ValueError(f"labels must hold two classes, got {classes}")
            return
        known = self.settings["classes"]
        new = [c for c in classes if c not in known]
        if new:
            raise ValueError(
                f"label {new[0]!r} is none of the first call's, {known}: give "
                "another out_folder to start anew"
            )

    def learn(self, pictures, labels):
        """Train the attack on the pictures, or give it what an earlier call learned."""
        if self.settings is None:
            X, y = np.stack([p.pixels for p in pictures.values()]), np.array(labels)
        else:
            # weights come from the store: only shape and classes are read
            known = self.settings["classes"]
            shape = self.settings["channels"], *self.settings["size"]
            X, y = np.zeros((len(known), *shape), np.uint8), np.array(known)
        self.attack._learn_alone(X, y, lambda: Store(self.state, self.wanted))
        if self.settings is None:
            self.settings = {
                **self.wanted,
                "channels": X.shape[1],
                "size": X.shape[2:],
                "classes": np.unique(labels).tolist(),
            }
            text = json.dumps(self.settings, indent=1)
            write_atomically(self.state / "settings.json", text)

    def remember(self, pictures, names, classes):
        """Keep that files are done."""
        for name, picture in zip(names, pictures, strict=True):
            self.done[name] = {"sha256": picture.sha256, "label": classes[name]}
        write_atomically(self.state / "index.json", json.dumps(self.done, indent=1))


def _plain(value):
    """Return a parameter as JSON holds it, the same in every process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", None) or repr(value)


def _read_json(path, is_valid):
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not is_valid(found):
        raise ValueError(f"{path} is damaged: it holds something else than expected")
    return found


def _is_settings(found):
    """Tell whether these are settings as `_Release` writes them."""
    if not isinstance(found, dict):
        return False
    size, classes = found.get("size"), found.get("classes")
    return (
        isinstance(found.get("attack"), dict)
        and found.get("channels") in (1, 3)
        and isinstance(size, list)
        and [type(side) for side in size] == [int, int]
        and isinstance(classes, list)
        and {type(name) for name in classes} == {str}
    )


def _is_index(found):
    """Tell whether this is a list of files as `_Release` writes it."""
    return isinstance(found, dict) and all(
        isinstance(entry, dict) and {"sha256", "label"} <= set(entry)
        for entry in found.values()
    )
