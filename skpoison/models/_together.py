"""Several networks trained at once, their weights stacked."""

import copy
import warnings
from contextlib import ExitStack

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from skorch.callbacks import LRScheduler
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from skpoison.models._base import _OPTIMIZERS
from skpoison.models._estimators import TorchClassifier
from skpoison.models._net import _RESIDENT_BYTES, batch_cuts
from skpoison.utils import local_torch_seed

_SCHEDULES = {"CosineAnnealingLR", "LambdaLR", "MultiStepLR", "StepLR"}
# What a subclass may not replace: training is written once more below.
_REPLACEABLE = ("fit", "_encode", "_fit_net", "_make_net", "_net_class", "_train")

# One step of a small network is mostly the cost of calls, which a stack pays once. On
# one CPU core a stack of 8 was 1.1 to 5 times as fast as one after the other below
# these multiply-adds a forward pass of one batch and weights a network, and slower
# above them, where grouped convolutions and the cache decide. A GPU hides far more;
# its figures follow from its arithmetic and are not measured.
_MOST_WORK = {"cpu": 2**24, "cuda": 2**32}
_MOST_WEIGHTS = {"cpu": 2**16, "cuda": 2**24}
_STACK_VALUES = {"cpu": 2**20, "cuda": 2**28}  # weights of one stack
_STACK_SIZE = 32  # networks of one stack


def fit_together(estimators, Xs, ys):
    """Fit classifiers, those that differ in their seeds alone at the same time.

    Each comes out as its own ``fit`` would leave it: same initial weights, order of
    batches and augmentation; weights equal up to rounding, which training amplifies,
    batch normalisation over few values most.

    Parameters
    ----------
    estimators : list of estimators
        Cloned. Any classifier or regressor; those that :func:`can_train_together`
        has no stack for are fitted one after the other.
    Xs, ys : list of array-like
        The training set of each. Arrays that occur several times, as the same
        object, are kept in memory once.

    Returns
    -------
    fitted : list of estimators
        In the order given.

    See Also
    --------
    can_train_together : The rule by which estimators share a stack.
    skpoison.model_selection.evaluate_targeted : Trains its victims by this.

    Notes
    -----
    The weights of up to 32 networks are stacked and a step is one forward pass under
    ``torch.vmap``, one backward pass and one step of the optimizer. That pays for
    small networks: on the CPU those of at most 2^16 weights and 2^24 multiply-adds in
    the forward pass of a batch. Larger ones are fitted one after the other, which is
    as fast there, and so are modules that ``torch.vmap`` can't run.

    Dropout draws one mask a network from one seed a stack: other masks than in
    ``fit``. In ``history_``, ``dur`` is the time of the whole stack.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.models import TorchClassifier, fit_together
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> X, nets = X / 16, []
    >>> for seed in range(4):
    ...     nets.append(TorchClassifier(max_epochs=3, device="cpu", random_state=seed))
    >>> nets = fit_together(nets, [X] * 4, [y] * 4)
    >>> min(net.score(X, y) for net in nets) > 0.9
    True
    """
    estimators = [clone(estimator) for estimator in estimators]
    Xs, ys = list(Xs), list(ys)
    if not len(estimators) == len(Xs) == len(ys):
        raise ValueError(
            "estimators, Xs and ys must have one length, got "
            f"{len(estimators)}, {len(Xs)} and {len(ys)}"
        )
    groups: list[list[int]] = []
    for i, estimator in enumerate(estimators):
        for group in groups:
            first = group[0]
            if can_train_together([estimators[first], estimator], [Xs[first], Xs[i]]):
                group.append(i)
                break
        else:
            groups.append([i])
    for group in groups:
        _fit_group(*([values[i] for i in group] for values in (estimators, Xs, ys)))
    return estimators


def can_train_together(estimators, Xs):
    """Tell whether one stack can hold these estimators.

    They are :class:`TorchClassifier` with equal parameters but for `random_state` and
    `max_epochs`, on training sets of one shape, that

    - minimise ``torch.nn.CrossEntropyLoss``, the class, by "sgd", "adam" or "adamw";
    - have no `train_split` and no callback but skorch's ``LRScheduler`` with the
      policies StepLR, MultiStepLR, CosineAnnealingLR or LambdaLR;
    - set no parameters of components but ``module__`` and ``optimizer__``.

    A defense may change the batch, as mixup does, but not the loss or the loop.

    Parameters
    ----------
    estimators : list of estimators
    Xs : list of array-like

    Returns
    -------
    together : bool
        Whether a stack is also faster is decided by the size of the network.
    """
    if not all(map(_is_plain, estimators)):
        return False
    first = _compared(estimators[0])
    return all(np.shape(X) == np.shape(Xs[0]) for X in Xs) and all(
        type(e) is type(estimators[0]) and _same(_compared(e), first)
        for e in estimators[1:]
    )


def _is_plain(estimator):
    kind = type(estimator)
    if not isinstance(estimator, TorchClassifier) or any(
        getattr(kind, name) is not getattr(TorchClassifier, name)
        for name in _REPLACEABLE
    ):
        return False
    optimizer = estimator.optimizer
    if isinstance(optimizer, str):
        optimizer = _OPTIMIZERS.get(optimizer)
    return (
        estimator.criterion is torch.nn.CrossEntropyLoss
        and optimizer in _OPTIMIZERS.values()
        and estimator.train_split is None
        and _are_schedules(estimator.callbacks)
        and all(
            name.startswith(("module__", "optimizer__"))
            for name in estimator._component_params
        )
    )


def _are_schedules(callbacks):
    if not isinstance(callbacks, list | tuple):
        return callbacks is None
    for callback in callbacks:
        if isinstance(callback, list | tuple):
            callback = callback[1]
        if type(callback) is not LRScheduler:
            return False
        policy = callback.policy
        if getattr(policy, "__name__", policy) not in _SCHEDULES:
            return False
    return True


def _compared(estimator):
    params = estimator.get_params(deep=False)
    return {k: v for k, v in params.items() if k not in ("random_state", "max_epochs")}


def _same(a, b):
    """Tell whether two values of a parameter, one a clone's, are equal."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, BaseEstimator | LRScheduler):  # clones: equal, but not by ==
        return _same(vars(a), vars(b))
    equal = a == b
    return isinstance(equal, bool) and equal


def _fit_group(estimators, Xs, ys):
    """Fit estimators that one stack can hold, in stacks or one after the other."""
    if len(estimators) == 1:
        estimators[0].fit(Xs[0], ys[0])
        return
    checked: dict = {}  # by object: arrays that are shared stay shared
    codes = []
    for i, (estimator, X, y) in enumerate(zip(estimators, Xs, ys, strict=True)):
        estimator._check_parameters()
        known, first = checked.get(id(X), (X, estimator))
        Xs[i], encoded = estimator._encode(known, y)
        checked.setdefault(id(X), (Xs[i], estimator))
        if hasattr(first, "feature_names_in_"):
            estimator.feature_names_in_ = first.feature_names_in_
        codes.append(encoded)
    size = 1
    if len({len(e.classes_) for e in estimators}) == 1:
        size = _stack_size(estimators[0], Xs[0])
    if size == 1:
        for estimator, X, encoded in zip(estimators, Xs, codes, strict=True):
            estimator._fit_net(X, encoded, len(estimator.classes_))
        return
    n_stacks = -(-len(estimators) // size)
    for part in np.array_split(np.arange(len(estimators)), n_stacks):
        _fit_stack(*([values[i] for i in part] for values in (estimators, Xs, codes)))


def _stack_size(estimator, X):
    """Return how many networks one stack should hold; 1 for none at all."""
    # of a copy: a RandomState must not move on before the fit itself
    net, _ = copy.deepcopy(estimator)._start_net(len(estimator.classes_))
    if hasattr(net.hook_, "loss"):
        return 1
    net.finish()
    kind, n_weights = torch.device(net.device).type, _n_weights(net.module_)
    if n_weights > _MOST_WEIGHTS.get(kind, 0):
        return 1
    batch = X[: estimator.batch_size].reshape(-1, *estimator._module_shape())
    batch = torch.tensor(batch, device=net.device)
    with local_torch_seed(0, net.device):
        work = _multiply_adds(net.module_, batch)
        if work > _MOST_WORK[kind] or not _runs_stacked(net, batch):
            return 1
    return min(_STACK_SIZE, _STACK_VALUES[kind] // n_weights)


def _n_weights(module):
    return max(1, sum(p.numel() for p in module.parameters()))


def _multiply_adds(module, batch):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(module)(batch.clone())
    return counter.get_total_flops() // 2


def _runs_stacked(net, batch):
    """Tell whether torch.vmap can run this module, forwards and backwards."""
    stack = _Stack([copy.deepcopy(net) for _ in range(2)])
    try:
        out = stack.forward(stack.params, stack.buffers, torch.stack([batch, batch]))
        F.log_softmax(out, dim=-1).sum().backward()
    except Exception:  # whatever vmap or the module has to say: `fit` says it better
        return False
    return out.shape == (2, len(batch), net.n_outputs_)


class _Stack:
    """Several networks and their optimizers as one.

    The parameters and buffers of the networks are views of the stacked ones, so that
    a batch hook sees them as they are.
    """

    def __init__(self, nets):
        self.nets = nets
        self.module = copy.deepcopy(nets[0].module_).train()  # the architecture only
        modules = [net.module_ for net in nets]
        self.params, self.buffers = (
            {
                name: torch.stack([p.detach() for p in parts])
                for name, *parts in _by_name([getattr(m, kind)() for m in modules])
            }
            for kind in ("named_parameters", "named_buffers")
        )
        for name, p in modules[0].named_parameters():
            self.params[name].requires_grad_(p.requires_grad)
        args, kwargs = nets[0].get_params_for_optimizer(
            "optimizer", list(self.params.items())
        )
        self.optimizer = nets[0].optimizer(*args, **kwargs)
        self.forward = torch.vmap(self._forward, randomness="different")
        self._lend()

    def _forward(self, params, buffers, X):
        return functional_call(self.module, (params, buffers), (X,))

    def _members(self):
        """Yield each network's own tensor and the stacked one's part for it."""
        for i, net in enumerate(self.nets):
            for name, p in net.module_.named_parameters():
                yield p, self.params[name].detach()[i]
            for name, b in net.module_.named_buffers():
                yield b, self.buffers[name][i]

    def _lend(self):
        for own, part in self._members():
            own.data = part

    def give_back(self):
        """Make the networks independent of the stack."""
        for own, part in self._members():
            own.data = part.clone()

    def keep(self, kept):
        """Go on with some of the networks; the others are done."""
        self.give_back()
        self.nets = [self.nets[i] for i in kept]
        self.buffers = {name: b[kept] for name, b in self.buffers.items()}
        state, new = self.optimizer.state, {}
        for name, p in self.params.items():
            new[p] = p.detach()[kept].requires_grad_(p.requires_grad)
            self.params[name] = new[p]
            if p in state:
                state[new[p]] = {
                    key: value[kept] if torch.is_tensor(value) and value.ndim else value
                    for key, value in state.pop(p).items()
                }
        for group in self.optimizer.param_groups:
            group["params"] = [new[p] for p in group["params"]]
        self._lend()

    def step(self, X, T):
        """Train on one batch a network; return the losses."""
        # schedulers move the rates of the networks' own optimizers, all alike
        schedule = self.nets[0].optimizer_.param_groups
        for group, own in zip(self.optimizer.param_groups, schedule, strict=True):
            group.update({k: v for k, v in own.items() if k != "params"})
        self.optimizer.zero_grad()
        out = self.forward(self.params, self.buffers, X)
        losses = F.cross_entropy(out.flatten(0, 1), T.flatten(0, 1), reduction="none")
        losses = losses.view(len(X), -1).mean(1)
        losses.sum().backward()
        self.optimizer.step()
        return losses.tolist()


def _by_name(named):
    """Yield a name and the tensors of that name of all networks."""
    for parts in zip(*named, strict=True):
        yield parts[0][0], *(part for _, part in parts)


class _Rows:
    """The training sets of a stack; equal objects are stored once."""

    def __init__(self, Xs, codes, shape, device):
        distinct = {id(X): X for X in Xs}
        n_rows = len(Xs[0])
        place = {key: i * n_rows for i, key in enumerate(distinct)}
        with warnings.catch_warnings():
            # read-only arrays come from joblib's memory maps; batches are copies
            warnings.filterwarnings("ignore", message=".*not writable.*")
            parts = [torch.as_tensor(X) for X in distinct.values()]
        pool = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.X, self.device = pool.reshape(-1, *shape), device
        if self.X.nbytes < _RESIDENT_BYTES:
            self.X = self.X.to(device)
        self.y = torch.from_numpy(np.stack(codes)).to(device)
        self.start = torch.tensor([[place[id(X)]] for X in Xs])

    def keep(self, kept):
        self.y, self.start = self.y[kept], self.start[kept]

    def batches(self, nets, cuts):
        """Yield batches in the order in which each network alone would see them."""
        n_rows = self.y.shape[1]
        order = torch.stack(
            [torch.randperm(n_rows, generator=net.generator_) for net in nets]
        )
        rows = (order + self.start).to(self.X.device)
        labels = self.y.gather(1, order.to(self.device))
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            X = self.X[rows[:, start:stop]].to(self.device)
            yield X, labels[:, start:stop]


def _fit_stack(estimators, Xs, codes):
    started = [e._start_net(len(e.classes_)) for e in estimators]
    nets = [net for net, _ in started]
    rows = _Rows(Xs, codes, estimators[0]._module_shape(), nets[0].device)
    cuts = batch_cuts(len(Xs[0]), estimators[0].batch_size)
    seed = started[0][1].seed("dropout")
    stack = _Stack(nets)
    with ExitStack() as running, local_torch_seed(seed, nets[0].device):
        for net, X, y in zip(nets, Xs, codes, strict=True):
            running.enter_context(net.training(X, y))
            # without gradients it does nothing but tell a scheduler that it came first
            net.optimizer_.step()
        for epoch in range(max(net.max_epochs for net in nets)):
            kept = [i for i, net in enumerate(stack.nets) if net.max_epochs > epoch]
            if len(kept) < len(stack.nets):
                stack.keep(kept)
                rows.keep(kept)
            _epoch(stack, rows, cuts)
    stack.give_back()
    for estimator, net in zip(estimators, nets, strict=True):
        net.finish()
        estimator._keep_net(net)


def _epoch(stack, rows, cuts):
    nets = stack.nets
    for net in nets:
        net.notify("on_epoch_begin", dataset_train=None, dataset_valid=None)
    histories = [net.history[-1, "batches"] for net in nets]
    for X, T in rows.batches(nets, cuts):
        if nets[0].augment_ is not None or nets[0].hook_ is not None:
            altered = [net.alter(*one) for net, *one in zip(nets, X, T, strict=True)]
            X, T = map(torch.stack, zip(*altered, strict=True))
        losses = stack.step(X, T)
        for net, history, loss in zip(nets, histories, losses, strict=True):
            history.append({"train_loss": loss, "train_batch_size": X.shape[1]})
            if net.callbacks:
                net.notify("on_batch_end", batch=(), training=True, y_pred=None)
    for net in nets:
        net.history.record("train_batch_count", len(cuts) - 1)
        net.notify("on_epoch_end", dataset_train=None, dataset_valid=None)
