"""Probes of trained networks: minima, weight norms, tangent kernels and ranks.

Names load on first use.
"""

from skpoison.utils._lazy import load_on_use

_MODULES = {
    "LossSliceDisplay": "_loss_slice",
    "NTKTracker": "_tracker",
    "NTKWidthDisplay": "_kernel_display",
    "NormAccuracyDisplay": "_norm_display",
    "NormBias": "_norm_bias",
    "PoorInitialization": "_initialization",
    "SpectralProjection": "_projection",
    "SpectrumDisplay": "_spectrum_display",
    "TangentKernel": "_tangent_kernel",
    "apply_norm_bias_": "_norm_bias",
    "check_local_minimum": "_check",
    "construct_suboptimal_minimum": "_minima",
    "conv_singular_values": "_spectra",
    "effective_rank": "_spectra",
    "empirical_ntk": "_ntk",
    "feature_distances": "_kernel_change",
    "hessian_eigenvalues": "_hessian",
    "linear_minimum": "_linear_minimum",
    "ntk_change": "_kernel_change",
    "nuclear_norm_penalty": "_penalties",
    "operator_norm": "_spectra",
    "operator_norm_penalty": "_penalties",
    "poor_initialization": "_initialization",
    "rank_report": "_rank_report",
}

__all__ = sorted(_MODULES)
__getattr__, __dir__ = load_on_use(__name__, _MODULES)
