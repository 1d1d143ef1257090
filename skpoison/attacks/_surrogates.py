"""Surrogates: from what a user names to trained networks to craft on."""

import inspect

import numpy as np
import torch
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from skpoison.attacks._craft._members import affine_of, stack
from skpoison.models import TorchClassifier, fit_together
from skpoison.utils import local_torch_seed, set_random_states
from skpoison.utils._random import RandomStreams
from skpoison.utils._tensors import resolve_device


def _is_frozen(surrogate):
    return type(surrogate).__name__ == "FrozenEstimator"


def _is_skorch(surrogate):
    return hasattr(surrogate, "initialize_module") and hasattr(surrogate, "module")


def _factories(surrogate):
    several = isinstance(surrogate, list | tuple)
    return list(surrogate) if several else [surrogate]


def check_surrogate(surrogate, n_members):
    """Raise unless `surrogate` names networks that can be trained or are."""
    factories = _factories(surrogate)
    if not factories:
        raise ValueError("surrogate must name at least one network, got an empty list")
    if n_members < len(factories):
        raise ValueError(
            f"n_ensemble={n_members} is less than the {len(factories)} networks that "
            "surrogate lists"
        )
    for one in factories:
        if isinstance(one, str) and one == "victim":
            raise ValueError(
                "surrogate='victim' needs a PoisonedEstimator around the attack"
            )
        inner = one.estimator if _is_frozen(one) else one
        last = inner.steps[-1][1] if isinstance(inner, Pipeline) else inner
        is_module = isinstance(one, torch.nn.Module) or (
            inspect.isclass(one) and issubclass(one, torch.nn.Module)
        )
        if not (
            one is None
            or is_module
            or isinstance(last, TorchClassifier)
            or _is_skorch(last)
        ):
            raise TypeError(
                "surrogate must be a TorchClassifier, a pipeline that ends in one, a "
                "skorch net, a torch module or its class, a FrozenEstimator around a "
                f"fitted one, or a list of these, got {one!r}"
            )


def _estimator(one, device):
    """Return an unfitted copy of what the user named."""
    if one is None:
        return TorchClassifier(device=device)
    if isinstance(one, torch.nn.Module) or inspect.isclass(one):
        return TorchClassifier(one, device=device)
    return clone(one)


def epochs_of(stagger, n_members, max_epochs):
    """Return for how many epochs each member is trained.

    "first_n" trains member k for k epochs; "full" spreads them evenly from none to all
    epochs, "inbetween" strictly between.
    """
    if stagger is None:
        return [max_epochs] * n_members
    if stagger == "first_n":
        return [min(k, max_epochs) for k in range(n_members)]
    if stagger == "full":
        return np.linspace(0, max_epochs, n_members).astype(int).tolist()
    spread = np.linspace(0, max_epochs, n_members + 2)
    return spread[1:-1].astype(int).tolist()


def train_surrogates(
    surrogate,
    X,
    y,
    *,
    n_members,
    stagger,
    device,
    seeds,
    store=None,
    name="surrogate",
    verbose=0,
):
    """Train an ensemble on (X, y); member k is the k-th listed, cycled.

    Parameters
    ----------
    surrogate : estimator, module, list or None
    X, y : ndarray
        y encoded.
    n_members : int
    stagger : {None, "first_n", "full", "inbetween"}
    device : str
    seeds : RandomStreams
        Member k is seeded by the stream "surrogate k".
    store : Store, default=None
        Keeps the trained weights.
    name : str
        Under which it does.
    verbose : int

    Returns
    -------
    fitted : list of estimators
    """
    factories = _factories(surrogate)
    members = [factories[k % len(factories)] for k in range(n_members)]
    networks = []
    for k, one in enumerate(members):
        if _is_frozen(one):
            networks.append(_checked(one.estimator, y))
            continue
        estimator = _estimator(one, device)
        streams = RandomStreams(seeds.seed(f"surrogate {k}"))
        # an ensemble of equal seeds would be one network
        set_random_states(estimator, streams, only_missing=n_members == 1)
        network = _network(estimator)
        if stagger is not None:
            epochs = epochs_of(stagger, n_members, network.max_epochs)[k]
            network.set_params(max_epochs=epochs)
        networks.append(estimator)
    return _trained(networks, members, X, y, seeds, store, name)


def _trained(networks, members, X, y, seeds, store, name):
    """Fit what is not frozen; what is in the store gets its weights from there."""
    fresh = []
    for k, estimator in enumerate(networks):
        if _is_frozen(members[k]):
            continue
        if _is_skorch(estimator):
            with local_torch_seed(seeds.seed(f"skorch {k}")):
                estimator.fit(X.astype(np.float32), y.astype(np.int64))
        elif store is not None and (kept := store.get(f"{name}-{k}")) is not None:
            _restore(estimator, X, y, kept)
        else:
            fresh.append(k)
    found = fit_together(
        [networks[k] for k in fresh], [X] * len(fresh), [y] * len(fresh)
    )
    for k, estimator in zip(fresh, found, strict=True):
        networks[k] = estimator
        if store is not None and store.keeps:
            state = _network(estimator).module_.state_dict()
            store.put(f"{name}-{k}", **{n: t.cpu().numpy() for n, t in state.items()})
    return networks


def _restore(estimator, X, y, weights):
    network = _network(estimator)
    n_epochs = network.max_epochs
    network.set_params(max_epochs=0)  # everything but the training
    estimator.fit(X, y)
    network = _network(estimator)
    network.set_params(max_epochs=n_epochs)
    state = {n: torch.as_tensor(a) for n, a in weights.items()}
    network.module_.load_state_dict(state)


def _network(estimator):
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator


def _checked(fitted, y):
    """Return a fitted estimator whose classes are those of y."""
    n_classes = int(y.max()) + 1
    if len(fitted.classes_) != n_classes:
        raise ValueError(
            f"surrogate was fitted on {len(fitted.classes_)} classes, y has {n_classes}"
        )
    return fitted


def members_of(fitted, X, device):
    """Return fitted estimators as stacked networks that take rows of X.

    Parameters
    ----------
    fitted : list of estimators
    X : ndarray of shape (n, *row_shape)
    device : str

    Returns
    -------
    groups : list of Members
    """
    by_shape: dict = {}
    for estimator in fitted:
        module, shape = module_of(estimator, X.shape[1:])
        by_shape.setdefault(shape, []).append(module)
    device = resolve_device(device)
    return [
        group
        for shape, modules in by_shape.items()
        for group in stack(modules, shape, device)
    ]


def module_of(estimator, shape):
    """Return a fitted estimator's module, steps before it included, and its input.

    Parameters
    ----------
    estimator : estimator
    shape : tuple of int
        Of one row of X.

    Returns
    -------
    module : torch.nn.Module
        On the estimator's own weights.
    shape : tuple of int
        What the module takes a row as.
    """
    network = _network(estimator)
    module = network.module_
    if isinstance(estimator, Pipeline):
        width, parts = int(np.prod(shape)), []
        for _, step in estimator.steps[:-1]:
            if step is None or step == "passthrough":
                continue
            parts.append(affine_of(step, width))
            width = parts[-1].weight.shape[1]
        inner = getattr(network, "input_shape", None) or (width,)
        image = torch.nn.Unflatten(1, tuple(inner))
        module = torch.nn.Sequential(*parts, image, module)
    elif getattr(network, "input_shape", None) is not None:
        shape = tuple(network.input_shape)
    return module, shape


def untrained(surrogate, X, y, streams, device):
    """Return an estimator whose network has its first weights.

    Parameters
    ----------
    surrogate : estimator, module, list of one or None
        Not frozen.
    X, y : ndarray
        y encoded. Steps before the network are fitted on it.
    streams : RandomStreams
    device : str

    Returns
    -------
    estimator : estimator
    """
    estimator = _estimator(_factories(surrogate)[0], device)
    own = RandomStreams(streams.seed("surrogate 0"))
    set_random_states(estimator, own, only_missing=True)
    network = _network(estimator)
    n_epochs = network.max_epochs
    network.set_params(max_epochs=0)
    if _is_skorch(network):
        X, y = X.astype(np.float32), y.astype(np.int64)
    with local_torch_seed(own.seed("skorch")):
        estimator.fit(X, y)
    network.set_params(max_epochs=n_epochs)
    return estimator


def optimizer_of(estimator):
    """Return the optimizer of an estimator's network and the rows of its batches."""
    network = _network(estimator)
    return getattr(network, "net_", network).optimizer_, network.batch_size
