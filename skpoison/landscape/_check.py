"""Is a trained network at a local minimum of its training loss?"""

import math

import numpy as np
import torch
from sklearn.utils import Bunch
from torch.utils._python_dispatch import TorchDispatchMode

from skpoison.landscape._hessian import (
    basis_size,
    extreme_eigenvalues,
    normal_like,
)
from skpoison.landscape._objective import TrainingLoss
from skpoison.utils._random import RandomStreams
from skpoison.utils._validation import check_number

# Units, as torch's dispatcher names them, and their kinks: numbers, or their arguments.
_KINKS: dict[str, tuple] = {
    "abs": (0,),
    "celu": (0,),
    "clamp": ("min", "max"),
    "clamp_max": ("max",),
    "clamp_min": ("min",),
    "elu": (0,),
    "hardswish": (-3, 3),
    "hardtanh": ("min_val", "max_val"),
    "leaky_relu": (0,),
    "_prelu_kernel": (0,),
    "relu": (0,),
    "rrelu_with_noise": (0,),
    "threshold": ("threshold",),
}
# Of what a unit takes: closer to its kink it counts as on it.
_KINK_TOL = 1e-12
# Of the loss: what rounding may change.
_ROUNDING = 64 * np.finfo(float).eps


def check_local_minimum(
    module,
    X,
    y,
    *,
    criterion="auto",
    weight_decay=0.0,
    gradient_tol=1e-5,
    curvature_tol=1e-6,
    radii=(1e-3, 1e-2, 1e-1),
    local_radius=1e-2,
    n_directions=20,
    n_search_steps=50,
    max_products=500,
    batch_size=None,
    random_state=None,
    device="auto",
):
    """Check whether a network is at a local minimum of its training loss.

    A point passes if its gradient vanishes, if its Hessian has no negative eigenvalue,
    if the loss is smooth there, and if a search close to it finds no lower loss.
    Everything is computed in float64, in evaluation mode and on all rows.

    Parameters
    ----------
    module : torch.nn.Module or fitted classifier
        Not changed: a copy is taken. The loss is a function of the parameters which
        require a gradient.
    X : array-like of shape (n_samples, ...)
        As the network takes it.
    y : array-like of shape (n_samples,) or the shape of the outputs
        Labels or numbers. A bare network takes whole numbers below its number of
        outputs as positions; other labels stand for its outputs in sorted order.
    criterion : "auto" or loss of torch.nn, class or instance, default="auto"
        "auto" is the cross entropy for labels, and the mean squared error for floats
        given to a bare network. Others must be means over rows.
    weight_decay : float, default=0.0
        Adds half of it times the sum of all squared parameters to the loss. The default
        is none, as in the paper's theorem.
    gradient_tol : float, default=1e-5
        The gradient's length may be this, times the smaller of 1 + abs(loss) and of
        the largest absolute eigenvalue by the length of all parameters, at least 1.
        Chosen here, as are all other defaults.
    curvature_tol : float, default=1e-6
        The smallest eigenvalue may be minus this, times the largest absolute one.
    radii : sequence of float, default=(1e-3, 1e-2, 1e-1)
        Distances in the space of parameters at which lower points are looked for, for
        weights that are not far from 1 in size.
    local_radius : float, default=1e-2
        Radii up to this one decide, what lies farther away is reported. A minimum is
        local, so that a lower point at some distance does not speak against it; but
        at a saddle of higher order the loss drops by less than rounding very close by.
    n_directions : int, default=20
        Random directions.
    n_search_steps : int, default=50
        Steps of each descent inside a ball, two or three for each radius.
    max_products : int, default=500
        Products with the Hessian at most, see :func:`hessian_eigenvalues`. Networks of
        a few thousand parameters took about a hundred. ``lower_bound`` comes from the
        first 2000 at most, and from fewer for more than 67,000 parameters.
    batch_size : int, default=None
        Rows at a time. None, fastest, needs memory for the second derivative of all
        rows at once.
    random_state : None, int, RandomState or Generator, default=None
        Of the directions, and of the vector that eigenvalues are looked for from.
    device : str or torch.device, default="auto"

    Returns
    -------
    report : Bunch
        ``is_minimum`` holds where all of these do: ``is_stationary``,
        ``is_semidefinite``, ``is_smooth`` and ``is_lowest``; ``reasons`` lists, as
        text, what speaks against the others. ``summary`` is all of it as text to print.

        ``loss``; ``grad_norm``; ``lambda_min`` and ``lambda_max``, with ``residuals``
        of both; ``lower_bound``, below which there is an eigenvalue with a probability
        of less than 1 %; ``converged`` and ``n_products``, of the eigenvalues;
        ``margin``, the smallest distance of what a unit takes from its kink, over all
        rows and all ReLU, leaky ReLU, PReLU, ELU, SELU, CELU, hardtanh, hardswish,
        threshold, abs and clamp; inf for networks without.

        The rest is by radius, each number a loss minus that at the point: ``radii``,
        ascending; ``random_rise`` of shape (n_radii, n_directions); ``eigen_rise`` of
        shape (n_radii, 2), forwards and backwards along the eigenvector of
        ``lambda_min``; ``worst_rise``, the lowest that was found by these, by a step
        against the gradient, and by descents inside the ball; ``allowed_drop``, how far
        that may be below zero.

    Raises
    ------
    TypeError, ValueError
        A parameter of the wrong kind or range, rows and labels that don't fit the
        network, or a loss or Hessian with NaN or infinite values.

    See Also
    --------
    hessian_eigenvalues : More of the spectrum.
    LossSliceDisplay : Draws the loss along lines through the point.

    Notes
    -----
    A small gradient says little where the loss is flat as well. A loss that has its
    infimum at infinity, such as the cross entropy of separable classes, has no minimum;
    far out its gradient vanishes, but so does its curvature, and the point fails.

    The Hessian passes if even its ``lower_bound`` is within `curvature_tol`; the
    smallest Ritz value alone would not do, because it is always above the smallest
    eigenvalue. Where `max_products` did not suffice to tell, the point fails and the
    reason says so. Flat directions are allowed: minima need not be strict.

    The Hessian knows nothing about what is beyond a kink. A point with a ReLU on its
    kink (all parameters zero, for example) may be a minimum, but fails because this
    can't be certified. Kinks of max pooling and of other units are not looked at.

    The search sees what first and second derivatives don't. The drop allowed at radius
    r is what they explain, and rounding::

        allowed = grad_norm r + max(0, -lambda_min) r^2 / 2 + 64 ulp (1 + abs(loss))

    It descends by spectral projected gradients [2]_ from the lowest of the points
    tried, from one random point and along the way down that was found at the next
    larger radius. Saddles pass where negative curvature is within `curvature_tol`, and
    where the loss drops by less than rounding inside `local_radius`: at 0.01 those of
    order six and above, such as tanh networks of five hidden layers at zero weights.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.
    .. [2] E. Birgin, J. Martinez and M. Raydan. Nonmonotone spectral projected gradient
       methods on convex sets. SIAM Journal on Optimization 10(4), 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.landscape import check_local_minimum
    >>> X, y = load_iris(return_X_y=True)
    >>> X, y = X[y > 0], y[y > 0]
    >>> clf = LogisticRegression(C=np.inf, tol=1e-9, max_iter=10_000).fit(X, y)
    >>> report = check_local_minimum(clf, X, y, gradient_tol=1e-4, random_state=0)
    >>> report.is_minimum, report.reasons
    (True, [])
    >>> clf = LogisticRegression().fit(X, y)  # its own loss has a penalty
    >>> report = check_local_minimum(clf, X, y, random_state=0)
    >>> report.is_minimum, report.is_stationary, report.is_semidefinite
    (False, False, True)
    """
    check_number("gradient_tol", gradient_tol, low=0.0)
    check_number("curvature_tol", curvature_tol, low=0.0, strict=True)
    radii = _checked_radii(radii, local_radius)
    check_number("n_directions", n_directions, low=1, integer=True)
    check_number("n_search_steps", n_search_steps, low=0, integer=True)
    check_number("max_products", max_products, low=1, integer=True)
    streams = RandomStreams(random_state)
    loss = TrainingLoss(
        module,
        X,
        y,
        criterion=criterion,
        weight_decay=weight_decay,
        batch_size=batch_size,
        device=device,
    )
    with _Kinks() as kinks:
        at, gradient = loss.value_and_gradient(loss.start)
    if not (math.isfinite(at) and gradient.isfinite().all()):
        raise ValueError(f"the loss or its gradient is not finite: the loss is {at}")
    spectrum = extreme_eigenvalues(
        loss,
        n_low=1,
        n_high=1,
        tol=curvature_tol,
        max_products=max_products,
        generator=streams.torch("hessian"),
        floor=curvature_tol,
    )
    report = Bunch(loss=at, grad_norm=float(gradient.norm()), radii=radii)
    report.lambda_min = float(spectrum.smallest[0])
    report.lambda_max = float(spectrum.largest[0])
    report.residuals = np.concatenate(
        [spectrum.smallest_residuals, spectrum.largest_residuals]
    )
    report.lower_bound = spectrum.lower_bound
    report.converged = spectrum.converged
    report.n_products = spectrum.n_products
    report.margin = kinks.margin

    lowest = torch.as_tensor(spectrum.smallest_vectors[0]).to(loss.start)
    downhill = -gradient / max(report.grad_norm, np.finfo(float).tiny)
    generator = streams.torch("directions")
    random = [normal_like(loss.start, generator) for _ in range(n_directions)]
    directions = [lowest, -lowest, downhill, *(d / d.norm() for d in random)]
    rises, worst = _rises(loss, at, directions, radii, n_search_steps)
    report.eigen_rise, report.random_rise = rises[:, :2], rises[:, 3:]
    report.worst_rise = worst
    report.allowed_drop = (
        report.grad_norm * radii
        + max(0.0, -report.lambda_min) / 2 * radii**2
        + _ROUNDING * (1 + abs(at))
    )
    scale = max(abs(report.lambda_min), abs(report.lambda_max))
    limit = min(1 + abs(at), scale * max(1.0, float(loss.start.norm())))
    return _judged(
        report,
        limit=gradient_tol * limit,
        floor=-curvature_tol * scale,
        n_basis=basis_size(len(loss.start), 2),
        on_kink=kinks.is_hit,
        decisive=radii <= local_radius,
    )


def _checked_radii(radii, local_radius):
    if isinstance(radii, str) or not hasattr(radii, "__iter__"):
        raise TypeError(f"radii must be a sequence of numbers, got {radii!r}")
    radii = [check_number("each of radii", r, low=0.0, strict=True) for r in radii]
    check_number("local_radius", local_radius, low=0.0, strict=True)
    if not radii or min(radii) > local_radius:
        raise ValueError(
            f"radii must hold a number <= local_radius={local_radius!r}, got {radii}"
        )
    return np.sort(np.array(radii, dtype=float))


class _Kinks(TorchDispatchMode):
    """Keeps the smallest distance of what units take from their kinks."""

    def __init__(self):
        super().__init__()
        self.margin, self.largest = math.inf, 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kinks = _KINKS.get(func._schema.name.removeprefix("aten::").rstrip("_"), ())
        # what doesn't depend on the parameters stays on its side
        if kinks and args[0].requires_grad:
            given = {a.name: a.default_value for a in func._schema.arguments}
            given |= dict(zip(given, args, strict=False)) | (kwargs or {})
            self.largest = max(self.largest, float(args[0].abs().max()))
            for kink in kinks:
                at = given[kink] if isinstance(kink, str) else kink
                if at is not None:
                    distance = float((args[0] - at).abs().min())
                    self.margin = min(self.margin, distance)
        return func(*args, **(kwargs or {}))

    @property
    def is_hit(self):
        return self.margin <= _KINK_TOL * max(1.0, self.largest)


def _rises(loss, at, directions, radii, n_steps):
    """Return rises by radius and direction, and the lowest that was found by radius."""
    rises = np.array(
        [[loss.value(loss.start + r * d) - at for d in directions] for r in radii]
    )
    worst = rises.min(axis=1)
    carried: list[torch.Tensor] = []
    for i in range(len(radii) - 1, -1, -1):
        ways = {int(rises[i].argmin()), len(directions) - 1}
        begins = [*(directions[way] for way in ways), *carried]
        for begin in begins if n_steps else ():
            theta = loss.start + radii[i] * begin
            found, theta = lowest_in_ball(loss, theta, radii[i], n_steps)
            if found - at < worst[i]:
                worst[i] = found - at
                if found < at:  # a way down, for the next smaller radius
                    offset = theta - loss.start
                    carried = [offset / offset.norm()]
    return rises, worst


def lowest_in_ball(loss, theta, radius, n_steps):
    """Return the lowest point that a descent meets in a ball around ``loss.start``.

    Parameters
    ----------
    loss : TrainingLoss
    theta : torch.Tensor
        In the ball, to begin with.
    radius : float
    n_steps : int

    Returns
    -------
    lowest : float
        The loss there.
    theta : torch.Tensor
    """

    def projected(theta):
        offset = theta - loss.start
        return loss.start + offset * min(
            1.0, radius / max(float(offset.norm()), 1e-300)
        )

    value, gradient = loss.value_and_gradient(theta)
    seen, lowest, ulp = [value], theta, np.finfo(float).eps * (1 + abs(value))
    length = radius / max(float(gradient.norm()), 1e-300)
    for _ in range(n_steps):
        step = projected(theta - length * gradient) - theta
        slope = float(gradient @ step)
        if slope > -0.01 * ulp:
            break
        # not every step has to go down, or long valleys are never left
        ceiling, share = max(seen[-5:]), 1.0
        new, new_gradient = loss.value_and_gradient(theta + step)
        while new > ceiling + 1e-4 * share * slope and share > 1e-6:
            share /= 4
            new, new_gradient = loss.value_and_gradient(theta + share * step)
        theta, step = theta + share * step, share * step
        curvature = float(step @ (new_gradient - gradient))
        length = float(step @ step) / curvature if curvature > 0 else 10 * length
        gradient = new_gradient
        if new < min(seen):
            lowest = theta
        seen.append(new)
    return min(seen), lowest


def _judged(report, *, limit, floor, n_basis, on_kink, decisive):
    """Complete a report by its verdicts and their text."""
    too_low = decisive & (report.worst_rise < -report.allowed_drop)
    report.is_stationary = report.grad_norm <= limit
    report.is_semidefinite = report.lower_bound >= floor
    report.is_smooth = not on_kink
    report.is_lowest = not too_low.any()
    reasons = []
    if not report.is_stationary:
        reasons.append(f"the gradient's length is {report.grad_norm:.3g} > {limit:.3g}")
    if report.lambda_min < floor:
        reasons.append(
            f"the Hessian has an eigenvalue of at most {report.lambda_min:.3g}, below "
            f"{floor:.3g}"
        )
    elif not report.is_semidefinite:
        advice = "raise max_products"
        if report.n_products >= n_basis:
            advice = f"those after the first {n_basis} can't tell"
        reasons.append(
            f"undecided: after {report.n_products} products an eigenvalue of the "
            f"Hessian may still be as low as {report.lower_bound:.3g}, below "
            f"{floor:.3g}; {advice}"
        )
    if not report.is_smooth:
        reasons.append("a unit is on its kink, where derivatives tell nothing")
    if not report.is_lowest:
        i = int(too_low.argmax())
        reasons.append(
            f"at radius {report.radii[i]:g} the loss drops by "
            f"{-report.worst_rise[i]:.3g}, more than first and second derivatives "
            "explain"
        )
    report.reasons = reasons
    report.is_minimum = not reasons
    rises = ", ".join(
        f"{rise:.3g} at {r:g}"
        for r, rise in zip(report.radii, report.worst_rise, strict=True)
    )
    report.summary = "\n".join(
        [
            f"local minimum: {'yes' if report.is_minimum else 'no'}",
            *(f"  {reason}" for reason in reasons),
            f"loss {report.loss:.6g}, length of its gradient {report.grad_norm:.3g}",
            f"eigenvalues of the Hessian {report.lambda_min:.3g} to "
            f"{report.lambda_max:.3g}, none below {report.lower_bound:.3g} with "
            f"99 % certainty, {report.n_products} products",
            f"smallest distance of a unit from its kink {report.margin:.3g}",
            f"lowest loss found by radius, less that at the point: {rises}",
        ]
    )
    return report
