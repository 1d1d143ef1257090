"""Training by several processes, each on its share of every batch."""

import os

import torch
from skorch.callbacks import Callback
from torch import distributed


class Share:
    """What one of several processes does for a batch.

    Parameters
    ----------
    rank, n_processes : int
    """

    def __init__(self, rank, n_processes):
        self.rank, self.n_processes = rank, n_processes
        self.weight = 1.0

    def take(self, X, y):
        """Return this process's rows of a batch.

        A batch with fewer than two rows for each, too few for batch normalisation,
        goes to all of them.
        """
        n_rows = len(X)
        if n_rows < 2 * self.n_processes:
            self.weight = 1 / self.n_processes
            return X, y
        X, y = (part[self.rank :: self.n_processes] for part in (X, y))
        self.weight = len(X) / n_rows
        return X, y

    def combine(self, net, loss):
        """Put the gradients and statistics of the whole batch in; return its loss."""
        gradients = [p.grad for _, p in net.get_all_learnable_params()]
        gradients = [g for g in gradients if g is not None]
        statistics = [b for b in net.module_.buffers() if b.is_floating_point()]
        flat = torch.cat(
            [g.reshape(-1) * self.weight for g in gradients]
            + [b.reshape(-1) / self.n_processes for b in statistics]
            + [loss.detach().reshape(1) * self.weight]
        )
        distributed.all_reduce(flat)  # the same bits in all processes
        *parts, loss = flat.split([t.numel() for t in [*gradients, *statistics, loss]])
        for tensor, part in zip([*gradients, *statistics], parts, strict=True):
            tensor.copy_(part.view_as(tensor))
        return loss[0]


class SplitBatches(Callback):
    """Callback that lets several processes train one network, a GPU each.

    Every process calls ``fit`` with the same data and parameters and trains on its
    share of the rows of each batch; gradients are averaged before each step. So
    ``batch_size`` is that of all processes together, and all end with the same network,
    that of one process up to rounding. ``accelerate launch`` starts the processes.

    Raises
    ------
    RuntimeError
        In ``fit``: there are several processes that have not been connected.
    ValueError
        In ``fit``: the processes differ in their seed or number of rows, or the
        network is trained under a privacy bill that counts whole batches.

    See Also
    --------
    TorchClassifier : Takes it in ``callbacks``.

    Notes
    -----
    Connect the processes first, by ``accelerate.Accelerator()`` or by
    ``torch.distributed.init_process_group``, and give the estimator
    ``device=accelerator.device`` and a ``random_state`` that is an int. A process
    alone trains as without the callback.

    Defenses that work on batches see the local share: rows are mixed with rows of the
    same share, and each process draws by a stream of its own; a gradient that is
    shaped is the averaged one. Batch normalisation takes the statistics of the share;
    the averages that it keeps are averaged. Where a batch, a last one for example, has
    fewer than two rows a process, all train on all of it.

    Each process holds the data, or maps the same file, and predicts by itself.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpoison.models import SplitBatches, TorchClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = TorchClassifier(
    ...     max_epochs=20, device="cpu", random_state=0, callbacks=[SplitBatches()]
    ... )
    >>> net.fit(X, y).score(X, y) > 0.9
    True
    """

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Take part in the training of a net."""
        if net.share_ is not None:
            return
        if not distributed.is_initialized():
            n_processes = int(os.environ.get("WORLD_SIZE", "1"))
            if n_processes > 1:
                raise RuntimeError(
                    f"there are {n_processes} processes, but they are not connected: "
                    "call accelerate.Accelerator() before fit"
                )
            return
        if not net.shares_batches:
            raise ValueError(
                "SplitBatches can't train under a privacy bill that counts whole "
                "batches: train a DPSGDClassifier in one process"
            )
        rank, n_processes = distributed.get_rank(), distributed.get_world_size()
        seed = net.generator_.initial_seed()
        own = torch.tensor([seed % 2**63, len(X)])
        self._require_same(own.to(net.device), n_processes)
        draws = net.context_.generator
        if rank:  # the first one's draws are those of a process alone
            draws.manual_seed((draws.initial_seed() + rank) % 2**63)
        net.share_ = Share(rank, n_processes)

    def _require_same(self, own, n_processes):
        found = [torch.empty_like(own) for _ in range(n_processes)]
        distributed.all_gather(found, own)
        for place, what in enumerate(["random_state", "number of rows of X"]):
            if len({int(f[place]) for f in found}) > 1:
                raise ValueError(
                    f"the {what} must be the same in all {n_processes} processes"
                    + ("" if place else ": give an int")
                )
