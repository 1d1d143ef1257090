"""Labellings drawn from a relaxed solution."""

import numpy as np


def random_roundings(scheme, n_roundings, generator):
    """Yield labellings: by random thresholds of levels, or of labels in random order.

    The latter as in Kleinberg and Tardos (2002): one threshold a step, which all
    unassigned nodes above it answer to.
    """
    name = scheme.energy.pairwise.name
    assignment = scheme.assignment(scheme.U)
    if name == "sublabel" or scheme.energy.n_labels < 3:
        return
    for _ in range(n_roundings):
        if name == "tv":
            levels = scheme.energy.pairwise.lift(assignment)
            yield (levels > generator.uniform()).sum(axis=1)
        else:
            yield _threshold_labels(assignment, generator)


def _threshold_labels(assignment, generator, n_rounds=20):
    labels = assignment.argmax(axis=1)
    largest = assignment.max(axis=0)
    left = np.arange(len(assignment))
    for _ in range(n_rounds):
        for label in generator.permutation(assignment.shape[1]):
            taken = assignment[left, label] > generator.uniform(0, largest[label])
            labels[left[taken]] = label
            left = left[~taken]
        if not len(left):
            break
    return labels
