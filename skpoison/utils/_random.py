"""One seed, many named streams; nothing here reads or advances a global generator."""

import threading
import zlib
from contextlib import contextmanager

import numpy as np

_MAX_SEED = 2**31 - 1
# torch's global stream is one for the process: one thread at a time may borrow it
_BORROWED = threading.RLock()


def draw_seed(random_state):
    """Draw one integer seed from whatever scikit-learn users pass.

    Parameters
    ----------
    random_state : None, int, RandomState or Generator
        None takes fresh entropy from the operating system: unlike
        :func:`sklearn.utils.check_random_state`, the global NumPy stream is left
        alone. An int is the seed itself.

    Returns
    -------
    seed : int in [0, 2**31 - 1)

    Examples
    --------
    >>> from skpoison.utils import draw_seed
    >>> draw_seed(7)
    7
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0] % _MAX_SEED)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(_MAX_SEED))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(_MAX_SEED))
    if isinstance(random_state, int | np.integer) and not isinstance(
        random_state, bool | np.bool_
    ):
        if not 0 <= random_state < 2**32:
            raise ValueError(
                f"random_state must be in [0, 2**32 - 1], got {random_state}"
            )
        return int(random_state)
    raise ValueError(
        "random_state must be None, an int, a numpy RandomState or a numpy "
        f"Generator, got {random_state!r}"
    )


class RandomStreams:
    """Independent streams fanned out from one seed by name.

    The stream called "rows" gives the same draws whatever other streams are used
    for, so that changing an iteration count never changes which rows are poisoned.

    Parameters
    ----------
    random_state : None, int, RandomState or Generator

    Attributes
    ----------
    root : int
        The one seed that all streams derive from.

    Examples
    --------
    >>> from skpoison.utils import RandomStreams
    >>> a, b = RandomStreams(0), RandomStreams(0)
    >>> _ = a.numpy("augmentation").rand(1000)
    >>> bool(a.numpy("rows").rand() == b.numpy("rows").rand())
    True
    """

    def __init__(self, random_state=None):
        self.root = draw_seed(random_state)

    def _sequence(self, name):
        # crc32 and not hash(): str hashes differ between interpreter processes
        return np.random.SeedSequence([self.root, zlib.crc32(name.encode())])

    def seed(self, name):
        """Return an int seed for an object that takes ``random_state``."""
        return int(self._sequence(name).generate_state(1)[0] % _MAX_SEED)

    def numpy(self, name):
        """Return a fresh RandomState positioned at the start of stream `name`."""
        # RandomState, because its methods never change between NumPy releases
        return np.random.RandomState(np.random.MT19937(self._sequence(name)))

    def torch(self, name, device="cpu"):
        """Return a fresh torch.Generator at the start of stream `name`."""
        import torch

        return torch.Generator(device=device).manual_seed(self.seed(name))


@contextmanager
def local_torch_seed(seed, device="cpu"):
    """Seed torch's global streams inside the block and put them back after it.

    For code that cannot take a generator: module initialisation and dropout. Threads
    wait for each other, or one would put the stream back in the middle of another's
    draws; processes do not.

    Parameters
    ----------
    seed : int
    device : str or torch.device
        The CUDA device whose stream is seeded too; the CPU's always is.
    """
    import torch

    device = torch.device(device)
    cuda = []
    if device.type == "cuda":
        cuda = [torch.cuda.current_device() if device.index is None else device.index]
    with _BORROWED, torch.random.fork_rng(devices=cuda):
        torch.random.default_generator.manual_seed(seed)
        for index in cuda:
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)
        yield


def set_random_states(estimator, streams, *, only_missing=False):
    """Give every ``random_state`` parameter of `estimator`, however deep, a seed.

    A trigger keeps its own: every part of an experiment must see the same one.

    Parameters
    ----------
    estimator : estimator
        Changed in place: pass a clone.
    streams : RandomStreams
        The seed of a parameter is that of the stream named after its path.
    only_missing : bool, default=False
        Leave alone those that are not None, and those of meta-estimators that would
        pass theirs on and so replace the seeds of their parts.
    """
    params = estimator.get_params(deep=True)
    seeds = {}
    for name, value in sorted(params.items()):
        owner, _, parameter = name.rpartition("__")
        if parameter != "random_state":
            continue
        owner = params.get(owner, estimator)
        if only_missing and (
            value is not None or getattr(owner, "passes_on_seeds", False)
        ):
            continue
        if not getattr(owner, "keeps_its_seed", False):
            seeds[name] = streams.seed(name)
    if seeds:
        estimator.set_params(**seeds)
