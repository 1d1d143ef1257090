"""What the server knows, read from what the user passes."""

import torch

from skpoison.inversion._client import Client
from skpoison.inversion._labels import recover_labels
from skpoison.inversion._updates import load_update
from skpoison.models._given import Model
from skpoison.utils import RandomStreams
from skpoison.utils._tensors import resolve_device
from skpoison.utils._validation import check_option

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Problem:
    """An update, the network and recipe behind it, and what is known of its rows.

    Parameters
    ----------
    attack : GradientInversion
        With checked parameters.
    gradients, labels, shape
        As in :meth:`GradientInversion.reconstruct`.

    Attributes
    ----------
    network : torch.nn.Module
        The user's.
    client : Client
    target : dict of str to Tensor
        The update; a gradient where the client takes one step.
    shape : tuple of int
    n_outputs : int
    y : Tensor of shape (n_samples,) or (n_samples, n_outputs), or None
        Positions among the scores or soft labels; None if they are sought.
    """

    def __init__(self, attack, gradients, labels, shape):
        self.model = Model(attack.module)
        self.network = self.model.network
        self.target = load_update(gradients, self.network)
        if attack.update == "weights" and attack.local_steps == 1:
            # one step from the server's weights is a gradient, and treated as one
            rate = -attack.local_lr
            self.target = {name: u / rate for name, u in self.target.items()}
        self.client = make_client(attack, self.network, DTYPES.get(attack.dtype))
        self.shape = self.model.shape(shape)
        self.n_outputs = self.client.n_outputs(self.shape)
        self.y = None
        if isinstance(labels, str):
            _check_sought(labels, attack.solver)
        elif labels is None:
            self._set(self._counted(attack), attack)
        else:
            self._set(self._given(labels, attack), attack)

    def decode(self, y):
        """Return labels as the user has them."""
        y = y.cpu().numpy()
        if y.ndim > 1:
            y = y.argmax(1)
        return self.model.labels(y)

    def _set(self, labels, attack):
        self.y = self.client.labels(labels, attack.n_samples, self.n_outputs)

    def _counted(self, attack):
        if attack.criterion is not None:
            raise ValueError(
                "labels can be counted for cross entropy alone: pass labels together "
                "with criterion"
            )
        mean = self.target
        if attack.local_steps > 1:
            rate = -attack.local_lr * attack.local_steps
            mean = {name: u / rate for name, u in mean.items()}
        return recover_labels(
            mean,
            self.network,
            attack.n_samples,
            class_prior=attack.class_prior,
            shape=self.shape,
            random_state=RandomStreams(attack.random_state).seed("labels"),
        )

    def _given(self, labels, attack):
        labels = self.model.positions("labels", labels)
        if labels.ndim < 1 or len(labels) != attack.n_samples:
            raise ValueError(
                f"labels must have one entry a row, n_samples={attack.n_samples}, got "
                f"shape {labels.shape}"
            )
        return labels


def make_client(attack, network, dtype):
    """Return the client that an attack assumes, computing in `dtype`."""
    device = None
    if not (isinstance(attack.device, str) and attack.device == "auto"):
        device = resolve_device(attack.device)
    return Client(
        network,
        update="gradient" if attack.local_steps == 1 else attack.update,
        local_steps=attack.local_steps,
        local_lr=attack.local_lr,
        batch_size=attack.local_batch_size,
        criterion=attack.criterion,
        batch_norm=attack.batch_norm,
        dtype=dtype,
        device=device,
    )


def _check_sought(labels, solver):
    check_option("labels", labels, ("optimize",))
    if solver in ("signed_adam", "analytic"):
        raise ValueError(
            f"labels='optimize' needs solver='lbfgs' or 'adam', got {solver!r}"
        )
