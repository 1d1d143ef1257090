"""Which scheme solves which energy."""

from skpoison.partition._pdhg._lifted import (
    PairFlowScheme,
    ProductScheme,
    TruncatedScheme,
)
from skpoison.partition._pdhg._ordered import BinaryScheme, OrderedScheme
from skpoison.partition._pdhg._schemes import PottsScheme

# found by experiment: the balance of primal and dual steps
_KAPPA = {
    BinaryScheme: 0.5,
    OrderedScheme: 0.5,
    PottsScheme: 0.5,
    ProductScheme: 1.0,
    TruncatedScheme: 0.5,
    PairFlowScheme: 2.0,
}
_ISOTROPIC_POTTS = 2.0


def make_scheme(xp, energy, *, kappa, rho):
    """Return the scheme of an energy.

    Parameters
    ----------
    xp : NumpyArrays or TorchArrays
    energy : LiftedEnergy
    kappa : float or None
        None is the scheme's own.
    rho : float

    Returns
    -------
    scheme : Scheme
    """
    kind = _scheme_of(energy)
    if kappa is None:
        isotropic = energy.graph.isotropic and kind is PottsScheme
        kappa = _ISOTROPIC_POTTS if isotropic else _KAPPA[kind]
    return kind(xp, energy, kappa=kappa, rho=rho)


def _scheme_of(energy):
    name = energy.pairwise.name
    if name in ("sublabel", "separable_tv"):
        return ProductScheme
    if energy.n_labels == 2:
        return BinaryScheme
    if name == "tv":
        return OrderedScheme
    if name == "truncated":
        return TruncatedScheme
    if energy.graph.isotropic and energy.relaxation == "ccp":
        return PairFlowScheme
    return PottsScheme
