"""The attack contract: what changes X is a transformer, what changes y a sampler."""

from skpoison.base._attack import BaseAttack
from skpoison.base._perturbation import PerturbationMixin
from skpoison.base._sampler import SamplerMixin

__all__ = ["BaseAttack", "PerturbationMixin", "SamplerMixin"]
