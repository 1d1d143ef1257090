"""DP-SGD: training whose result depends little on any one row, with a bill."""

import copy
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from skpoison.defenses._per_sample import clipped_gradient
from skpoison.defenses._shaping import draw_noise
from skpoison.models import TorchClassifier
from skpoison.models._net import BatchIterator, ClassifierNet, _in_memory
from skpoison.privacy import PrivacyWarning, dpsgd_epsilon, noise_for_epsilon
from skpoison.privacy._bill import VACUOUS_EPSILON, default_delta
from skpoison.utils._validation import check_number, check_option

_ASSUMPTIONS = (
    "what counts as public: n, classes_, the shape of X and all parameters",
    "history_ and what verbose prints: losses of the training rows, without noise",
    "callbacks that read the training rows or history_, early stopping included",
    "scalers and other transformers fitted on these rows",
    "parameters chosen by other fits on these rows, as a grid search does",
    "rows that train_split holds out",
    "the weights of a module instance, if private rows trained them",
    "random_state: who knows it can take the noise off",
)
# What Opacus leaves on modules and parameters.
_OPACUS_MARKS = ("activations", "max_batch_len", "grad_sample", "summed_grad")


def _n_batches(n_rows, batch_size):
    return max(1, round(n_rows / batch_size))


class PoissonIterator(BatchIterator):
    """Batches that each row joins on its own with one probability; some are empty.

    Parameters
    ----------
    dataset : skorch Dataset or Subset of one
    batch_size : int
        Mean number of rows in a batch, at most that of the data.
    generator : torch.Generator
        On the CPU.
    device : torch.device or str, default="cpu"
    """

    def __init__(self, dataset, batch_size, generator, device="cpu"):
        super().__init__(dataset, batch_size, generator=generator, device=device)
        self.batch_size = batch_size

    def __len__(self):
        return _n_batches(len(self.X), self.batch_size)

    def __iter__(self):
        n_rows, rate = len(self.X), self.batch_size / len(self.X)
        for _ in range(len(self)):
            # float64: float32 would round a small rate in its fourth digit
            draws = torch.rand(n_rows, generator=self.generator, dtype=torch.float64)
            rows = (draws < rate).nonzero()[:, 0].to(self.X.device)
            yield self.X[rows].to(self.device), self.y[rows].to(self.device)


@dataclass
class NativeEngine:
    """Sets the gradients of a net to the noisy mean of clipped gradients of rows.

    Parameters
    ----------
    net : PrivateNet
    losses_of : callable
        ``losses_of(outputs, y)``, one loss a row.
    max_grad_norm, noise_multiplier : float
    n_rows, batch_size : int
        Of the training set; of a mean batch, which sums are divided by.
    generator : torch.Generator
        On the net's device.
    chunk_size : int or None
    """

    net: Any
    losses_of: Any
    max_grad_norm: float
    noise_multiplier: float
    n_rows: int
    batch_size: int
    generator: torch.Generator
    chunk_size: int | None
    method: str = "auto"
    n_steps: int = 0

    def set_gradients(self, X, y):
        """Return the losses and outputs of the rows, without noise."""
        module = self.net.module_
        if self.method == "auto" and len(X):
            with torch.no_grad():
                self.net.infer(X[:1].clone())  # checks the shape of what it returns
        clipped = clipped_gradient(
            module,
            self.losses_of,
            X,
            y,
            self.max_grad_norm,
            chunk_size=self.chunk_size,
            method=self.method,
        )
        self.method = clipped.method
        noise = draw_noise(list(clipped.gradients.values()), self.generator)
        scale = self.noise_multiplier * self.max_grad_norm
        for (name, total), z in zip(clipped.gradients.items(), noise, strict=True):
            gradient = total.add_(z, alpha=scale).div_(self.batch_size)
            module.get_parameter(name).grad = gradient
        return clipped.losses, clipped.outputs

    def close(self):
        """Leave nothing on the module."""


@dataclass
class OpacusEngine(NativeEngine):
    """The same by Opacus: its gradients of rows, its clipping and its noise."""

    def __post_init__(self):
        try:
            from opacus import GradSampleModule
            from opacus.optimizers import DPOptimizer
        except ImportError as error:
            raise ImportError(
                "engine='opacus' needs Opacus: pip install 'skpoison[dp]'"
            ) from error
        self.wrapped = GradSampleModule(self.net.module_, loss_reduction="sum")
        self.optimizer = DPOptimizer(
            self.net.optimizer_,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=self.batch_size,
            generator=self.generator,
        )

    def set_gradients(self, X, y):
        self.optimizer.zero_grad()
        outputs = self.net.infer(X)
        losses = self.losses_of(outputs, y)
        with warnings.catch_warnings():  # of X, which needs no gradient
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses.sum().backward()
        self.optimizer.pre_step()  # all of its step but the optimizer's own
        return losses.detach(), outputs.detach()

    def close(self):
        module = self.wrapped.to_standard_module()
        for part in (*module.modules(), *module.parameters()):
            for mark in _OPACUS_MARKS:
                vars(part).pop(mark, None)


_ENGINES = {"native": NativeEngine, "opacus": OpacusEngine}


class PrivateNet(ClassifierNet):
    """A net whose steps see the training rows only through an engine."""

    shares_batches = False
    begin_: Any = None
    engine_: Any = None

    def get_iterator(self, dataset, training=False):
        if not training:
            return super().get_iterator(dataset)
        if not _in_memory(dataset):
            raise ValueError(
                "train_split must hold out rows of X, not bring training rows"
            )
        self.engine_ = self.begin_(len(dataset))
        size = self.engine_.batch_size
        return PoissonIterator(dataset, size, self.generator_, self.device)

    def train_step(self, batch, **fit_params):
        taken = self.engine_.n_steps
        step = super().train_step(batch, **fit_params)
        if self.engine_.n_steps > taken + 1:
            raise ValueError(
                f"optimizer={type(self.optimizer_).__name__} asks for the gradient of "
                "a batch more than once a step, which the privacy bill doesn't cover"
            )
        return step

    def train_step_single(self, batch, **fit_params):
        if not self.module_.training:
            self._set_training(True)
        X, y = batch
        n_rows = len(X)
        if n_rows:
            X, y = self.alter(X, y)
        self.engine_.n_steps += 1
        losses, outputs = self.engine_.set_gradients(X, y)
        if n_rows:
            return {"loss": losses.mean(), "y_pred": outputs}
        return {"loss": X.new_zeros(()), "y_pred": X.new_zeros(0, self.n_outputs_)}

    def on_epoch_end(self, net, **kwargs):
        super().on_epoch_end(net, **kwargs)
        batches = self.history[-1]["batches"]
        if not any(batch["train_batch_size"] for batch in batches):
            batches[0]["train_batch_size"] = 1  # skorch divides by their sum

    def finish(self):
        super().finish()
        if self.engine_ is not None:
            self.engine_.close()
        self.begin_ = self.engine_ = None


def _refuse_mixing(module):
    """Raise if a layer computes statistics over a batch or over the rows so far."""
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) or getattr(
            layer, "track_running_stats", False
        ):
            raise ValueError(
                f"layer {name!r} of the module is a {type(layer).__name__}, which "
                "mixes the rows of a batch: no row's influence is bounded. GroupNorm "
                "and LayerNorm are fine"
            )
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError("the module has no trainable parameters")


def _row_losses(criterion):
    """Return (outputs, y) -> losses from a criterion that averages them."""
    if not hasattr(criterion, "reduction") or [*criterion.parameters()]:
        raise ValueError(
            "criterion must be a loss with the option reduction='none' and no "
            f"parameters, as torch.nn.CrossEntropyLoss, got {criterion!r}"
        )
    criterion = copy.copy(criterion)
    criterion.reduction = "none"

    def losses_of(outputs, y):
        losses = criterion(outputs, y)
        if losses.shape != y.shape:
            raise ValueError(
                f"criterion must return one loss a row, got {tuple(losses.shape)} for "
                f"{len(y)} rows from {criterion!r}"
            )
        return losses

    return losses_of


class DPSGDClassifier(TorchClassifier):
    """Neural classifier trained by differentially private gradient descent.

    The gradient of each row is clipped and noise covers the rest of its influence, so
    that neither a reader of the weights learns much about one row nor a poisoned row
    moves them far. `epsilon_` says how far: see
    :func:`skpoison.privacy.poisoning_success_bound`.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`. Rows must not affect each
        other: batch normalisation is refused.
    noise_multiplier : float, default=1.0
        Standard deviation of the noise in units of `max_grad_norm`. 1 is usual in the
        literature; 0 clips alone and has no bill.
    max_grad_norm : float, default=1.0
        Norm C that the gradient of a row is clipped to.
    target_epsilon : float, default=None
        Choose the smallest noise whose bill for all epochs is at most this;
        `noise_multiplier` is then ignored.
    delta : float, default=None
        Probability with which the bill may be exceeded. None is
        ``min(1e-5, 1 / (10 * n_samples))``.
    engine : {"native", "opacus"}, default="native"
        Whose gradients, clipping and noise; batches and bill are the same. "opacus"
        needs the package of that name and takes the layers that it knows.
    chunk_size : int, default=None
        Rows whose gradients "native" computes at a time, to bound memory. None is all
        of a batch, or as many as have gradients of 256 MB together where a module
        needs the slow way.
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`.
        `batch_size` is the mean number of rows in a batch, `augment` must change row
        by row, and `iterator_train` is not open to change. With weights of classes in
        `criterion`, the loss of a row is multiplied by its weight.

    Attributes
    ----------
    epsilon_, delta_ : float
        The bill, for the steps planned.
    noise_multiplier_ : float
        As used.
    n_steps_ : int
        Batches answered, empty ones included.
    privacy_ : dict
        The bill with what it rests on and, under "assumptions", what is outside it.
    net_, module_, classes_, n_features_in_, input_shape_, history_, n_iter_
        See :class:`~skpoison.models.TorchClassifier`.

    Raises
    ------
    ValueError
        In `fit`: a layer mixes rows, by name; a criterion, an optimizer or a
        `train_split` that the bill can't cover.
    ImportError
        In `fit`: ``engine="opacus"`` without Opacus.

    Warns
    -----
    PrivacyWarning
        The bill is above 50: the noise may stop poisons, but promises nothing.

    See Also
    --------
    GradientShapingClassifier : Clips the gradient of the batch: cheaper, no bill.
    skpoison.privacy.dpsgd_epsilon : The accountant.

    Notes
    -----
    With n training rows and ``B = min(batch_size, n)``, a step draws each row with
    probability q = B / n and hands the optimizer ::

        (sum_i g_i min(1, C / |g_i|) + s C z) / B,    z standard normal,

    g_i the gradient of row i's loss and s the noise multiplier. An epoch is
    ``max(1, round(n / B))`` steps; an empty batch is a step of noise. Neighbouring
    data sets differ by one row that is there or not. Rows that `train_split` holds
    out are gone before n is counted. A callback that stops training earlier does not
    lower the bill: when it stopped tells something, too, and only the guarantee for all
    planned steps covers that.

    "native" takes one backward pass: norms and sums of clipped gradients follow from
    what enters and leaves each layer. Modules with other trainable layers than
    linear, convolutional, embedding, group, layer or instance normalisation ones, and
    those that use a parameter twice, are mapped over their rows by ``torch.func``, at
    about twice the time. Rows that affect each other are found by gradients alone: a
    layer that mixes them behind ``detach`` is not noticed.

    The noise is pseudo-random in float32 and is no guard against an attacker who reads
    the last bits of released weights.

    The base class's `lr` of 0.005 suits the noise of these defaults: on digits and
    breast cancer 0.0025 to 0.01 are within four points, 0.02 and more lose accuracy.

    References
    ----------
    .. [1] Abadi et al. (2016), Deep learning with differential privacy. CCS.
       arXiv:1607.00133.
    .. [2] Ma, Zhu and Hsu (2019), Data poisoning against differentially-private
       learners: attacks and defenses. arXiv:1903.09860.
    .. [3] Bu, Wang, Zha and Karypis (2023), Differentially private optimization on
       large model at small cost. arXiv:2210.00038.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.defenses import DPSGDClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = DPSGDClassifier(
    ...     target_epsilon=8, batch_size=256, max_epochs=10, device="cpu",
    ...     random_state=0,
    ... )
    >>> model.fit(X[:1500] / 16, y[:1500]).score(X[1500:] / 16, y[1500:]) > 0.6
    True
    >>> 7.5 < model.epsilon_ <= 8
    True
    """

    _net_class = PrivateNet

    def __init__(
        self,
        module="auto",
        *,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        target_epsilon=None,
        delta=None,
        engine="native",
        chunk_size=None,
        **params,
    ):
        super().__init__(module, **params)
        self.noise_multiplier = noise_multiplier
        self.max_grad_norm = max_grad_norm
        self.target_epsilon = target_epsilon
        self.delta = delta
        self.engine = engine
        self.chunk_size = chunk_size

    def _check_parameters(self):
        super()._check_parameters()
        check_number("noise_multiplier", self.noise_multiplier, low=0.0)
        check_number("max_grad_norm", self.max_grad_norm, low=0.0, strict=True)
        if self.target_epsilon is not None:
            check_number("target_epsilon", self.target_epsilon, low=0.0, strict=True)
        if self.delta is not None:
            check_number("delta", self.delta, low=0.0, high=1.0, strict=True)
        check_option("engine", self.engine, _ENGINES)
        if self.chunk_size is not None:
            check_number("chunk_size", self.chunk_size, low=1, integer=True)
        for name in self._component_params:
            if name.startswith("iterator_train"):
                raise ValueError(
                    f"{name} is not open to change: the bill holds for batches that "
                    "each row joins on its own"
                )

    def _train(self, net, X, y, streams):
        _refuse_mixing(net.module_)
        losses_of = _row_losses(net.criterion_)

        def begin(n_rows):
            batch_size = min(self.batch_size, n_rows)
            return _ENGINES[self.engine](
                net=net,
                losses_of=losses_of,
                max_grad_norm=self.max_grad_norm,
                noise_multiplier=self._noise(n_rows, batch_size),
                n_rows=n_rows,
                batch_size=batch_size,
                generator=streams.torch("noise", net.device),
                chunk_size=self.chunk_size,
            )

        net.begin_ = begin
        super()._train(net, X, y, streams)
        self._settle(net.engine_)

    def _noise(self, n_rows, batch_size):
        """Set `delta_` and return the noise multiplier to use."""
        self.delta_ = self.delta
        if self.delta is None:
            self.delta_ = default_delta(n_rows)
        n_steps = self.max_epochs * _n_batches(n_rows, batch_size)
        if self.target_epsilon is None or n_steps == 0:
            return float(self.noise_multiplier)
        return noise_for_epsilon(
            self.target_epsilon,
            mechanism="dpsgd",
            n=n_rows,
            batch_size=batch_size,
            n_steps=n_steps,
            delta=self.delta_,
        )

    def _settle(self, engine):
        """Write the bill."""
        noise, n_steps = engine.noise_multiplier, engine.n_steps
        n_rows, batch_size = engine.n_rows, engine.batch_size
        n_billed = self.max_epochs * _n_batches(n_rows, batch_size)
        if n_billed == 0:
            epsilon = 0.0
        elif noise == 0:
            epsilon = math.inf
        else:
            epsilon = dpsgd_epsilon(n_rows, batch_size, noise, n_billed, self.delta_)
        self.epsilon_, self.noise_multiplier_, self.n_steps_ = epsilon, noise, n_steps
        self.privacy_ = {
            "epsilon": epsilon,
            "delta": self.delta_,
            "mechanism": "Gaussian noise on sums of clipped gradients",
            "adjacency": "one row added or removed",
            "sampling": "Poisson: each row on its own, anew in each step",
            "n": n_rows,
            "batch_size": batch_size,
            "sampling_rate": batch_size / n_rows,
            "noise_multiplier": noise,
            "max_grad_norm": self.max_grad_norm,
            "n_steps": n_steps,
            "n_billed": n_billed,
            "engine": self.engine,
            "assumptions": list(_ASSUMPTIONS),
        }
        if epsilon > VACUOUS_EPSILON:
            warnings.warn(
                f"epsilon={epsilon:.3g} promises nothing: this acts as an empirical "
                "defense only. More noise_multiplier, fewer epochs or a smaller "
                "batch_size lower it",
                PrivacyWarning,
                stacklevel=5,
            )
