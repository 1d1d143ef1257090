"""Surrogates in training: stacked networks that go on while an attack crafts."""

import copy
from dataclasses import dataclass, replace

import torch
from sklearn.pipeline import Pipeline
from skorch.callbacks import LRScheduler
from torch.nn import functional as F
from tqdm.auto import tqdm

from skpoison.attacks._craft._members import Members
from skpoison.attacks._surrogates import (
    _estimator,
    _factories,
    _is_frozen,
    _network,
    members_of,
    train_surrogates,
)
from skpoison.models._net import batch_cuts
from skpoison.models._together import can_train_together
from skpoison.utils import RandomStreams, set_random_states

_BATCH_SIZE = 128  # of a frozen surrogate that names none


@dataclass
class Kind:
    """The surrogates of one architecture, trained alike.

    Attributes
    ----------
    numbers : list of int
        Which surrogates, in the order in which they are stacked.
    members : Members
        In evaluation mode; the weights are those being trained.
    training : Members
        The same weights, in training mode.
    """

    numbers: list
    members: Members
    training: Members

    @property
    def coupled(self):
        """Whether rows of a batch influence each other in training mode."""
        kind = torch.nn.modules.batchnorm._BatchNorm
        return any(isinstance(m, kind) for m in self.training.module.modules())

    def weights(self, at):
        """Return weights and the rest of the members `at`, without gradients.

        Of all members these are the stacked tensors themselves, of some copies.
        """
        which = slice(None) if len(at) == len(self.numbers) else at
        members = self.training
        return (
            {n: p[which] for n, p in members.params.items()},
            {n: b[which] for n, b in members.others.items()},
        )


class Trajectory:
    """An ensemble on its way through training.

    Parameters
    ----------
    surrogate : estimator, module, list or None
        See :func:`skpoison.attacks._surrogates.check_surrogate`.
    X, y : ndarray
        Clean training data, y encoded.
    rows, labels : tensor
        The same as the networks take them.
    n_members : int
    moves : bool
        True: member m starts at epoch ``m * T // n_members`` of its T epochs, goes on
        by one an epoch and starts anew after T. False: all are trained in full and
        stay.
    device : str
    streams : RandomStreams
    batch_size : int
        Rows, times members, of one forward pass.

    Attributes
    ----------
    estimators : list of estimators
        Of a moving ensemble their weights are views of the stacked ones.
    kinds : list of Kind
    epochs, lives : list of int
        Epochs trained of the current life of each member, and lives before it.
    """

    def __init__(
        self,
        surrogate,
        X,
        y,
        rows,
        labels,
        *,
        n_members,
        moves,
        device,
        streams,
        batch_size,
    ):
        self.X, self.y, self.rows, self.labels = X, y, rows, labels
        self.moves, self.device, self.streams = moves, device, streams
        self.batch_size = batch_size
        self.epochs, self.lives = [0] * n_members, [0] * n_members
        if moves:
            self.estimators = unfitted(surrogate, X, n_members, device)
            self.n_epochs = [_network(e).max_epochs for e in self.estimators]
            for m in range(n_members):
                self._begin(m)
        else:
            self.estimators = train_surrogates(
                surrogate,
                X,
                y,
                n_members=n_members,
                stagger=None,
                device=device,
                seeds=streams,
            )
        self.networks = [_network(e) for e in self.estimators]
        self.augments = [_augmentation(e) for e in self.estimators]
        # the listed surrogates may train by recipes of their own
        recipes = len(_factories(surrogate)) if moves else 1
        self.kinds = self._stacked(recipes)
        if moves:
            for m in range(n_members):
                self._lend(m)

    def _stacked(self, n_recipes):
        """Stack the members by architecture and recipe."""
        found: dict = {}
        for m, estimator in enumerate(self.estimators):
            (one,) = members_of([estimator], self.X, self.device)
            shapes = [(n, p.shape) for n, p in {**one.params, **one.others}.items()]
            cut = getattr(self.networks[m], "batch_size", _BATCH_SIZE)
            key = repr((one.module, one.input_shape, shapes, cut, m % n_recipes))
            found.setdefault(key, []).append((m, one))
        kinds = []
        for same in found.values():
            first = same[0][1]
            params, others = (
                {n: torch.cat([getattr(o, part)[n] for _, o in same]) for n in names}
                for part, names in (("params", first.params), ("others", first.others))
            )
            members = replace(first, params=params, others=others)
            training = replace(members, module=copy.deepcopy(first.module).train())
            kinds.append(Kind([m for m, _ in same], members, training))
        return kinds

    # Lives of a moving member

    def _begin(self, m):
        """Draw new weights, optimizer and schedule for a member."""
        name = f"surrogate {m}" if not self.lives[m] else f"{m} life {self.lives[m]}"
        estimator, network = self.estimators[m], _network(self.estimators[m])
        set_random_states(estimator, RandomStreams(self.streams.seed(name)))
        network.set_params(max_epochs=0)  # everything but the training
        estimator.fit(self.X, self.y)
        network.set_params(max_epochs=self.n_epochs[m])
        # without gradients it does nothing but tell a scheduler that it came first
        network.net_.optimizer_.step()

    def _place(self, m):
        """Return the kind of a member and its place there."""
        kind = next(k for k in self.kinds if m in k.numbers)
        return kind, kind.numbers.index(m)

    def _own(self, m):
        """Yield the member's own tensors and the part of the stack for each."""
        kind, i = self._place(m)
        prefix = ""
        if isinstance(self.estimators[m], Pipeline):  # the last of what is chained
            prefix = f"{len(kind.members.module) - 1}."
        stacked = {**kind.members.params, **kind.members.others}
        module = self.networks[m].module_
        for name, own in [*module.named_parameters(), *module.named_buffers()]:
            yield own, stacked[prefix + name][i]

    def _lend(self, m):
        for own, part in self._own(m):
            own.data = part

    def _renew(self, m):
        """Start a member's next life."""
        self.lives[m] += 1
        self.epochs[m] = 0
        self._begin(m)
        (one,) = members_of([self.estimators[m]], self.X, self.device)
        kind, i = self._place(m)
        for mine, new in (
            (kind.members.params, one.params),
            (kind.members.others, one.others),
        ):
            for name, tensor in new.items():
                mine[name][i] = tensor[0]
        self._lend(m)

    def stagger(self, store, verbose):
        """Bring each member to where it starts, or get it from a store."""
        kept = store.get("ensemble")
        if kept is not None:
            device = self.rows.device
            self.restore(
                {n: torch.as_tensor(a, device=device) for n, a in kept.items()}
            )
            return
        starts = [m * e // len(self.epochs) for m, e in enumerate(self.n_epochs)]
        epochs = tqdm(
            range(max(starts)), desc="ensemble", disable=not verbose, leave=False
        )
        for epoch in epochs:
            for kind in self.kinds:
                late = [i for i, m in enumerate(kind.numbers) if starts[m] > epoch]
                for at in self.chunks(kind, late):
                    for name, rows in self.batches(kind, at):
                        self.advance(kind, at, rows, self.rows[rows], name)
                    self.end_epoch(kind, at)
        store.put("ensemble", **{n: t.cpu().numpy() for n, t in self.state().items()})

    def settle(self):
        """Make the estimators independent of the stack."""
        for m, network in enumerate(self.networks):
            for own, _ in self._own(m):
                own.data = own.data.clone()
            network.n_iter_ = self.epochs[m]

    # One epoch

    def chunks(self, kind, at=None, n_rows=None):
        """Cut members of a kind into groups that fit into memory together.

        `n_rows` is what passes each of them at once, None a training batch.
        """
        at = list(range(len(kind.numbers))) if at is None else at
        n_rows = min(self._cut(kind), len(self.rows)) if n_rows is None else n_rows
        size = max(1, self.batch_size // n_rows)
        return [at[i : i + size] for i in range(0, len(at), size)]

    def _cut(self, kind):
        size = getattr(self.networks[kind.numbers[0]], "batch_size", _BATCH_SIZE)
        return len(self.rows) if size == -1 else size  # skorch's -1 is all rows

    def name(self, kind, i):
        """Return a name for the draws of a member's current epoch."""
        m = kind.numbers[i]
        return f"{m} {self.lives[m]} {self.epochs[m]}"

    def batches(self, kind, at):
        """Return an epoch's batches: a name, and rows of shape (k, n).

        Each member has an order of its own, that its epoch decides.
        """
        orders = []
        for i in at:
            name = self.name(kind, i)
            generator = self.streams.torch(f"order {name}")
            orders.append(torch.randperm(len(self.rows), generator=generator))
            if self.moves:
                self._begin_epoch(kind.numbers[i], name)
        order = torch.stack(orders).to(self.rows.device)
        cuts = batch_cuts(len(self.rows), self._cut(kind))
        spans = zip(cuts[:-1], cuts[1:], strict=True)
        return [(f"batch {b}", order[:, i:j]) for b, (i, j) in enumerate(spans)]

    def _begin_epoch(self, m, name):
        network = self.networks[m]
        net, streams = network.net_, RandomStreams(self.streams.seed(f"epoch {name}"))
        hook = network._batch_hook(streams)
        net.start(net.n_outputs_, streams, hook, self.augments[m])
        net.history.new_epoch()
        piped = isinstance(self.estimators[m], Pipeline)
        if hasattr(hook, "loss") or (hook is not None and piped):
            raise ValueError(
                f"surrogate: {type(network).__name__} trains by a loss of its own or "
                "inside a pipeline, which needs ensemble_stagger=None"
            )

    def rates(self, kind, at):
        """Return the current learning rates of members."""
        nets = [self.networks[kind.numbers[i]] for i in at]
        nets = [getattr(net, "net_", net) for net in nets]
        rates = [net.optimizer_.param_groups[0]["lr"] for net in nets]
        return torch.tensor(rates, device=self.rows.device)

    def augment(self, kind, at, inputs, name):
        """Augment rows of each member as it trains, differentiably."""
        augments = [self.augments[kind.numbers[i]] for i in at]
        if all(a is None for a in augments):
            return inputs
        shape = kind.members.input_shape
        return torch.stack(
            [
                one
                if augment is None
                else augment(
                    one.reshape(-1, *shape),
                    self.streams.torch(f"augmentation {self.name(kind, i)} {name}"),
                )
                for i, augment, one in zip(at, augments, inputs, strict=True)
            ]
        )

    def randomness(self, kind, at, name):
        """Return the context in which a batch's dropout draws."""
        name = f"dropout {self.name(kind, at[0])} {name}"
        return kind.training.randomness(self.streams.seed(name))

    def advance(self, kind, at, rows, inputs, name):
        """Train members on a batch each.

        Parameters
        ----------
        kind : Kind
        at : list of int
            Places of the members in the stack.
        rows : tensor of int of shape (k, n)
        inputs : tensor of shape (k, n, *row_shape)
        name : str
            Of the batch.
        """
        nets = [self.networks[kind.numbers[i]].net_ for i in at]
        labels = self.labels[rows]
        if nets[0].augment_ is not None or nets[0].hook_ is not None:
            shape = kind.members.input_shape
            changed = [
                net.alter(one.reshape(-1, *shape), y)
                for net, one, y in zip(nets, inputs, labels, strict=True)
            ]
            inputs, labels = map(torch.stack, zip(*changed, strict=True))
        params, others = kind.weights(at)
        params = {n: p.detach().requires_grad_() for n, p in params.items()}
        with self.randomness(kind, at, name):
            logits = kind.training.logits(params, others, inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1))
        # the mean is over members too, whose gradients do not mix
        gradients = torch.autograd.grad(loss * len(at), list(params.values()))
        if len(at) < len(kind.numbers):
            for n, b in others.items():
                kind.training.others[n][at] = b
        for j, net in enumerate(nets):
            trained = [p for p in net.module_.parameters() if p.requires_grad]
            for own, gradient in zip(trained, gradients, strict=True):
                # fused optimizers read gradients in the layout of the weights
                own.grad = gradient[j].contiguous()
            net.optimizer_.step()
            net.history.new_batch()
            for schedule in _schedules(net):
                schedule.on_batch_end(net, training=True)

    def end_epoch(self, kind, at):
        """Count an epoch; members that are at their end start anew."""
        for i in at:
            m = kind.numbers[i]
            self.epochs[m] += 1
            if not self.moves:
                continue
            net = self.networks[m].net_
            net.finish()
            for schedule in _schedules(net):
                schedule.on_epoch_end(net)
            if self.epochs[m] == self.n_epochs[m]:
                self._renew(m)

    # Keeping

    def state(self):
        """Return copies of everything that training changes, as tensors by name."""
        kept = {"epochs": torch.tensor(self.epochs), "lives": torch.tensor(self.lives)}
        if not self.moves:
            return kept
        for k, kind in enumerate(self.kinds):
            stacked = {**kind.members.params, **kind.members.others}
            kept |= {f"stack.{k}.{n}": t.clone() for n, t in stacked.items()}
        for m, network in enumerate(self.networks):
            optimizer = network.net_.optimizer_
            for p, own in enumerate(network.module_.parameters()):
                for key, value in optimizer.state.get(own, {}).items():
                    if torch.is_tensor(value):
                        kept[f"moment.{m}.{p}.{key}"] = value.clone()
        return kept

    def restore(self, kept):
        """Go on from what `state` returned."""
        self.epochs, self.lives = kept["epochs"].tolist(), kept["lives"].tolist()
        if not self.moves:
            return
        for m in range(len(self.epochs)):
            self._begin(m)
            self._replay(m)
            self._lend(m)
        for k, kind in enumerate(self.kinds):
            for n, t in {**kind.members.params, **kind.members.others}.items():
                t.copy_(kept[f"stack.{k}.{n}"])
        for name, value in kept.items():
            if name.startswith("moment."):
                _, m, p, key = name.split(".")
                network = self.networks[int(m)]
                own = list(network.module_.parameters())[int(p)]
                network.net_.optimizer_.state[own][key] = value.clone()

    def _replay(self, m):
        """Bring a new member's learning rate to its epoch."""
        net = self.networks[m].net_
        n_batches = len(batch_cuts(len(self.rows), self.networks[m].batch_size)) - 1
        for _ in range(self.epochs[m]):
            net.history.new_epoch()
            for schedule in _schedules(net):
                for _ in range(n_batches):
                    net.history.new_batch()
                    schedule.on_batch_end(net, training=True)
                schedule.on_epoch_end(net)


def _augmentation(estimator):
    """Return what augments each training batch of a fitted estimator, or None."""
    network = _network(estimator)
    if getattr(network, "augment", None) is None:
        return None
    if isinstance(estimator, Pipeline):
        raise ValueError(
            "surrogate: poisons can't be crafted through the augmentation inside a "
            "pipeline"
        )
    return network._augmentation()


def _schedules(net):
    return [c for _, c in net.callbacks_ if isinstance(c, LRScheduler)]


def unfitted(surrogate, X, n_members, device):
    """Return the estimators of an ensemble that is trained step by step."""
    factories = _factories(surrogate)
    estimators = []
    for k in range(n_members):
        one = factories[k % len(factories)]
        estimator = None if _is_frozen(one) else _estimator(one, device)
        network = None if estimator is None else _network(estimator)
        if network is None or not can_train_together([network], [X]):
            raise ValueError(
                "surrogate: ensemble_stagger='even' trains the networks step by step, "
                "which is done for what can_train_together accepts; got "
                f"{one!r}. ensemble_stagger=None takes it as it is"
            )
        if network.max_epochs < 1:
            raise ValueError(
                "surrogate: ensemble_stagger='even' needs max_epochs of at least 1, "
                f"got {network.max_epochs!r}"
            )
        estimators.append(estimator)
    return estimators
