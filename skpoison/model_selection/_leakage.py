"""What a client's counter-measure leaves of its images."""

import inspect
import warnings
from collections.abc import Iterable

import numpy as np
from joblib import Parallel, delayed
from sklearn.utils import Bunch
from sklearn.utils.validation import check_consistent_length

from skpoison.metrics import psnr
from skpoison.utils import RandomStreams
from skpoison.utils._pyplot import import_pyplot

_CLIENT = {
    "update": "update",
    "local_steps": "local_steps",
    "local_lr": "local_lr",
    "local_batch_size": "batch_size",
    "criterion": "criterion",
    "batch_norm": "batch_norm",
}


def leakage_curve(
    inversion,
    X,
    y,
    *,
    defense,
    param_range,
    data_range=None,
    n_jobs=None,
    random_state=None,
):
    """Measure how well images are reconstructed from defended updates.

    Each image is a client of its own.

    Parameters
    ----------
    inversion : GradientInversion or AnalyticInversion
        Its ``module`` and the client's recipe in its parameters are those of the
        clients. Not changed.
    X : array-like of shape (n_images, ...)
        In the unit of the inversion's ``bounds``; uint8 is divided by 255.
    y : array-like of shape (n_images,)
        Labels, as in `classes_` of a fitted classifier and positions among the scores
        of a network. The attacker is told.
    defense : callable
        ``defense(update, value)`` returns what the client sends instead, such as
        :func:`~skpoison.inversion.noise_update`. Where it has a parameter
        `random_state` that is None, it is given a seed.
    param_range : list
        Values of the defense's strength.
    data_range : float, default=None
        See :func:`~skpoison.metrics.psnr`.
    n_jobs : int, default=None
        Images at a time, by joblib.
    random_state : None, int, RandomState or Generator, default=None
        Each image has seeds of its own for the defense and, where its ``random_state``
        is None, the inversion; the same for all values.

    Returns
    -------
    curve : Bunch
        `param_range`; `psnr` in dB and `gradient_cosine`, of what is sent to the
        update itself, both of shape (n_values, n_images).

    See Also
    --------
    LeakageCurveDisplay : Draws it.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.inversion import AnalyticInversion, noise_update
    >>> from skpoison.model_selection import leakage_curve
    >>> from skpoison.models import MLP
    >>> from skpoison.utils import local_torch_seed
    >>> X, y = load_digits(return_X_y=True)
    >>> with local_torch_seed(0):
    ...     module = MLP((64,), 10)
    >>> curve = leakage_curve(
    ...     AnalyticInversion(module, polish=False), X[:3] / 16, y[:3],
    ...     defense=noise_update, param_range=[0.0, 0.1, 10.0], random_state=0,
    ... )
    >>> curve.psnr.shape, bool((np.diff(curve.psnr, axis=0) < 0).all())
    ((3, 3), True)
    """
    X, y = np.asarray(X), np.asarray(y)
    check_consistent_length(X, y)
    if not len(X):
        raise ValueError("X must hold at least one image, got none")
    if isinstance(inversion, type) or not hasattr(inversion, "reconstruct"):
        raise TypeError(
            "inversion must be a GradientInversion or an AnalyticInversion, got "
            f"{inversion!r}"
        )
    if not isinstance(param_range, Iterable):
        raise TypeError(f"param_range must be a list, got {param_range!r}")
    if X.dtype == np.uint8:
        X = X / 255
    param_range = list(param_range)
    if not callable(defense):
        raise TypeError(
            f"defense must be a callable (update, value) -> update, got {defense!r}"
        )
    streams = RandomStreams(random_state)
    found = Parallel(n_jobs=n_jobs)(
        delayed(_of_one_image)(
            inversion,
            X[[i]],
            y[[i]],
            defense,
            param_range,
            data_range,
            streams.seed(f"image {i}"),
        )
        for i in range(len(X))
    )
    ratios, cosines = np.moveaxis(np.array(found), 0, 2)
    return Bunch(param_range=param_range, psnr=ratios, gradient_cosine=cosines)


def _of_one_image(inversion, X, y, defense, param_range, data_range, seed):
    """Return PSNR and cosine for each value, shape (2, n_values)."""
    from skpoison.inversion import client_update, load_update
    from skpoison.models import as_module

    params = inversion.get_params(deep=False)
    recipe = {to: params[name] for name, to in _CLIENT.items() if name in params}
    module = as_module(params["module"])
    rows = _as_the_network_takes(X, params)
    update = client_update(params["module"], rows, y, **recipe)
    streams = RandomStreams(seed)
    if params.get("random_state", 0) is None:
        # no clone: the module may be a fitted classifier
        params["random_state"] = streams.seed("inversion")
    inversion = type(inversion)(**params)
    options = {}
    if _is_seedless(defense):
        options["random_state"] = streams.seed("defense")
    ratios, cosines = [], []
    for value in param_range:
        sent = defense(update, value, **options)
        with warnings.catch_warnings():
            # the inversion warns of noise, which is what is measured
            warnings.simplefilter("ignore", UserWarning)
            result = inversion.reconstruct(sent, labels=y, shape=X.shape[1:])
        ratios.append(psnr(X, result.X, data_range=data_range))
        cosines.append(_cosine(update, load_update(sent, module)))
    return ratios, cosines


def _as_the_network_takes(X, params):
    mean, scale = (np.asarray(params[name]) for name in ("mean", "scale"))
    if X.ndim == 4:  # one a channel
        mean, scale = (a[:, None, None] if a.ndim == 1 else a for a in (mean, scale))
    return (X - mean) / scale


def _is_seedless(defense):
    parameter = inspect.signature(defense).parameters.get("random_state")
    return parameter is not None and parameter.default is None


def _cosine(update, sent):
    a, b = (
        np.concatenate([v.detach().cpu().double().numpy().ravel() for v in u.values()])
        for u in (update, sent)
    )
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


class LeakageCurveDisplay:
    """Drawing of a leakage curve.

    Use :meth:`from_curve`.

    Parameters
    ----------
    param_range : list
    psnr : ndarray of shape (n_values, n_images)
        In dB.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
        The mean over the images; the band is their standard deviation.

    See Also
    --------
    leakage_curve : Computes it.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.model_selection import LeakageCurveDisplay
    >>> display = LeakageCurveDisplay([0.1, 1.0], np.array([[40.0, 30], [12, 8]]))
    >>> display.plot().line_.get_ydata()
    array([35., 10.])
    """

    def __init__(self, param_range, psnr):
        self.param_range = param_range
        self.psnr = psnr

    @classmethod
    def from_curve(cls, curve, *, ax=None, **kwargs):
        """Draw what :func:`leakage_curve` returned.

        Parameters
        ----------
        curve : Bunch
        ax : matplotlib Axes, default=None
        **kwargs
            Of matplotlib's ``Axes.plot``.

        Returns
        -------
        display : LeakageCurveDisplay
        """
        return cls(curve.param_range, curve.psnr).plot(ax=ax, **kwargs)

    def plot(self, *, ax=None, **kwargs):
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        **kwargs
            Of matplotlib's ``Axes.plot``.

        Returns
        -------
        self : object
        """
        plt = import_pyplot()
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        mean, std = self.psnr.mean(axis=1), self.psnr.std(axis=1)
        x = self.param_range
        (self.line_,) = ax.plot(x, mean, **{"marker": "o", **kwargs})
        ax.fill_between(
            x, mean - std, mean + std, color=self.line_.get_color(), alpha=0.2
        )
        ax.set(xlabel="strength of the defense", ylabel="PSNR in dB")
        self.ax_, self.figure_ = ax, ax.figure
        return self
