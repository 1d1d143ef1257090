"""What the bills of all private estimators share."""

#: An epsilon above it rules out next to nothing.
VACUOUS_EPSILON = 50.0


def default_delta(n):
    """Return the delta of a bill over n rows where none is asked for."""
    return min(1e-5, 1 / (10 * n))
