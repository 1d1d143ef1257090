"""Graphs of super-pixels: the pixel grid with its nodes joined into cells."""

import warnings

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import check_is_fitted

from skpoison.partition._cells import limit_area
from skpoison.partition._cut_pursuit import cut_pursuit
from skpoison.partition._graph import PartitionGraph
from skpoison.partition._pixels import check_contrast, check_image
from skpoison.partition._result import warn_user
from skpoison.utils._validation import check_number, check_option

_METHODS = ("slic", "cut_pursuit", "felzenszwalb", "watershed", "precomputed")


class SuperpixelGraph(TransformerMixin, BaseEstimator):
    """Graph of the super-pixels of one image, with the interfaces of its pixels.

    A partition problem on super-pixels has a small fraction of the unknowns of one on
    pixels. Nodes are joined cells of the pixel grid, whose areas and interfaces add
    up, so that energies of both can be compared: a labelling of the cells has exactly
    the energy of the labelling of the pixels that it induces. Pass it as
    `discretization` to the estimators of this package, or fit it to an image.

    Parameters
    ----------
    method : str or callable, default="slic"
        How to find the cells. "slic": compact cells of about equal size, by
        scikit-image [1]_. "cut_pursuit": cells of nearly constant colour, of any size;
        the energy needs fewer of them [2]_. "felzenszwalb": by scikit-image [3]_; its
        cells may hang together by corners only. "watershed": basins of the gradient,
        by scikit-image. "precomputed": `labels`. A callable takes the image, float of
        shape (height, width, n_channels), and returns integers (height, width).
    n_segments : int, default=3000
        Number of cells asked for; `n_segments_` tells how many came. As many as pixels
        or more: each pixel is a cell. Sets the scale of "felzenszwalb". Not of
        "cut_pursuit", "precomputed" and callables.
    compactness : float, default=30.0
        Of "slic": large values give square cells. Ragged cells have long interfaces,
        which the energy pays for: scikit-image's 10 is clearly worse.
    mu : float, default=0.03
        Of "cut_pursuit": price of a unit of interface, for images in [0, 1]. The
        larger, the fewer cells: of two natural images of 321 x 481 pixels, 690 and 60
        with 0.1, 4200 and 380 with 0.03, 31,000 and 4700 with 0.003.
    connectivity : {4, 8}, default=4
        Of the pixel grid. Interfaces are measured in Manhattan length, or nearly in
        Euclidean length. Where an estimator has cells of these, 4 leaves it the choice.
    contrast : tuple (sigma, low), default=None
        Makes interfaces cheaper along strong edges, see
        :meth:`PartitionGraph.from_grid`. None is no such thing, or leaves it to the
        estimator that has these cells.
    labels : array-like of int, shape (height, width), default=None
        Cells for "precomputed". Any integers; they need not be connected.
    max_area : float, default=None
        Cells of more pixels, of any method, are halved until none is left. One label
        for a huge cell of constant colour can't follow a depth that changes in it.
    aggregate : {"mean", "sum"}, default="mean"
        What :meth:`transform` makes of the pixels of a cell.

    Attributes
    ----------
    labels_ : ndarray of int, shape (height, width)
        The cell of each pixel, from 0 without gaps.
    graph_ : PartitionGraph
        Of the cells.
    n_segments_ : int
        Number of cells.
    edges_ : ndarray of shape (n_edges, 2)
        Pairs of adjacent cells.
    weights_ : ndarray of shape (n_edges,)
        Lengths of their interfaces.
    node_areas_ : ndarray of shape (n_segments_,)
        Numbers of pixels.
    adjacency_ : scipy.sparse.csr_array of shape (n_segments_, n_segments_)
        Symmetric, with the lengths of the interfaces.

    Raises
    ------
    ValueError, TypeError
        A parameter out of range; an image that is no image, or has NaN or infinite
        values; labels of another shape than the image.

    Warns
    -----
    UserWarning
        "slic" found fewer than half of the cells asked for, as on noise.

    See Also
    --------
    PartitionGraph.contract : The same for any graph.

    Notes
    -----
    For the matrix P of memberships, ``P[cell(v), v] = 1``, unary costs F of pixels and
    their weights W: cells have costs ``P F``, areas ``P 1`` and interfaces
    ``P W P^T`` off the diagonal. Costs are summed and not averaged, or
    `regularization` would mean something else for every size of cells; that is
    :meth:`contract`, whatever `aggregate` is.

    Images of bytes are divided by 255, others taken as they are. Colours of three
    channels are compared in CIELAB by "slic". It treats other images as if their range
    were CIELAB's 100, so that `compactness` means the same.

    All methods are deterministic. The rows of an image are no samples, and those that
    :meth:`transform` returns are cells.

    References
    ----------
    .. [1] Achanta et al. (2012), SLIC superpixels compared to state-of-the-art
       superpixel methods. IEEE TPAMI 34.
    .. [2] Landrieu and Obozinski (2017), Cut pursuit: fast algorithms to learn
       piecewise constant functions on general weighted graphs. SIAM Journal on Imaging
       Sciences 10.
    .. [3] Felzenszwalb and Huttenlocher (2004), Efficient graph-based image
       segmentation. IJCV 59.
    .. [4] Geiping, Gaede, Bauermeister and Moeller (2020), Fast convex relaxations
       using graph discretizations. arXiv:2004.11075.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.partition import SuperpixelGraph
    >>> image = np.zeros((20, 30))
    >>> image[5:15, 10:20] = 1.0
    >>> cells = SuperpixelGraph("cut_pursuit").fit(image)
    >>> cells.node_areas_, cells.weights_
    (array([500., 100.]), array([40.]))
    >>> cells.transform(image).ravel()
    array([0., 1.])
    """

    def __init__(
        self,
        method="slic",
        n_segments=3000,
        compactness=30.0,
        mu=0.03,
        connectivity=4,
        contrast=None,
        labels=None,
        max_area=None,
        aggregate="mean",
    ):
        self.method = method
        self.n_segments = n_segments
        self.compactness = compactness
        self.mu = mu
        self.connectivity = connectivity
        self.contrast = contrast
        self.labels = labels
        self.max_area = max_area
        self.aggregate = aggregate

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # an image of one channel has two dimensions, but its rows are no samples
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X, y=None):
        """Join pixels into cells, and build the graph of the cells.

        Parameters
        ----------
        X : array-like of shape (height, width) or (height, width, n_channels)
            One image.
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        self._check_parameters()
        image = check_image(X, "X")
        labels = self._find_cells(image)
        if self.max_area is not None:
            flat = limit_area(labels.ravel(), pixel_grid(image, self), self.max_area)
            labels = flat.reshape(labels.shape)
        self.graph_ = PartitionGraph.from_cells(
            labels, self.connectivity, image=image, contrast=self.contrast
        )
        self.labels_ = self.graph_.labels
        self.node_areas_ = self.graph_.node_areas
        self.edges_ = self.graph_.edges
        self.weights_ = self.graph_.weights
        self.adjacency_ = self.graph_.adjacency()
        self.n_segments_ = self.graph_.n_nodes
        return self

    def _check_parameters(self):
        if not callable(self.method):
            check_option("method", self.method, _METHODS)
        check_number("n_segments", self.n_segments, low=1, integer=True)
        check_number("compactness", self.compactness, low=0.0, strict=True)
        check_number("mu", self.mu, low=0.0)
        if self.connectivity not in (4, 8):
            raise ValueError(
                f"connectivity must be 4 or 8 for cells, got {self.connectivity!r}"
            )
        if self.contrast is not None:
            check_contrast(self.contrast)
        if self.max_area is not None:
            check_number("max_area", self.max_area, low=1.0)
        check_option("aggregate", self.aggregate, ("mean", "sum"))

    def _find_cells(self, image):
        """Return the label image of the method."""
        if callable(self.method):
            return _check_labels("the labels of method", self.method(image), image)
        if self.method == "precomputed":
            return _check_labels("labels", self.labels, image)
        if self.method == "cut_pursuit":
            grid = pixel_grid(image, self)
            pixels = image.reshape(grid.n_nodes, -1)
            return cut_pursuit(pixels, grid, self.mu).reshape(grid.shape)
        shape = image.shape[:2]
        n_pixels = shape[0] * shape[1]
        if self.n_segments >= n_pixels:
            return np.arange(n_pixels).reshape(shape)
        if self.method == "slic":
            return _slic(image, self.n_segments, self.compactness)
        if self.method == "felzenszwalb":
            return _felzenszwalb(image, n_pixels / self.n_segments)
        return _watershed(image, self.n_segments)

    def transform(self, X):
        """Return the mean of each channel over each cell, or the sum.

        Parameters
        ----------
        X : array-like of shape (height, width) or (height, width, n_channels)
            An image of the size that was fitted; of any number of channels.

        Returns
        -------
        features : ndarray of shape (n_segments_, n_channels)
        """
        check_is_fitted(self)
        image = check_image(X, "X")
        if image.shape[:2] != self.labels_.shape:
            raise ValueError(
                f"X has {image.shape[:2]} pixels, but the graph was fitted to "
                f"{self.labels_.shape}"
            )
        return self.graph_.aggregate(image, mean=self.aggregate == "mean")

    def inverse_transform(self, X):
        """Give each pixel the value of its cell.

        Parameters
        ----------
        X : array-like of shape (n_segments_, ...)
            Such as labels of the cells, or their features.

        Returns
        -------
        image : ndarray of shape (height, width, ...)
        """
        check_is_fitted(self)
        X = np.asarray(X)
        if X.ndim == 0 or len(X) != self.n_segments_:
            raise ValueError(
                f"X must have one row a cell, {self.n_segments_}, got shape {X.shape}"
            )
        return X[self.labels_]

    def contract(self, F):
        """Sum numbers of the pixels over the cells.

        Parameters
        ----------
        F : array-like of shape (height * width, n_labels) or (height, width, n_labels)
            Such as unary costs. Taken as they are, bytes too.

        Returns
        -------
        sums : ndarray of shape (n_segments_, n_labels)
        """
        check_is_fitted(self)
        F = np.asarray(F, dtype=np.float64)
        shape = self.labels_.shape
        if F.shape[:2] != shape and F.shape[:1] != (self.labels_.size,):
            raise ValueError(
                f"F must have shape ({self.labels_.size}, n_labels) or {shape} and "
                f"labels, got {F.shape}"
            )
        assert_all_finite(F, input_name="F")
        return self.graph_.aggregate(F)


def pixel_grid(image, estimator):
    """Return the graph of the pixels, in the metric of cells or of an estimator."""
    return PartitionGraph.from_grid(
        image.shape[:2],
        estimator.connectivity,
        image=image,
        contrast=estimator.contrast,
    )


def with_metric(cells, estimator):
    """Return a clone of cells whose interfaces are measured as an estimator asks.

    Parameters
    ----------
    cells : SuperpixelGraph
        Its `contrast` counts where it has one, and its `connectivity` where that is
        not the default.
    estimator : estimator
        Its own `contrast` and `connectivity` count else.

    Returns
    -------
    cells : SuperpixelGraph
    """
    cells = clone(cells)
    if cells.contrast is None:
        cells.set_params(contrast=estimator.contrast)
    if cells.connectivity == 4:
        cells.set_params(connectivity=estimator.connectivity)
    return cells


def _check_labels(name, labels, image):
    labels = np.asarray(labels)
    if labels.shape != image.shape[:2] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be integers of the image's shape {image.shape[:2]}, got "
            f"shape {labels.shape} of dtype {labels.dtype}"
        )
    return labels


def _slic(image, n_segments, compactness):
    from skimage.segmentation import slic

    # compactness weighs distance against colours: up to 100 in CIELAB, else up to 1
    unit = 1.0 if image.shape[2] == 3 else 100.0
    labels = slic(
        image.astype(np.float32),  # the same cells, in half the memory
        n_segments=n_segments,
        compactness=compactness / unit,
        start_label=0,
        enforce_connectivity=True,
        channel_axis=-1,
    )
    n_cells = labels.max() + 1
    if n_cells < n_segments / 2:  # on noise it joins what it can't connect, often all
        warn_user(
            f"method='slic' found {n_cells} cells and not n_segments={n_segments}: "
            f"raise compactness, {compactness!r}, or smooth the image"
        )
    return labels


def _felzenszwalb(image, mean_area):
    from skimage.segmentation import felzenszwalb

    with warnings.catch_warnings():  # that more channels than four are meant
        warnings.simplefilter("ignore", RuntimeWarning)
        # regions end where their contrast exceeds scale / area
        return felzenszwalb(
            image, scale=mean_area, min_size=max(int(mean_area / 2), 1), channel_axis=-1
        )


def _watershed(image, n_segments):
    from skimage.filters import sobel
    from skimage.segmentation import watershed

    slopes = [sobel(image[..., channel]) for channel in range(image.shape[2])]
    return watershed(np.max(slopes, axis=0), markers=n_segments)
