"""Training of a network on mixtures that are drawn as it goes."""

from itertools import pairwise
from typing import Any

import torch
from skorch.utils import data_from_dataset

from skpoison.defenses._mixture_draws import cut
from skpoison.models._net import ClassifierNet, batch_cuts


class MixtureBatches:
    """Batches of fresh mixtures, counted as they are handed out."""

    def __init__(self, mechanism, rng, X, y, net):
        self.mechanism, self.rng = mechanism, rng
        self.X, self.y = X, y
        self.n_classes, self.device = net.n_outputs_, net.device
        self.n_released = 0
        self._cuts = batch_cuts(mechanism.pass_size(len(X)), net.batch_size)

    def __len__(self):
        return len(self._cuts) - 1

    def __iter__(self):
        groups = self.mechanism.draw_groups(self.rng, len(self.X), self._cuts[-1])
        for start, stop in pairwise(self._cuts):
            part = cut(groups, start, stop)
            Z, T = self.mechanism.release(
                self.rng, self.X, self.y, part, self.n_classes
            )
            self.n_released += stop - start
            yield (
                torch.from_numpy(Z).to(self.device),
                torch.from_numpy(T).to(self.device),
            )


class MixtureNet(ClassifierNet):
    """Trains on what `mixtures_` makes of the training rows."""

    mixtures_: Any = None

    def get_iterator(self, dataset, training=False):
        if training:
            return self.mixtures_(*data_from_dataset(dataset))
        return super().get_iterator(dataset)

    def finish(self):
        super().finish()
        self.mixtures_ = None
