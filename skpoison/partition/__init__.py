"""Convex-lifted partitioning and matching on graphs, with a certificate.

A labelling problem with Potts, total variation or truncated linear interfaces is
lifted to a convex one on any weighted graph: pixels, super-pixels, neighbours of table
rows. Every solver returns a labelling and a lower bound that holds however early it
stops. Names load on first use; neither torch nor cvxpy is needed to import this.
"""

import importlib
import sys

from skpoison.utils._lazy import load_on_use

_MODULES = {
    "BoundDisplay": "_displays",
    "DisparityDisplay": "_displays",
    "LiftedFlow": "_flow",
    "LiftedLabelPropagation": "_propagation",
    "LiftedLabelRepair": "_repair",
    "LiftedPartition": "_partition",
    "LiftedProblem": "_cvxpy",
    "LiftedResult": "_result",
    "LiftedStereo": "_stereo",
    "PartitionGraph": "_graph",
    "SegmentationDisplay": "_displays",
    "SuperpixelGraph": "_superpixels",
    "build_problem": "_cvxpy",
    "solve_lifted": "_solve",
}

__all__ = sorted(_MODULES)
__getattr__, __dir__ = load_on_use(__name__, _MODULES)


if "cvxpy" in sys.modules:  # else its solve method is registered with build_problem
    importlib.import_module("skpoison.partition._cvxpy")
