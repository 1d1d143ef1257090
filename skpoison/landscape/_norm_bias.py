"""Norm bias: a pull of the weights towards a norm that isn't zero."""

import torch
from skorch.callbacks import Callback

from skpoison.utils._validation import check_number


def apply_norm_bias_(parameters, target, coef=5e-4, power=1, *, max_factor=None):
    """Add the gradient of the norm bias to the gradients of parameters, in place.

    For training loops of one's own, between ``loss.backward()`` and
    ``optimizer.step()``; :class:`NormBias` does it in a classifier.

    Parameters
    ----------
    parameters : iterable of torch.Tensor
        Weights. Those that don't require a gradient are left out.
    target : float
        Squared norm mu^2 that the weights are pulled to; 0 is weight decay.
    coef : float, default=5e-4
        Strength lambda; that of the paper's [1]_ weight decay.
    power : {1, 2}, default=1
        1 pulls with equal strength at every distance, as in the paper; 2 in proportion
        to the distance, as an option of its code does.
    max_factor : float, default=None
        Largest size of the factor of the weights in the added gradient; None is no
        limit. With ``power=2`` the factor grows with the size of the network.

    Returns
    -------
    squared_norm : torch.Tensor
        Of all the parameters, before the step, on their device.

    Raises
    ------
    TypeError, ValueError
        A number is out of range, or no parameter requires a gradient.

    Notes
    -----
    With theta all the parameters together, the norm bias and its gradient are ::

        power 1:  R = lambda / 2 | ||theta||^2 - mu^2 |
                  dR / dtheta = lambda sign(||theta||^2 - mu^2) theta
        power 2:  R = lambda / 2 (||theta||^2 - mu^2)^2
                  dR / dtheta = 2 lambda (||theta||^2 - mu^2) theta

    where the sign of 0 is 0. A parameter without a gradient counts in the norm and gets
    none, as in the weight decay of torch's optimizers.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> import torch
    >>> from skpoison.landscape import apply_norm_bias_
    >>> weights = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> weights.sum().backward()
    >>> apply_norm_bias_([weights], target=100.0, coef=0.5).item()
    25.0
    >>> weights.grad
    tensor([-0.5000, -1.0000])
    """
    _check(target, coef, power, max_factor)
    if isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    parameters = list(parameters)
    for parameter in parameters:
        if not isinstance(parameter, torch.Tensor):
            raise TypeError(
                "parameters must hold tensors, such as module.parameters(), got "
                f"{type(parameter).__name__}"
            )
    trainable = [p for p in parameters if p.requires_grad]
    if not trainable:
        raise ValueError("parameters has none that requires a gradient")
    return _pull(trainable, target, coef, power, max_factor)


class NormBias(Callback):
    """Callback that pulls the weights of a network towards a given norm.

    Weight decay pulls them to zero. If small norms were what makes networks
    generalise, a pull to a larger norm would do harm; in the experiments of [1]_ it
    does not.

    Parameters
    ----------
    target : float
        Squared norm mu^2 that the weights are pulled to; 0 is weight decay. In the
        paper it exceeds what weight decay ends with; see Examples for a target of 1.5
        times that.
    coef : float, default=5e-4
        Strength lambda; that of the paper's weight decay.
    power : {1, 2}, default=1
        1 pulls with equal strength at every distance, as in the paper; 2 in proportion
        to the distance, as an option of its code does.
    max_factor : float, default=None
        Largest size of the factor of the weights in the added gradient, None for no
        limit; see :func:`apply_norm_bias_`.
    select : "all" or callable, default="all"
        Which trainable parameters of the module make up the vector theta: all, biases
        and scales of batch normalisation included, as in the paper, or those for which
        ``select(name, parameter)`` is true.

    Raises
    ------
    TypeError, ValueError
        In `fit`: a number is out of range, `select` selects nothing, or the optimizer
        has a weight decay of its own.

    See Also
    --------
    apply_norm_bias_ : The same in a training loop of one's own.
    NormAccuracyDisplay : Draws accuracy against norm.

    Notes
    -----
    The gradient of the norm bias, see :func:`apply_norm_bias_`, is added after the
    backward pass of each batch; the losses in the history don't hold it. The
    history's ``norm_sq`` is the squared norm after each epoch. Adam scales the added
    gradient with the rest, as it does its own ``weight_decay``.

    The optimizer must not decay weights as well. ``optimizer="sgd"`` of
    :class:`~skpoison.models.TorchClassifier` does by default, and takes
    ``optimizer__weight_decay=0``.

    With learning rate eta, divided by 1 - m where the optimizer has momentum m, a step
    of power 1 changes the squared norm near the target by ``2 eta lambda mu^2``, which
    is the precision that it ends with. It stays away from the target where the slope of
    the loss along theta exceeds lambda mu. A step of power 2 multiplies a small
    distance by ``1 - 4 eta lambda mu^2``, which has to be above -1, and where it ends
    the loss and the bias balance.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.landscape import NormBias
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(n_class=5, return_X_y=True)
    >>> clf = TorchClassifier(
    ...     optimizer="sgd", optimizer__weight_decay=0, lr=0.05, max_epochs=8,
    ...     callbacks=[("bias", NormBias(target=0, coef=0.01))],  # weight decay
    ...     device="cpu", random_state=0,
    ... )
    >>> decayed = clf.fit(X / 16, y).history_[-1]["norm_sq"]
    >>> clf = clf.set_params(callbacks__bias__target=1.5 * decayed).fit(X / 16, y)
    >>> abs(clf.history_[-1]["norm_sq"] / decayed - 1.5) < 0.015
    True
    """

    def __init__(self, target, coef=5e-4, power=1, max_factor=None, select="all"):
        self.target = target
        self.coef = coef
        self.power = power
        self.max_factor = max_factor
        self.select = select

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        _check(self.target, self.coef, self.power, self.max_factor)
        is_all = isinstance(self.select, str) and self.select == "all"
        if not (is_all or callable(self.select)):
            raise TypeError(
                "select must be 'all' or a callable (name, parameter) -> bool, got "
                f"{self.select!r}"
            )
        if not self._selected(net):
            raise ValueError("select leaves no trainable parameter of the module")
        decays = [group.get("weight_decay", 0) for group in net.optimizer_.param_groups]
        if any(decays):
            raise ValueError(
                "NormBias takes the place of weight decay, but the optimizer has "
                f"weight_decay={max(decays)}: set optimizer__weight_decay=0"
            )

    def on_epoch_begin(self, net, **kwargs):
        # anew in each epoch: callbacks may freeze and release layers
        self.parameters_ = self._selected(net)

    def on_grad_computed(self, net, named_parameters, training=None, **kwargs):
        _pull(self.parameters_, self.target, self.coef, self.power, self.max_factor)

    def on_epoch_end(self, net, **kwargs):
        net.history.record("norm_sq", float(squared_norm(self.parameters_)))
        self.parameters_ = None  # a pickle of the classifier holds weights once

    def _selected(self, net):
        return [
            parameter
            for name, parameter in net.module_.named_parameters()
            if parameter.requires_grad
            and (self.select == "all" or self.select(name, parameter))
        ]


def _check(target, coef, power, max_factor):
    check_number("target", target, low=0)
    check_number("coef", coef, low=0)
    check_number("power", power, integer=True)
    if power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power!r}")
    if max_factor is not None:
        check_number("max_factor", max_factor, low=0, strict=True)


@torch.no_grad()
def squared_norm(parameters):
    """Return the squared Euclidean norm of all parameters together, as a tensor."""
    if not parameters:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(parameters)).square().sum()


@torch.no_grad()
def _pull(parameters, target, coef, power, max_factor):
    """Add the gradient of the norm bias and return the squared norm."""
    norm = squared_norm(parameters)
    distance = norm - target
    factor = coef * distance.sign() if power == 1 else 2 * coef * distance
    if max_factor is not None:
        factor = factor.clamp(-max_factor, max_factor)
    pulled = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in pulled]
    if not pulled:
        return norm
    if factor.device.type == "cpu":  # one pass over the weights
        torch._foreach_add_(gradients, pulled, alpha=factor.item())
    else:  # the number stays on the device: reading it would wait for all kernels
        torch._foreach_add_(gradients, torch._foreach_mul(pulled, factor))
    return norm
