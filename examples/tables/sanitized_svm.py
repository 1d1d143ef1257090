"""Bound and attack behind a sanitizer, for a linear SVM on three pairs of classes.

    python examples/tables/sanitized_svm.py

epsilon     poisons, as a share of the clean rows
bound       no attack that passes the sanitizer causes a larger training loss
attack      the loss that one attack does cause
gap         between them, relative to the bound

Breast cancer: 400 rows, columns standardised and divided by the root of their number,
squared norm of the SVM at most 25. Digits 1 and 7, and 3 and 8: columns centred and
divided by 16, squared norm at most 4. Some seconds on one core.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import scale

from skpoison.defenses import SanitizedSVMBound

EPSILONS = (0.0, 0.01, 0.03, 0.1, 0.3)


def breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    rows = np.random.default_rng(1).permutation(len(X))[:400]
    return scale(X)[rows] / X.shape[1] ** 0.5, y[rows]


def digits(pair):
    X, y = load_digits(return_X_y=True)
    rows = np.isin(y, pair)
    return scale(X[rows], with_std=False) / 16, y[rows]


def main():
    tasks = {
        "breast cancer": (*breast_cancer(), 25.0),
        "digits 1, 7": (*digits((1, 7)), 4.0),
        "digits 3, 8": (*digits((3, 8)), 4.0),
    }
    print(f"{'data':15}{'rule':13}{'epsilon':>8}{'bound':>9}{'attack':>9}{'gap':>8}")
    for name, (X, y, rho_sq) in tasks.items():
        for rule in ("sphere+slab", "sphere"):
            fitted = SanitizedSVMBound(EPSILONS, rule=rule, rho_sq=rho_sq).fit(X, y)
            for epsilon, bound, loss in zip(
                EPSILONS, fitted.bounds_, fitted.attack_losses_, strict=True
            ):
                print(
                    f"{name:15}{rule:13}{epsilon:8.2f}{bound:9.4f}{loss:9.4f}"
                    f"{(bound - loss) / bound:8.2%}"
                )


if __name__ == "__main__":
    main()
