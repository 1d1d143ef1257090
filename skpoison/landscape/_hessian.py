"""Extreme eigenvalues of the Hessian of a training loss, from products alone."""

import math

import numpy as np
import torch
from sklearn.utils import Bunch

from skpoison.landscape._objective import TrainingLoss
from skpoison.utils._random import RandomStreams
from skpoison.utils._validation import check_number, check_option

# Hessians up to this size are computed whole.
_DENSE = 64
# The basis of the Lanczos method: 1 GiB of float64, and as many vectors.
_BASIS_VALUES, _BASIS_VECTORS = 2**27, 2000
# Probability that an eigenvalue lies outside the bounds.
_RISK = 0.01
_NOT_FINITE = "the Hessian of the loss holds NaN or infinite values"


def hessian_eigenvalues(
    module,
    X,
    y,
    *,
    k=1,
    which="both",
    criterion="auto",
    weight_decay=0.0,
    tol=1e-6,
    max_products=1000,
    batch_size=None,
    random_state=None,
    device="auto",
):
    """Return the extreme eigenvalues of the Hessian of a network's training loss.

    The Lanczos method finds both ends of the spectrum in one run, from products of the
    Hessian with vectors, in float64. The Hessian itself is computed where it is small.

    Parameters
    ----------
    module : torch.nn.Module or fitted classifier
        Not changed: a copy is taken, in evaluation mode. The Hessian is that of the
        parameters which require a gradient.
    X : array-like of shape (n_samples, ...)
        As the network takes it.
    y : array-like of shape (n_samples,) or the shape of the outputs
        Labels or numbers. A bare network takes whole numbers below its number of
        outputs as positions; other labels stand for its outputs in sorted order.
    k : int, default=1
        Eigenvalues at each end.
    which : {"both", "largest", "smallest"}, default="both"
        Algebraically, not by absolute value.
    criterion : "auto" or loss of torch.nn, class or instance, default="auto"
        "auto" is the cross entropy for labels, and the mean squared error for floats
        given to a bare network. Others must be means over rows.
    weight_decay : float, default=0.0
        Adds half of it times the sum of all squared parameters to the loss. The default
        is none, as in the paper's theorem.
    tol : float, default=1e-6
        Largest residual, relative to the largest absolute eigenvalue found. The error
        of a well separated eigenvalue is about the square of this.
    max_products : int, default=1000
        Products with the Hessian at most, each about as costly as a forward and a
        backward pass over all rows, and twice that in batches. Chosen here: networks
        of a few thousand parameters took about a hundred.
    batch_size : int, default=None
        Rows at a time. The result is the same; None, fastest, needs memory for the
        second derivative of all rows at once.
    random_state : None, int, RandomState or Generator, default=None
        Of the vector that the method starts from.
    device : str or torch.device, default="auto"

    Returns
    -------
    result : Bunch
        ``largest`` and ``smallest`` hold k eigenvalues each, the outermost first;
        ``largest_vectors`` and ``smallest_vectors`` of shape (k, n_parameters) their
        unit eigenvectors, in the order of ``module.parameters()``;
        ``largest_residuals`` and ``smallest_residuals`` the lengths of
        ``H v - lambda v``, measured afterwards. An end not asked for is empty.
        With a probability of 99 % over `random_state` all eigenvalues lie between
        ``lower_bound`` and ``upper_bound``. ``n_products`` counts products, and
        ``converged`` tells whether all residuals are within `tol`.

    Raises
    ------
    TypeError, ValueError
        A parameter of the wrong kind or range, rows and labels that don't fit the
        network, or a Hessian with NaN or infinite values.

    Notes
    -----
    Each value is a Rayleigh quotient: the smallest eigenvalue is never above what
    ``smallest`` says, nor the largest below ``largest``, converged or not. An
    eigenvalue of the Hessian lies within the residual of each. Residuals can't tell
    whether one was missed; the bounds of [2]_ can. Let theta_i be the Ritz values after
    m products and beta_i the off-diagonal entries of the Lanczos matrix. The component
    c of the random start v along the outermost eigenvector is above d in absolute
    value with a probability of at least 99.5 %, and the next Lanczos vector p(H) v has
    length 1, so that ::

        d = 0.005 sqrt(pi / (2 n_parameters))
        p(x) = (x - theta_1) / beta_1 ... (x - theta_m) / beta_m
        abs(c p(lambda_min)) <= 1

    and ``lower_bound`` is the x below all theta_i where abs(p(x)) is 1 / d;
    ``upper_bound`` is its mirror image.

    Of an eigenvalue that occurs several times, the method finds one copy for certain.
    Where ReLU units change sides, the Hessian is that of the side that torch takes.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.
    .. [2] J. van Dorsselaer, M. Hochstenbach and H. van der Vorst. Computing
       probabilistic bounds for extreme eigenvalues of symmetric matrices with the
       Lanczos method. SIAM Journal on Matrix Analysis and Applications 22(3), 2000.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpoison.landscape import hessian_eigenvalues
    >>> from skpoison.models import MLP, TorchClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = TorchClassifier(
    ...     MLP, module__hidden=(16,), max_epochs=3, device="cpu", random_state=0
    ... ).fit(X, y)
    >>> result = hessian_eigenvalues(clf, X, y, random_state=0)
    >>> bool(result.smallest[0] < 0 < result.largest[0]), result.converged
    (True, True)
    """
    check_number("k", k, low=1, integer=True)
    check_option("which", which, ("both", "largest", "smallest"))
    check_number("tol", tol, low=0.0, strict=True)
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
    return extreme_eigenvalues(
        loss,
        n_low=0 if which == "largest" else k,
        n_high=0 if which == "smallest" else k,
        tol=tol,
        max_products=max_products,
        generator=streams.torch("hessian"),
    )


def extreme_eigenvalues(
    loss, *, n_low, n_high, tol, max_products, generator, floor=None
):
    """Return what :func:`hessian_eigenvalues` does, of a :class:`TrainingLoss`.

    Parameters
    ----------
    loss : TrainingLoss
    n_low, n_high : int
        Eigenvalues at each end.
    tol : float
    max_products : int
    generator : torch.Generator
    floor : float, default=None
        See :func:`lanczos`.

    Returns
    -------
    result : Bunch
    """
    n, n_wanted, before = len(loss.start), n_low + n_high, loss.n_products
    if max(n_low, n_high) > n:
        raise ValueError(
            f"k must be at most {n}, the number of parameters, got {max(n_low, n_high)}"
        )
    is_dense = n <= max(_DENSE, 2 * n_wanted)
    needed = n if is_dense else 2 * n_wanted  # of these, one each for the residuals
    if max_products < needed:
        raise ValueError(
            f"max_products must be at least {needed} for {n} parameters, got "
            f"{max_products}"
        )
    if is_dense:
        identity = torch.eye(n, dtype=loss.start.dtype, device=loss.start.device)
        hessian = torch.stack([loss.product(row) for row in identity])
        if not hessian.isfinite().all():
            raise ValueError(_NOT_FINITE)
        values, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
        vectors, bounds = vectors.T, (float(values[0]), float(values[-1]))
        residuals = (vectors @ hessian - values[:, None] * vectors).norm(dim=1)
    else:
        values, vectors, bounds = lanczos(
            loss.product,
            n,
            n_low,
            n_high,
            tol=tol,
            max_products=max_products - n_wanted,
            draw=lambda: normal_like(loss.start, generator),
            floor=floor,
        )
        pairs = zip(values, vectors, strict=True)
        residuals = torch.stack([(loss.product(v) - t * v).norm() for t, v in pairs])
    low, high = range(n_low), range(len(values) - 1, len(values) - 1 - n_high, -1)

    def ends(array):
        array = array.cpu().numpy()
        return array[[*low]], array[[*high]]

    result = Bunch(n_products=loss.n_products - before)
    result.smallest, result.largest = ends(values)
    result.smallest_vectors, result.largest_vectors = ends(vectors)
    result.smallest_residuals, result.largest_residuals = ends(residuals)
    result.lower_bound, result.upper_bound = bounds
    # no tolerance is below what rounding leaves
    limit = max(tol, 1e-13) * values.abs().max()
    result.converged = bool((residuals <= limit).all())
    return result


def lanczos(product, n, n_low, n_high, *, tol, max_products, draw, floor=None):
    """Return eigenpairs at both ends of the spectrum of a symmetric operator.

    The Lanczos method with full orthogonalisation. Where its basis is full, it goes on
    from the Ritz vectors nearest to both ends.

    Parameters
    ----------
    product : callable
        From a vector to its product.
    n : int
        Size of a vector.
    n_low, n_high : int
        Values at the two ends.
    tol : float
        Largest residual, relative to the largest absolute value.
    max_products : int
    draw : callable
        Without arguments, to a random vector.
    floor : float, default=None
        Goes on until it is clear whether an eigenvalue lies below ``-floor`` times the
        largest absolute value: one does, or the lower bound does not.

    Returns
    -------
    values : torch.Tensor of shape (n_low + n_high,)
        Ascending.
    vectors : torch.Tensor of shape (n_low + n_high, n)
        A unit vector in each row.
    bounds : tuple of float
        Outside of all eigenvalues, as :func:`hessian_eigenvalues` says.
    """
    n_wanted = n_low + n_high
    n_basis = min(basis_size(n, n_wanted), max_products)
    w = draw()
    V = w.new_empty(n_basis + 1, n)
    T = w.new_zeros(n_basis, n_basis)
    V[0] = w / w.norm()
    size, check, betas, bounds = 0, n_wanted, [], None
    for n_taken in range(1, max_products + 1):
        w = product(V[size])
        size += 1
        basis = V[:size]
        w, coefficients = _orthogonalised(w, basis)
        T[size - 1, :size] = T[:size, size - 1] = coefficients
        beta = w.norm()
        if not beta.isfinite():
            raise ValueError(_NOT_FINITE)
        betas.append(float(beta))
        is_full, is_last = size == n_basis, n_taken == max_products or size == n
        is_invariant = bool(beta <= 1e-14 * T[:size, :size].norm())
        if size >= check or is_full or is_last or is_invariant:
            check = size + max(5, size // 8)  # eigh costs more and more
            values, rotation = torch.linalg.eigh(T[:size, :size])
            scale = values.abs().max()
            ends = [*range(n_low), *range(size - n_high, size)]
            if size >= n_wanted:
                residuals = beta * rotation[-1, ends].abs()
                is_last |= bool((residuals <= tol * scale).all()) and (
                    floor is None
                    or bool(values[0] < -floor * scale)
                    or (bounds or _bounds(values, betas, n))[0] >= -floor * scale
                )
            if bounds is None and (is_last or is_full or is_invariant):
                bounds = _bounds(values, betas, n)
            if is_last:
                break
        if is_full:
            n_kept = max(n_wanted, n_basis // 2)
            n_lower = round(n_kept * n_low / n_wanted)
            kept = [*range(n_lower), *range(size - n_kept + n_lower, size)]
            V[:n_kept] = rotation[:, kept].T @ basis
            T.zero_()
            T[range(n_kept), range(n_kept)] = values[kept]
            size, basis = n_kept, V[:n_kept]
        if is_invariant:
            w, _ = _orthogonalised(draw(), basis)
        V[size] = w / w.norm()
    vectors = rotation[:, ends].T @ basis
    vectors /= vectors.norm(dim=1, keepdim=True)
    return values[ends], vectors, bounds


def basis_size(n, n_wanted):
    """Return how many vectors of size n are kept: later products don't move bounds."""
    room = max(_BASIS_VALUES // n, 2 * n_wanted + 20)
    return min(n, room, _BASIS_VECTORS + 2 * n_wanted)


def _orthogonalised(w, basis):
    """Return what of w is orthogonal to the basis, and the coefficients of the rest."""
    coefficients = basis @ w
    w = w - coefficients @ basis
    again = basis @ w  # rounding leaves a part, which would grow
    return w - again @ basis, coefficients + again


def _bounds(ritz, betas, n):
    """Return where the Lanczos polynomial says that eigenvalues end, at both ends."""
    if betas[-1] == 0:  # the start lies in a space that the operator never leaves
        return float(ritz[0]), float(ritz[-1])
    ritz, betas = ritz.cpu().numpy(), np.array(betas)
    component = _RISK / 2 * math.sqrt(math.pi / (2 * n))
    # of an invariant space beta is rounding, and the polynomial rises at once
    log_scale = np.log(np.maximum(betas, np.finfo(float).tiny)).sum()

    def excess(distance, gaps):
        return np.log(distance + gaps).sum() - log_scale + math.log(component)

    found = []
    for gaps in (ritz - ritz[0], ritz[-1] - ritz):
        low, high = 0.0, float(betas.max()) + np.finfo(float).tiny
        while excess(high, gaps) < 0:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            below = middle > 0 and excess(middle, gaps) < 0
            low, high = (middle, high) if below else (low, middle)
        found.append(high + 1e-13 * float(abs(ritz).max()))  # rounding
    return float(ritz[0] - found[0]), float(ritz[-1] + found[1])


def normal_like(like, generator):
    """Return a vector of normal draws, made on the CPU."""
    return torch.randn(len(like), generator=generator, dtype=like.dtype).to(like.device)
