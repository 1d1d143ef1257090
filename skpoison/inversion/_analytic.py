"""One image from one gradient, layer by layer in closed form."""

import copy
import warnings

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch

from skpoison.inversion._chain import trace_chain
from skpoison.inversion._client import UPDATES, Client
from skpoison.inversion._labels import recover_labels
from skpoison.inversion._objective import Objective
from skpoison.inversion._recursion import DETERMINED, walk_back
from skpoison.inversion._solvers import lbfgs
from skpoison.inversion._updates import load_update
from skpoison.models._given import Model
from skpoison.utils._tensors import resolve_device
from skpoison.utils._validation import bounds_pair, check_number, check_option

_RANK_TOLERANCE = 1e-4
_EXACT = 1e-4  # relative mismatch of the equations below which the image is exact
_POLISHED_TO = 1e-28
_PATIENCE = 50  # evaluations
_NORMALS = ("mean", "scale")


class AnalyticInversion(BaseEstimator):
    """Recover one input from its gradient, without optimisation.

    The gradient of the first fully connected layer holds that layer's input. From there
    each convolution's input solves linear equations, back to the image [1]_ [2]_. Where
    the equations of every layer determine its input, the image is exact up to rounding.

    Parameters
    ----------
    module : torch.nn.Module, or fitted classifier
        The network at which the gradient was taken. Not changed. In front of its first
        fully connected layer with a bias it applies, one after the other: ``Conv2d``
        (any stride, padding and dilation; one group), ``Linear``, sigmoid, tanh, ReLU,
        leaky ReLU, ELU, softplus, batch normalisation by running statistics, constants
        added or multiplied, and reshapes, as layers, functions or methods. What comes
        behind may be anything.
    update : {"gradient", "weights"}, default="gradient"
        What the client sent: the gradient of its loss, or its weights after one step
        less those before.
    local_lr : float, default=1e-4
        Step size behind a change of weights.
    bounds : (low, high) or None, default=(0, 1)
        Box that the result is clipped to, numbers or arrays that broadcast to one
        input.
    mean, scale : float or array-like, default=0 and 1
        The network is given ``(X - mean) / scale``: one number, or one a channel.
    polish : bool, default=True
        Where the closed form is not exact, because of noise, half precision or too few
        equations, continue from its result by box-constrained L-BFGS on the mismatch of
        the gradient.
    max_iter : int, default=500
        Evaluations of the polish at most.
    device : str or torch.device, default="auto"
        Where the equations are solved, in float64.
    verbose : int, default=0
        Progress of the polish on standard error.

    See Also
    --------
    GradientInversion : By optimisation: batches, any network, several local steps.
    invert_linear : The first step alone.

    Notes
    -----
    Walking back, a layer's output h and the derivative of the loss by it are known.
    An activation is undone, :math:`z = \\sigma^{-1}(h)` and
    :math:`\\delta_z = \\delta_h \\sigma'(z)`; where ReLU is off, z is unknown and
    :math:`\\delta_z = 0`. The input a of a convolution then solves

    .. math::
        \\sigma'(z) \\, (W * a + b - z) = 0, \\qquad
        \\sum_p \\delta_z(p) \\, a(p + q) = \\partial L / \\partial W(q),

    the first at known outputs, the second for each tap q of the kernel, both linear in
    a. The derivative by a is the transposed convolution of :math:`\\delta_z`, and so
    on. The factor :math:`\\sigma'(z)` is chosen here: it measures errors in the unit of
    h, where inverting a saturated sigmoid would multiply its rounding. On an untrained
    :class:`~skpoison.models.LeNet` it gains 7 to 45 dB from float32 gradients.

    Least squares are solved by conjugate gradients, preconditioned by a Cholesky factor
    of the normal equations, which are summed up patch by patch; that takes about a
    sixth of a QR's arithmetic, and a second pass takes rounding back. Above 8,000
    unknowns one factor a channel is made. A random input that is solved for at the same
    time tells whether the equations determine the input; where they don't, the
    solution of smallest norm is taken, and a warning says so.

    Noise hides which units of ReLU are on. Their true output is never negative, so that
    the most negative value found shows the size of the noise; thresholds of 3 to 0.7
    times that are tried until the equations agree, and the best is kept.

    References
    ----------
    .. [1] J. Geiping, H. Bauermeister, H. Dröge and M. Moeller (2020), Inverting
       gradients: how easy is it to break privacy in federated learning? NeurIPS.
       arXiv:2003.14053.
    .. [2] J. Zhu and M. Blaschko (2021), R-GAP: recursive gradient attack on privacy.
       ICLR. arXiv:2010.07733.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.inversion import AnalyticInversion, client_update
    >>> from skpoison.models import LeNet
    >>> from skpoison.utils import local_torch_seed
    >>> with local_torch_seed(0):
    ...     net = LeNet((1, 12, 12), 10)
    >>> secret = np.random.RandomState(0).rand(1, 1, 12, 12)
    >>> gradients = client_update(net, secret, [3])
    >>> found = AnalyticInversion(net).reconstruct(gradients, shape=(1, 12, 12))
    >>> found.y, bool(abs(found.X - secret).max() < 1e-3)
    (array([3]), True)
    """

    def __init__(
        self,
        module,
        *,
        update="gradient",
        local_lr=1e-4,
        bounds=(0.0, 1.0),
        mean=0.0,
        scale=1.0,
        polish=True,
        max_iter=500,
        device="auto",
        verbose=0,
    ):
        self.module = module
        self.update = update
        self.local_lr = local_lr
        self.bounds = bounds
        self.mean = mean
        self.scale = scale
        self.polish = polish
        self.max_iter = max_iter
        self.device = device
        self.verbose = verbose

    def reconstruct(self, gradients, labels=None, shape=None):
        """Recover the input that a gradient was computed on.

        Parameters
        ----------
        gradients : list, dict, array or path
            What the client sent, see :func:`load_update`.
        labels : int or array-like of shape (1,), default=None
            The sample's class, in `classes_` of a fitted classifier or by its position
            among a network's scores. None reads it off the gradient.
        shape : tuple of int, default=None
            Shape of the input, (channels, height, width) for images. None is for
            networks that start with a linear layer, and take a vector.

        Returns
        -------
        result : Bunch
            - X : ndarray of shape (1, \\*shape), float64, in the unit of `bounds`.
            - y : ndarray of shape (1,), the label as `labels` takes it.
            - loss : squared relative mismatch of the gradient at X.
            - residual : its root, ``||g(X) - g|| / ||g||``.
            - exact : bool, whether the equations of every layer determine its input
              and hold up to 1e-4. `residual` may be larger all the same: where the
              network is sure, the client's own rounding of p - y is relatively large;
              the equations are not touched by it.
            - method : "analytic" for one step from a fully connected layer,
              "recursive" through convolutions; with "+lbfgs" if polished.
            - layers : list of Bunch, from the fully connected layer to the first one,
              with `name`, `kind` ("linear" or "convolution"), `shape` (equations,
              unknowns), `residual` of the equations and `error`, the relative error
              when the same equations are solved for a known random input.

        Raises
        ------
        TypeError
            The network is no such chain: the message names what is in the way.
        ValueError
            Several labels, or what :func:`load_update` refuses.

        Warns
        -----
        UserWarning
            The gradient is of several samples or noisy; the equations of a layer don't
            determine its input; `labels` and the gradient disagree.
        """
        self._check()
        model = Model(self.module)
        module = model.network
        update = load_update(gradients, module)
        shape = model.shape(shape)
        device = resolve_device(self.device)
        client = Client(module, dtype=torch.float64, device=device)
        client.n_outputs(shape)
        precision = max(torch.finfo(g.dtype).eps for g in update.values())
        factor = -1.0 / self.local_lr if self.update == "weights" else 1.0
        update = {n: factor * g.to(device, torch.float64) for n, g in update.items()}
        given = self._given(labels, model, client, shape)
        mean, scale = (_per_channel(n, getattr(self, n), shape) for n in _NORMALS)
        low, high = self._box(shape)
        box = [torch.as_tensor((b - mean) / scale, device=device) for b in (low, high)]
        steps = trace_chain(
            copy.deepcopy(client.module).cpu(),
            torch.zeros(1, *shape, dtype=torch.float64),
        )
        z, layers = walk_back(steps, dict(client.module.named_parameters()), update)
        y = self._label(given, update, module, client, shape)
        determined = _warn_layers(layers, max(_RANK_TOLERANCE, 10 * precision))
        z = z.clamp(*box).contiguous()  # networks may call view
        method = "analytic" if len(layers) == 1 else "recursive"
        exact = determined and max(layer.residual for layer in layers) < _EXACT
        residual = _mismatch(client, update, z, y)
        if self.polish and not exact:
            polished = self._descend(client, update, z, y, box)
            after = _mismatch(client, update, polished, y)
            if after < residual:
                z, residual, method = polished, after, f"{method}+lbfgs"
        return Bunch(
            X=np.clip(z.cpu().numpy() * scale + mean, low, high),
            y=model.labels(y.cpu().numpy()),
            loss=residual**2,
            residual=residual,
            exact=exact,
            method=method,
            layers=layers,
        )

    def _check(self):
        check_option("update", self.update, UPDATES)
        check_number("local_lr", self.local_lr, low=0.0, strict=True)
        check_number("max_iter", self.max_iter, low=1, integer=True)
        if not isinstance(self.polish, bool | np.bool_):
            raise TypeError(f"polish must be a bool, got {self.polish!r}")

    def _given(self, labels, model, client, shape):
        """Return the label that was given as a tensor, checked, or None."""
        if labels is None:
            return None
        if np.ndim(labels) == 0:
            labels = [labels]
        labels = model.positions("labels", labels)
        if labels.size != 1:
            raise ValueError(
                f"the closed form recovers one sample, got {labels.size} labels: use "
                "GradientInversion for a batch"
            )
        return client.labels(labels.ravel(), 1, client.n_outputs(shape))

    def _label(self, labels, update, module, client, shape):
        """Return the label, given or read off the gradient."""
        try:
            # the update was made a gradient above
            found = recover_labels(update, module, 1, shape=shape, random_state=0)
        except (TypeError, ValueError):
            if labels is None:
                raise
            return labels
        found = torch.as_tensor(found, device=client.device)
        if labels is not None and labels != found:
            warnings.warn(
                f"labels={labels.tolist()}, but the gradient of the last layer is that "
                f"of class {found.item()}",
                UserWarning,
                stacklevel=3,
            )
        return found if labels is None else labels

    def _box(self, shape):
        if self.bounds is None:
            return np.full(shape, -np.inf), np.full(shape, np.inf)
        low, high = bounds_pair(self.bounds, shape, others="None")
        return np.broadcast_to(low, shape), np.broadcast_to(high, shape)

    def _descend(self, client, update, z, y, box):
        objective = Objective(
            client,
            update,
            loss="euclidean",
            terms=[],
            shape=z.shape[1:],
            n_samples=1,
        )
        try:
            solution = lbfgs(
                objective,
                [z[None]],
                lambda _, n: y.expand(n, 1),
                box,
                max_iter=self.max_iter,
                tol=_POLISHED_TO,
                verbose=self.verbose,
                patience=_PATIENCE,
            )
        except (ValueError, FloatingPointError):  # flat, or no number, at z
            return z
        return solution.variables[0][0]


def _mismatch(client, update, z, y):
    """Return ``||g(z) - g|| / ||g||``."""
    found, _ = client(z, y, create_graph=False)
    unit = max(float(g.abs().max()) for g in update.values())  # squares may overflow
    off = sum(((found[n] - g) / unit).square().sum() for n, g in update.items())
    return float((off / sum((g / unit).square().sum() for g in update.values())).sqrt())


def _per_channel(name, value, shape):
    """Return mean or scale as an array that broadcasts to one input."""
    try:
        array = np.asarray(value, dtype=np.float64)
        if array.ndim == 1 and len(shape) == 3:
            array = array[:, None, None]
        array = np.broadcast_to(array, shape)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be a number or one a channel of {shape}, got {value!r}"
        ) from None
    if not np.isfinite(array).all() or (name == "scale" and (array <= 0).any()):
        wanted = "finite and > 0" if name == "scale" else "finite"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return array


def _warn_layers(layers, tolerance):
    """Return whether every layer's equations determine its input; warn where not."""
    dense = [layer for layer in layers if layer.kind == "linear"]
    worst = max(dense, key=lambda layer: layer.residual)
    if worst.residual > tolerance:
        warnings.warn(
            f"the gradient of layer {worst.name!r} is not of rank one (relative "
            f"mismatch {worst.residual:.1e}): it is noisy, or of a batch, which "
            "GradientInversion is for",
            UserWarning,
            stacklevel=3,
        )
    for layer in layers:
        n_equations, n_unknowns = layer.shape
        if n_equations < n_unknowns or layer.error > DETERMINED:
            warnings.warn(
                f"the equations of layer {layer.name!r}, {n_equations} for "
                f"{n_unknowns} unknowns, do not determine its input (relative error "
                f"{layer.error:.1e} at a random one): the solution of smallest norm is "
                "taken",
                UserWarning,
                stacklevel=3,
            )
            return False
    return True
