"""Checks that every attack must pass, for our attacks and for yours.

Beside scikit-learn's own ``parametrize_with_checks``, which covers what any
estimator must do, these cover what an attack on training data must do. Attacks on
regressors, whose ``_is_regression`` returns True, are given numbers for y.
"""

from skpoison.utils._attack_checks import checks_of

__all__ = ["check_attack", "parametrize_with_attack_checks"]


def parametrize_with_attack_checks(attacks):
    """Pytest decorator: run every check on every attack.

    Parameters
    ----------
    attacks : list of attack
        Instances with fast parameters, of either kind.

    Returns
    -------
    decorator : pytest.mark.parametrize
        Of a test with the arguments ``attack`` and ``check``.

    See Also
    --------
    check_attack : The same without pytest.

    Examples
    --------
    >>> from skpoison.attacks import LabelFlipAttack
    >>> from skpoison.utils.estimator_checks import parametrize_with_attack_checks
    >>> @parametrize_with_attack_checks([LabelFlipAttack()])
    ... def test_attack(attack, check):
    ...     check(attack)
    """
    import pytest

    cases = [
        pytest.param(attack, check, id=f"{attack!r}-{check.__name__}")
        for attack in attacks
        for check in checks_of(attack)
    ]
    return pytest.mark.parametrize("attack, check", cases)


def check_attack(attack):
    """Run every check on one attack and raise on the first that fails.

    Parameters
    ----------
    attack : attack
        Of either kind, with fast parameters.

    Examples
    --------
    >>> from skpoison.attacks import LabelFlipAttack
    >>> from skpoison.utils.estimator_checks import check_attack
    >>> check_attack(LabelFlipAttack())
    """
    for check in checks_of(attack):
        check(attack)
