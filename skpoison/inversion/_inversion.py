"""Inputs recovered from an update by minimising a mismatch."""

import copy
import warnings
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch
from torch.nn import functional as F

from skpoison.inversion import _solvers
from skpoison.inversion._analytic import AnalyticInversion
from skpoison.inversion._client import UPDATES
from skpoison.inversion._network import has_kinks
from skpoison.inversion._objective import LOSSES, Objective, feature_term
from skpoison.inversion._priors import TotalVariation
from skpoison.inversion._problem import DTYPES, Problem, make_client
from skpoison.inversion._restarts import SCORES, check_start, choose
from skpoison.inversion._space import INITS, Space
from skpoison.utils import RandomStreams
from skpoison.utils._validation import check_number, check_option

_SOLVERS = ("auto", "signed_adam", "adam", "lbfgs", "analytic")
#: Relative mismatch above which a closed form is only a start.
_GOOD_ENOUGH = 1e-3


class GradientInversion(BaseEstimator):
    """Recover a client's inputs from the gradient or weights that it shares.

    Parameters
    ----------
    module : torch.nn.Module, TorchClassifier or scikit-learn classifier
        The network that the server sent, or a fitted classifier. It is not changed.
    n_samples : int, default=1
        Rows behind the update.
    update : {"gradient", "weights"}, default="gradient"
        Whether the client shares the gradient of its mean loss, or its weights after
        local training minus those before.
    local_steps : int, default=1
        Steps of gradient descent that the client takes.
    local_lr : float, default=1e-4
        Its learning rate; the published one for federated averaging.
    local_batch_size : int, default=None
        Rows of a step, taken in order; None is all.
    criterion : callable, default=None
        ``criterion(scores, y)`` returns the mean loss; None is cross entropy. With any
        other, `labels` must be given.
    batch_norm : {"eval", "train"}, default=None
        By which statistics the client normalises, see :func:`client_update`.
    solver : str, default="auto"
        "signed_adam" is the published method; "adam" the same with the gradient for
        its sign; "lbfgs" is L-BFGS-B in float64, by far the best on smooth networks;
        "analytic" is :class:`AnalyticInversion`, a closed form for one row. "auto"
        takes the first that fits, see Notes.
    loss : {"auto", "cosine", "euclidean"}, default="auto"
        Mismatch of the updates. "auto" is the published "cosine" for both kinds of
        Adam and "euclidean" for L-BFGS, whose line search needs a smooth scale.
    tv_weight : float, default="auto"
        Weight of :class:`TotalVariation`, for images. "auto" is 0.01, the published
        value for an untrained LeNet, for both kinds of Adam, and 0 for L-BFGS, whose
        solution is exact without. Published for trained networks: 1e-6 on small
        images, 0.1 on ImageNet.
    feature_weight : float, default=1.0
        Weight of what the first linear layer's gradient tells about its inputs, see
        Notes. 0 is the published method.
    priors : sequence, default=()
        Further priors, such as :class:`SquaredNorm` or :class:`BatchNormStatistics`.
    max_iter : int, default=4800
        Iterations of Adam, as published, or evaluations of L-BFGS.
    step_size : float, default=0.1
        Of Adam, in the unit that the network takes, as published. It is divided by
        ten after 3/8, 5/8 and 7/8 of the iterations.
    n_restarts : int, default=1
        Random starts, as published for small images; Adam runs them as one batch.
    init : {"normal", "uniform", "zeros", "gray"} or array, default="normal"
        Starts in the unit that the network takes: standard normal as published,
        uniform in [-1, 1], 0, or the middle of the box. An array of shape
        (n_samples, ...) is a start in the unit of `bounds`.
    scoring : {"loss", "tv", "mean", "median"}, default="loss"
        The restart that is returned: of smallest mismatch or total variation, or the
        mean or median image of all, which make sense for one row.
    tol : float, default=1e-20
        The mismatch at which a solver stops. The squared precision of float64 leaves
        room for some rounding.
    bounds : (low, high) or None, default=(0, 1)
        Box of the inputs: numbers, one a channel, or arrays. The default is that of
        pixels.
    mean, scale : float or array, default=0.0 and 1.0
        The network takes ``(x - mean) / scale``; one number, or one a channel.
    class_prior : array-like of shape (n_classes,), default=None
        See :func:`recover_labels`.
    dtype : {"float32", "float64"}, default=None
        Of the computation. None is the network's, and float64 for L-BFGS, which stalls
        in float32.
    device : str or torch.device, default="auto"
        "auto" is where the network is.
    random_state : None, int, RandomState or Generator, default=None
        Draws the starts. Restart r is the same however many there are.
    verbose : int, default=0
        1 shows a progress bar.

    See Also
    --------
    AnalyticInversion : The closed forms alone.
    client_update : What a client computes.

    Notes
    -----
    With u(z) the update that candidates z would give, u* the observed one, and TV the
    total variation, what is minimised over the box is ::

        1 - <u(z), u*> / (|u(z)| |u*|)      or      |u(z) - u*|^2 / |u*|^2
        + tv_weight TV(z) + feature_weight F(z) + sum of weighted priors

    where norms and the one cosine go over all parameters together. F applies to one
    gradient and the linear layer with bias that runs first. Of one row the gradient
    gives the layer's input h* [1]_ and ``F = |h(z) - h*|^2 / |h*|^2``. Of B rows the
    gradient by weights and bias, side by side, is ``D^T [H, 1]`` with one row of D and
    H a sample: where its rank is B, the span of its rows holds every (h, 1), and F is
    the share of the candidates' (h, 1) outside of it. More is known where the layer is
    also the last one, the loss is cross entropy, labels are given or counted, and B is
    smaller than the number of classes, 12 at most: D is the softmax of what H gives,
    minus the labels, and with G the few unknowns of H are determined. They are sought
    from fixed starts in a second or two. If the equations are met to rounding, the
    layers in front are undone as far as they are square, and F is the squared relative
    distance to the deepest values found, row by row; if not, the span remains. All of
    this is our addition. F is 0 at the truth, so it does not move an exact solution,
    and it takes away most of the mixing that makes batches hard: three times eight
    images of Fashion-MNIST behind untrained LeNets, gradients in double precision,
    1,500 evaluations of L-BFGS, came back at 129, 85 and 50 dB with all of it, at 63,
    54 and 39 dB with the span alone. No such term adds what the gradient does not hold:
    four colour images of 32x32 have 12,288 pixels, for which we count 7,572 independent
    equations in their LeNet's gradient, and need a prior, as by ``tv_weight=0.01`` with
    ``init="gray"``.

    "auto" takes, in this order: "analytic" where the closed form applies to one row,
    whose result is the start of what follows if its equations disagree and its relative
    mismatch exceeds 1e-3; "lbfgs" where all activations are smooth; "signed_adam", or
    "adam" where labels are sought.

    References
    ----------
    .. [1] J. Geiping, H. Bauermeister, H. Dröge and M. Moeller. Inverting gradients:
       how easy is it to break privacy in federated learning? NeurIPS 2020,
       arXiv:2003.14053.
    .. [2] L. Zhu, Z. Liu and S. Han. Deep leakage from gradients. NeurIPS 2019,
       arXiv:1906.08935.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.inversion import GradientInversion, client_update
    >>> from skpoison.models import LeNet
    >>> from skpoison.utils import local_torch_seed
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X[:2].reshape(-1, 1, 8, 8) / 16
    >>> with local_torch_seed(0):
    ...     net = LeNet((1, 8, 8), 10).double()
    >>> seen = client_update(net, X, y[:2])
    >>> attack = GradientInversion(net, n_samples=2, max_iter=300, random_state=0)
    >>> found = attack.reconstruct(seen, labels=y[:2], shape=(1, 8, 8))
    >>> found.method, bool(abs(found.X - X).max() < 0.01)
    ('lbfgs', True)
    """

    def __init__(
        self,
        module,
        *,
        n_samples=1,
        update="gradient",
        local_steps=1,
        local_lr=1e-4,
        local_batch_size=None,
        criterion=None,
        batch_norm=None,
        solver="auto",
        loss="auto",
        tv_weight="auto",
        feature_weight=1.0,
        priors=(),
        max_iter=4800,
        step_size=0.1,
        n_restarts=1,
        init="normal",
        scoring="loss",
        tol=1e-20,
        bounds=(0.0, 1.0),
        mean=0.0,
        scale=1.0,
        class_prior=None,
        dtype=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.module = module
        self.n_samples = n_samples
        self.update = update
        self.local_steps = local_steps
        self.local_lr = local_lr
        self.local_batch_size = local_batch_size
        self.criterion = criterion
        self.batch_norm = batch_norm
        self.solver = solver
        self.loss = loss
        self.tv_weight = tv_weight
        self.feature_weight = feature_weight
        self.priors = priors
        self.max_iter = max_iter
        self.step_size = step_size
        self.n_restarts = n_restarts
        self.init = init
        self.scoring = scoring
        self.tol = tol
        self.bounds = bounds
        self.mean = mean
        self.scale = scale
        self.class_prior = class_prior
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def reconstruct(self, gradients, labels=None, shape=None):
        """Return the inputs that explain an update, and how well they do.

        Parameters
        ----------
        gradients : list, dict, array, str or Path
            The update in any form that :func:`load_update` reads.
        labels : array-like of shape (n_samples,), "optimize" or None, default=None
            Known labels, in the order of the rows to be returned, or soft labels of
            shape (n_samples, n_classes). None counts them by :func:`recover_labels`;
            "optimize" seeks soft labels together with the inputs, by "lbfgs" or
            "adam".
        shape : tuple of int, default=None
            Of one input. None is that of a fitted classifier, or of a first layer that
            is linear.

        Returns
        -------
        found : Bunch
            X : ndarray of shape (n_samples, ...)
                In the unit of `bounds`. The order of rows with the same label is not
                identifiable.
            y : ndarray of shape (n_samples,)
                Labels; ascending where they were counted.
            loss : float
                Mismatch of the updates, without priors.
            residual : float
                ``|u(X) - u*| / |u*|``.
            method : str
                The solver that ran.
            exact : bool
                A closed form ran, and its layers' equations agree.
            n_iter : int
                Iterations of the chosen restart.
            loss_curve : ndarray of shape (n_iter,)
                Mismatch at each iteration of the chosen restart.
            restart_losses : ndarray of shape (n_restarts,)
                Mismatch of each restart. A smaller one is not always a better image.

        Raises
        ------
        TypeError, ValueError
            A bad parameter, an update, labels or a shape that do not fit, a network
            that hides what the client computed (see :func:`client_update`) or that
            can't be differentiated twice.
        FloatingPointError
            The objective is NaN or infinite for every restart.

        Warns
        -----
        ConvergenceWarning
            Some restarts left the range of numbers; the others count.
        """
        self._check_parameters()
        problem = Problem(self, gradients, labels, shape)
        if self.solver == "analytic":
            return self._closed_form(problem)
        solver, first = self.solver, None
        if solver == "auto":
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    first = self._closed_form(problem)
            except (TypeError, ValueError):
                pass  # several rows or steps, or a network that is no chain
            # a clipped or rescaled update mismatches, yet its layers can agree
            if first is not None and (first.exact or first.residual <= _GOOD_ENOUGH):
                return first
            smooth = not has_kinks(problem.client, problem.shape)
            by_sign = "signed_adam" if problem.y is not None else "adam"
            solver = "lbfgs" if smooth else by_sign
        return self._minimise(solver, problem, first)

    def _check_parameters(self):
        check_number("n_samples", self.n_samples, low=1, integer=True)
        check_option("update", self.update, UPDATES)
        check_number("local_steps", self.local_steps, low=1, integer=True)
        check_number("local_lr", self.local_lr, low=0, strict=True)
        check_option("solver", self.solver, _SOLVERS)
        check_option("loss", self.loss, ("auto", *LOSSES))
        check_option("scoring", self.scoring, SCORES)
        if self.tv_weight != "auto":
            check_number("tv_weight", self.tv_weight, low=0)
        check_number("feature_weight", self.feature_weight, low=0)
        if not isinstance(self.priors, Iterable):
            raise TypeError(f"priors must be a sequence, got {self.priors!r}")
        for prior in self.priors:
            if not hasattr(prior, "bind") or not hasattr(prior, "weight"):
                raise TypeError(
                    f"priors must be objects such as TotalVariation(), got {prior!r}"
                )
            check_number(f"weight of {prior!r}", prior.weight, low=0)
        check_number("max_iter", self.max_iter, low=1, integer=True)
        check_number("step_size", self.step_size, low=0, strict=True)
        check_number("n_restarts", self.n_restarts, low=1, integer=True)
        check_number("tol", self.tol, low=0)
        if isinstance(self.init, str):
            check_option("init", self.init, INITS)
        elif self.n_restarts > 1:
            raise ValueError(
                f"n_restarts={self.n_restarts} from one array as init would give the "
                "same result each time"
            )
        if self.dtype is not None:
            check_option("dtype", self.dtype, DTYPES)
        size = self.local_batch_size
        if size is None:
            return
        check_number("local_batch_size", size, low=1, integer=True)
        if self.n_samples % size or self.n_samples > size * self.local_steps:
            raise ValueError(
                f"local_batch_size={size} with local_steps={self.local_steps} leaves "
                f"out some of n_samples={self.n_samples} rows, which leave no trace"
            )

    def _closed_form(self, problem):
        given = {
            "n_samples": self.n_samples == 1,
            "local_steps": self.local_steps == 1,
            "criterion": self.criterion is None,
            "batch_norm": self.batch_norm != "train",
            "labels": problem.y is not None and problem.y.ndim == 1,
        }
        for name, fits in given.items():
            if not fits:
                value = getattr(self, name, "soft ones")
                raise ValueError(f"the closed form takes no {name}={value!r}")
        found = AnalyticInversion(
            copy.deepcopy(problem.network).eval(),
            bounds=self.bounds,
            mean=self.mean,
            scale=self.scale,
            max_iter=min(500, self.max_iter),
            device=self.device,
            verbose=self.verbose,
        ).reconstruct(problem.target, labels=problem.y.cpu(), shape=problem.shape)
        return Bunch(
            X=found.X,
            y=problem.decode(problem.y),
            loss=found.loss,
            residual=found.residual,
            method=found.method,
            exact=found.exact,
            n_iter=0,
            loss_curve=np.empty(0),
            restart_losses=np.array([found.loss]),
        )

    def _minimise(self, solver, problem, first):
        client, by_gradient = problem.client, solver == "lbfgs"
        if by_gradient and self.dtype is None and client.dtype != torch.float64:
            client = make_client(self, problem.network, torch.float64)
        space = Space(
            (self.n_samples, *problem.shape), self.mean, self.scale, self.bounds,
            client.dtype, client.device,
        )  # fmt: skip
        loss = self.loss
        if loss == "auto":
            loss = "euclidean" if by_gradient else "cosine"
        objective = Objective(
            client,
            problem.target,
            loss=loss,
            terms=self._terms(client, problem, 0.0 if by_gradient else 0.01),
            shape=problem.shape,
            n_samples=self.n_samples,
        )
        variables = [self._starts(space, first)]
        if problem.y is None:
            shape = (self.n_restarts, self.n_samples, problem.n_outputs)
            variables.append(torch.zeros(shape, dtype=client.dtype).to(space.device))
            labels = _soft
        else:
            y = problem.y.to(client.dtype) if problem.y.ndim > 1 else problem.y

            def labels(logits, n):
                return y.expand(n, *y.shape)

        options = {"max_iter": self.max_iter, "tol": self.tol, "verbose": self.verbose}
        minimise: Callable = _solvers.lbfgs
        if not by_gradient:
            signed = solver == "signed_adam"
            minimise = partial(_solvers.adam, step_size=self.step_size, signed=signed)
        check_start(objective, variables, labels)
        solution = minimise(objective, variables, labels, space.box, **options)
        z, y, chosen = choose(self.scoring, solution, objective, labels)
        found = Bunch(
            X=space.x(z),
            y=problem.decode(y),
            **chosen,
            residual=objective.residual(z, y),
            method=solver,
            exact=False,
        )
        return found if first is None or found.residual < first.residual else first

    def _terms(self, client, problem, tv_weight):
        weight = tv_weight if self.tv_weight == "auto" else self.tv_weight
        priors = list(self.priors)
        if len(problem.shape) > 1:
            priors.append(TotalVariation(weight))
        terms = [(p.weight, *p.bind(problem.network)) for p in priors if p.weight > 0]
        if self.feature_weight > 0:
            found = feature_term(
                client, problem.target, problem.shape, self.n_samples, problem.y
            )
            if found is not None:
                terms.append((self.feature_weight, *found))
        return terms

    def _starts(self, space, first):
        streams = RandomStreams(self.random_state)
        starts = [
            space.start(self.init, streams.numpy(f"restart {r}"))
            for r in range(self.n_restarts)
        ]
        if first is not None:
            starts[0] = space.start(first.X, None)
        return torch.stack(starts)


def _soft(logits, n):
    return F.softmax(logits, -1)
