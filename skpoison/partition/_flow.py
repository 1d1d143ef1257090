"""Displacements between two images of a scene."""

import numpy as np

from skpoison.partition._matching import BaseMatching
from skpoison.partition._matching_costs import displacement_costs
from skpoison.utils._validation import check_number, check_option

_PAIRWISE = ("potts", "separable_tv")


class LiftedFlow(BaseMatching):
    """Optical flow by a convex relaxation, on super-pixels of the first image.

    Each cell gets one of all whole displacements within a square, the one under which
    its pixels look most alike in the second image; neighbouring cells pay where theirs
    differ [1]_. No image pyramid and no linearisation is involved, hence small things
    that move far are found as well as large ones.

    Parameters
    ----------
    radius : int, default=4
        Displacements are -radius to radius along both axes: ``(2 * radius + 1) ** 2``
        labels.
    regularization : float, default=0.1
        Price of a pixel of interface. The default is for the costs as they are.
    pairwise : {"potts", "separable_tv"}, default="potts"
        The price of displacements f and g at an interface: 1 if they differ, or
        ``|f_y - g_y| + |f_x - g_x|``.
    discretization : {"superpixel", "grid"} or SuperpixelGraph, default="superpixel"
        "superpixel": ``SuperpixelGraph(n_segments=3000, compactness=10.0)``. "grid":
        pixels. An instance is cloned. Its `contrast` counts unless it is None, and
        its `connectivity` unless it is 4; else those of this estimator do.
    contrast : tuple (sigma, low) or None, default=None
        Makes interfaces cheap along edges of the first image, see
        :meth:`PartitionGraph.from_grid`.
    normalize_cost : bool, default=False
        Multiply `regularization` by the median over pixels of the largest less the
        least cost. Not needed to compare images, as costs lie in [0, 0.15].
    connectivity : {4, 8, "isotropic"}, default=4
        Of the pixels. "isotropic" only on the grid, with "potts".
    solver : str, default="pdhg"
        "pdhg", "cvxpy", "cvxpy:NAME" or "maxflow", see :func:`solve_lifted`.
    tol : float, default=1e-4
        Largest gap between energy and lower bound, relative as in
        :func:`solve_lifted`.
    max_iter : int, default=2000
        Largest number of iterations.
    backend : {"numpy", "torch"}, default="numpy"
        Of "pdhg".
    device : str, default="auto"
        Of the torch backend.
    dtype : {"float32", "float64"}, default="float32"
        Of the iterations; energies and bounds are float64.
    solver_options : dict, default=None
        Passed to the solver.
    random_state : int, RandomState instance or None, default=None
        Seeds the solver's rounding.
    verbose : int, default=0
        1 shows progress on stderr.

    Attributes
    ----------
    flow_ : ndarray of shape (height, width, 2)
        Displacements (dy, dx) in pixels: (y, x) of the first image matches
        (y + dy, x + dx) of the second.
    confidence_ : ndarray of shape (height, width)
        The largest share of a label in the relaxed solution, 1 where it is integral.
    labels_ : ndarray of shape (height, width)
        Numbers of displacements, row by row.
    energy_ : float
        Of `flow_`, in the metric of the pixels, also on cells.
    lower_bound_ : float
        No flow that is constant on each cell has a smaller energy.
    gap_, relative_gap_ : float
        Energy less lower bound; that over the larger of both in size.
    scale_ : float
        By which `regularization` was multiplied.
    graph_ : PartitionGraph
        Cells or pixels.
    primal_ : ndarray of shape (n_nodes, n_labels)
        The relaxed solution: rows in the unit simplex.
    result_ : LiftedResult
        With duals and history.
    n_iter_ : int
    converged_ : bool
        Whether the solver reached `tol`.
    solve_time_, build_time_ : float
        Wall seconds of the solver, and of all else: costs, cells, graph.

    Raises
    ------
    ValueError, TypeError
        A bad parameter, images of different shapes, NaN; before any solve.

    Warns
    -----
    ConvergenceWarning
        A gap above `tol` after `max_iter` iterations. Flow and bound are valid.
    UserWarning
        Images other than uint8 that exceed 1.

    See Also
    --------
    LiftedStereo : Displacements along rows. Its notes on several pairs and on searches
        over parameters hold here too.
    skimage.registration.optical_flow_tvl1 : Real displacements, over a pyramid.

    Notes
    -----
    A displacement f of the pixel p costs ::

        min(mean over channels of |second[p + f] - first[p]|, 0.15)

    for images that are uint8 or lie in [0, 1], and 0.15 where p + f is out of view.

    References
    ----------
    .. [1] Geiping, Gaede, Bauermeister and Moeller (2020), Fast convex relaxations
       using graph discretizations. arXiv:2004.11075.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.partition import LiftedFlow
    >>> first = np.random.RandomState(0).rand(30, 40, 3)
    >>> second = np.roll(first, (1, -2), axis=(0, 1))
    >>> model = LiftedFlow(radius=2, discretization="grid").fit((first, second))
    >>> model.flow_[15, 20]
    array([ 1., -2.])
    """

    def __init__(
        self,
        radius=4,
        regularization=0.1,
        *,
        pairwise="potts",
        discretization="superpixel",
        contrast=None,
        normalize_cost=False,
        connectivity=4,
        solver="pdhg",
        tol=1e-4,
        max_iter=2000,
        backend="numpy",
        device="auto",
        dtype="float32",
        solver_options=None,
        random_state=None,
        verbose=0,
    ):
        self.radius = radius
        self.regularization = regularization
        self.pairwise = pairwise
        self.discretization = discretization
        self.contrast = contrast
        self.normalize_cost = normalize_cost
        self.connectivity = connectivity
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.backend = backend
        self.device = device
        self.dtype = dtype
        self.solver_options = solver_options
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):
        """Match a pair of images, or each of several.

        Parameters
        ----------
        X : array-like of shape (2, height, width[, n_channels]), tuple or several
            The first and the second image. Several pairs as in the Notes of
            :class:`LiftedStereo`.
        y : None

        Returns
        -------
        self : object
        """
        self.flow_ = self._fit(X)
        return self

    def predict(self, X):
        """Match other images with the same parameters; nothing of the first is used.

        Parameters
        ----------
        X : as in :meth:`fit`

        Returns
        -------
        flow : ndarray of shape (height, width, 2)
            Of several pairs as `flow_`.
        """
        return self._predict(X)

    def fit_predict(self, X, y=None):
        """Match and return `flow_`.

        Parameters
        ----------
        X : as in :meth:`fit`
        y : None

        Returns
        -------
        flow : ndarray of shape (height, width, 2)
        """
        return self.fit(X).flow_

    def score(self, X, y):
        """Match X and return the mean end-point error, negated.

        Parameters
        ----------
        X : as in :meth:`fit`
        y : array-like of shape (height, width, 2)
            True displacements; only those that are finite count. Of several pairs one
            each.

        Returns
        -------
        score : float
            Minus the mean distance between true and estimated displacement, mean over
            the pairs.
        """
        return self._score(X, y, _end_point_error)

    def _check_parameters(self, width):
        check_number("radius", self.radius, low=0, integer=True)
        check_option("pairwise", self.pairwise, _PAIRWISE)

    @property
    def _side(self):
        return 2 * self.radius + 1

    @property
    def _n_labels(self):
        return self._side**2

    def _costs(self, first, second):
        return displacement_costs(first, second, self.radius)

    def _term(self):
        return {"pairwise": self.pairwise, "label_shape": (self._side, self._side)}

    def _decode(self, labels):
        return np.stack(np.divmod(labels, self._side), axis=-1) - float(self.radius)


def _end_point_error(flow, truth):
    known = np.isfinite(truth).all(axis=-1)
    if not known.any():
        raise ValueError("y has no known displacement: none is finite")
    return -float(np.linalg.norm(flow[known] - truth[known], axis=-1).mean())
