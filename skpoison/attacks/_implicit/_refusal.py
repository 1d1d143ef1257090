"""The complaint about a setting that rules a derivative out."""

from skpoison.attacks._implicit._objectives import NotDifferentiableError


def refuse(estimator, parameter, why=""):
    """Raise an error that names a parameter of an estimator and its value."""
    value = getattr(estimator, parameter, None)
    raise NotDifferentiableError(
        f"{type(estimator).__name__}({parameter}={value!r}) has no derivative known "
        f"here{why and ' '}{why}"
    )
