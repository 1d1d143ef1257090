"""Spheres and slabs around the centres of classes, and the worst rows inside."""

import numpy as np

_LARGEST = 1e100  # of a feature: products of squares stay finite


def check_magnitudes(X, name):
    """Raise unless X, validated, has numbers whose squares stay finite."""
    largest = max(X.max(), -X.min())
    if largest > _LARGEST:
        raise ValueError(
            f"{name} takes features up to {_LARGEST:g}, got {largest:g} in X: scale "
            "its columns"
        )


def class_centers(X, y, n_classes, center="mean"):
    """Return the mean, or the median of each column, of the rows of each class."""
    middle = np.mean if center == "mean" else np.median
    return np.stack([middle(X[y == k], axis=0) for k in range(n_classes)])


def sphere_distances(X, y, centers):
    """Return each row's distance from the centre of its class."""
    return np.linalg.norm(X - centers[y], axis=1)


def slab_distances(X, y, centers):
    """Return how far each row is from its centre in the direction of another's.

    The largest product with a difference of centres, over the other classes.
    """
    found = np.zeros(len(X))
    for k, center in enumerate(centers):
        rows = np.flatnonzero(y == k)
        directions = center - np.delete(centers, k, axis=0)
        found[rows] = abs((X[rows] - center) @ directions.T).max(axis=1)
    return found


def class_percentiles(values, y, n_classes, percentile):
    """Return the percentile of the values of each class."""
    return np.array(
        [np.percentile(values[y == k], percentile) for k in range(n_classes)]
    )


def check_oracle_stats(stats, n_classes, n_features):
    """Return (centers, radii, widths) as arrays, the last two or None, or raise."""
    try:
        centers, radii, widths = stats
    except (TypeError, ValueError):
        raise ValueError(
            "oracle_stats must be (centers, radii, widths), of which the last two may "
            f"be None, got {stats!r}"
        ) from None
    shapes = {"centers": (n_classes, n_features), "radii": (n_classes,)}
    shapes["widths"] = shapes["radii"]
    arrays: list[np.ndarray | None] = []
    for (name, shape), values in zip(
        shapes.items(), (centers, radii, widths), strict=True
    ):
        if values is None and name != "centers":
            arrays.append(None)
            continue
        try:
            array = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f"the {name} of oracle_stats must be numbers, got {values!r}"
            ) from None
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(
                f"the {name} of oracle_stats must be finite and have shape {shape}, "
                f"got shape {array.shape}"
            )
        if name != "centers" and (array < 0).any():
            raise ValueError(f"the {name} of oracle_stats must be >= 0, got {values!r}")
        arrays.append(array)
    return tuple(arrays)


class FeasibleSet:
    """The rows that a sphere, and a slab, around the centre of each class let pass.

    Parameters
    ----------
    centers : ndarray of shape (2, n_features)
    radii : ndarray of shape (2,)
    widths : ndarray of shape (2,) or None
        Of the slabs; None is spheres alone.
    """

    def __init__(self, centers, radii, widths=None):
        self.centers, self.radii = centers, radii
        self.direction = np.zeros(centers.shape[1])
        self.reach = radii
        gap = centers[1] - centers[0]
        length = np.linalg.norm(gap)
        if widths is not None and length > 0:  # equal centres span no slab
            self.direction = gap / length
            self.reach = np.minimum(radii, widths / length)

    def farthest(self, U, label):
        """Return, for each row u of U, the point of the class that maximises u.x."""
        center, radius, reach = (
            values[label] for values in (self.centers, self.radii, self.reach)
        )
        lengths = np.linalg.norm(U, axis=1)
        along = U @ self.direction
        across = U - along[:, None] * self.direction
        norms = np.linalg.norm(across, axis=1)
        # what is left of a vector along the slab's direction is rounding error
        turned = norms > 1e-12 * lengths
        across[turned] /= norms[turned, None]
        across[~turned] = 0.0
        steps = along * radius / np.where(lengths > 0, lengths, 1.0)
        steps = np.clip(steps, -reach, reach)
        rests = np.sqrt(np.maximum(radius**2 - steps**2, 0.0))
        return center + steps[:, None] * self.direction + rests[:, None] * across

    def worst(self, theta):
        """Return the points with the largest hinge loss under linear models.

        Parameters
        ----------
        theta : ndarray of shape (n_models, n_features + 1)
            Weights, and the intercept last.

        Returns
        -------
        z : ndarray of shape (n_models, n_features + 1)
            ``y * (x, 1)`` of the points, y = 1 for the second class and -1 otherwise.
        losses : ndarray of shape (n_models,)
        """
        found = []
        for label, sign in enumerate((-1.0, 1.0)):
            points = self.farthest(-sign * theta[:, :-1], label)
            found.append(sign * np.column_stack([points, np.ones(len(points))]))
        losses = 1.0 - np.einsum("lmp,mp->lm", np.stack(found), theta)
        z = np.where((losses[1] > losses[0])[:, None], found[1], found[0])
        return z, np.maximum(losses.max(axis=0), 0.0)
