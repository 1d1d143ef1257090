"""Privacy accounting for training on mixtures or noisy gradients.

Needs numpy and scipy only.
"""

from skpoison.privacy._audit import audit_epsilon
from skpoison.privacy._calibration import noise_for_epsilon
from skpoison.privacy._dpsgd import dpsgd_epsilon
from skpoison.privacy._mixing import mix_epsilon
from skpoison.privacy._poisoning import poisoning_success_bound
from skpoison.privacy._warnings import PrivacyWarning

__all__ = [
    "PrivacyWarning",
    "audit_epsilon",
    "dpsgd_epsilon",
    "mix_epsilon",
    "noise_for_epsilon",
    "poisoning_success_bound",
]
