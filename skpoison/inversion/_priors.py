"""What is known of the inputs before any gradient is seen: one object a prior.

A prior has a ``weight`` and a method ``bind(module)``, which returns the names of the
layers whose inputs it wants to see and a function ``value(z, inputs)`` of candidates: z
of shape (n_candidates, n_samples, *shape) in the unit that the network takes, and one
such tensor of inputs a layer. It returns one number a candidate, without the weight.
"""

import torch
from sklearn.base import BaseEstimator
from torch.nn.modules.batchnorm import _BatchNorm


class _Prior(BaseEstimator):
    """Looks at the candidates alone."""

    def bind(self, module):
        """Return what the value is computed from, and the function that does it.

        Parameters
        ----------
        module : torch.nn.Module

        Returns
        -------
        names : list of str
            Layers whose inputs are wanted.
        value : callable
        """
        return [], self.value


class TotalVariation(_Prior):
    """Neighbouring pixels are alike.

    Parameters
    ----------
    weight : float, default=1e-2
        Factor in the objective; the published one for an untrained LeNet [1]_.

    Notes
    -----
    Anisotropic, as means, in the normalised unit that the network takes::

        TV(z) = mean |z[..., 1:, :] - z[..., :-1, :]|
              + mean |z[..., :, 1:] - z[..., :, :-1]|

    Other implementations sum, average both directions or count the border, which
    changes the weight by factors from 2 to the number of pixels.

    References
    ----------
    .. [1] J. Geiping, H. Bauermeister, H. Dröge and M. Moeller. Inverting gradients:
       how easy is it to break privacy in federated learning? NeurIPS 2020,
       arXiv:2003.14053.

    Examples
    --------
    >>> import torch
    >>> from skpoison.inversion import TotalVariation
    >>> edge = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    >>> TotalVariation().value(edge[None, None], [])
    tensor([1.])
    """

    def __init__(self, weight=1e-2):
        self.weight = weight

    def value(self, z, inputs):
        """Return the total variation of each candidate.

        Parameters
        ----------
        z : Tensor of shape (n_candidates, n_samples, ..., height, width)
        inputs : list of Tensor
            Not used.

        Returns
        -------
        value : Tensor of shape (n_candidates,)
        """
        down = (z[..., 1:, :] - z[..., :-1, :]).abs().flatten(1).mean(1)
        right = (z[..., :, 1:] - z[..., :, :-1]).abs().flatten(1).mean(1)
        return down + right


class SquaredNorm(_Prior):
    """Values are small: the mean of their squares, in the unit that the network takes.

    Parameters
    ----------
    weight : float, default=1e-6
        Factor in the objective [1]_.

    References
    ----------
    .. [1] H. Yin, A. Mallya, A. Vahdat, J. M. Alvarez, J. Kautz and P. Molchanov. See
       through gradients: image batch recovery via GradInversion. CVPR 2021,
       arXiv:2104.07586.

    Examples
    --------
    >>> import torch
    >>> from skpoison.inversion import SquaredNorm
    >>> SquaredNorm().value(torch.full((2, 1, 3), 2.0), [])
    tensor([4., 4.])
    """

    def __init__(self, weight=1e-6):
        self.weight = weight

    def value(self, z, inputs):
        """Return the mean square of each candidate.

        Parameters
        ----------
        z : Tensor of shape (n_candidates, n_samples, ...)
        inputs : list of Tensor
            Not used.

        Returns
        -------
        value : Tensor of shape (n_candidates,)
        """
        return (z**2).flatten(1).mean(1)


class BatchNormStatistics(_Prior):
    """The batch has the means and variances that batch normalisation remembers.

    For networks that were trained with batch normalisation [1]_; others have no layer
    that it could look at, which raises.

    Parameters
    ----------
    weight : float, default=1e-3
        Factor in the objective. Chosen here: at a random start the value is of order
        one a layer, and the mismatch of gradients, which is at most 2, should lead.

    Notes
    -----
    Over the layers l, with the mean and variance of the batch in each channel and the
    running ones, marked r::

        sum_l ( mean (mean_l - mean_l^r)^2 / var_l^r
              + mean (var_l - var_l^r)^2 / (var_l^r)^2 )

    Divided by the running variance, so that all layers weigh alike. With several local
    steps the batch is that of the first step.

    References
    ----------
    .. [1] H. Yin, A. Mallya, A. Vahdat, J. M. Alvarez, J. Kautz and P. Molchanov. See
       through gradients: image batch recovery via GradInversion. CVPR 2021,
       arXiv:2104.07586.

    Examples
    --------
    >>> from skpoison.inversion import BatchNormStatistics
    >>> from skpoison.models import ResNet20
    >>> names, value = BatchNormStatistics().bind(ResNet20((3, 32, 32), 10))
    >>> len(names)
    19
    """

    def __init__(self, weight=1e-3):
        self.weight = weight

    def bind(self, module):
        """Return the layers of batch normalisation and the function of their inputs.

        Parameters
        ----------
        module : torch.nn.Module

        Returns
        -------
        names : list of str
        value : callable

        Raises
        ------
        ValueError
            There is no such layer.
        """
        found = {
            name: (part.running_mean.clone(), part.running_var.clamp_min(1e-8))
            for name, part in module.named_modules()
            if isinstance(part, _BatchNorm)
            and part.running_mean is not None
            and part.running_var is not None
        }
        if not found:
            raise ValueError(
                f"BatchNormStatistics: {type(module).__name__} has no batch "
                "normalisation with running statistics"
            )

        def value(z, inputs):
            total = torch.zeros(len(z), dtype=z.dtype, device=z.device)
            for x, (mean, var) in zip(inputs, found.values(), strict=True):
                x = x.transpose(1, 2).flatten(2)
                mean, var = mean.to(x), var.to(x)
                off = (x.mean(2) - mean) ** 2 / var
                spread = (x.var(2, correction=0) / var - 1) ** 2
                total = total + off.mean(1) + spread.mean(1)
            return total

        return list(found), value
