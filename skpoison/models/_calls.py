"""What goes through the layers of a network in one forward pass."""

from collections import Counter
from contextlib import contextmanager
from typing import Any

from torch.autograd.graph import get_gradient_edge


class Call:
    """What entered a layer, and where the slope of what left it will arrive.

    Attributes
    ----------
    x, output : torch.Tensor
    edge : torch.autograd.graph.GradientEdge or None
        None where nothing has a gradient.
    """

    def __init__(self, x, output):
        self.x, self.output = x.detach(), output
        self.versions = x._version, output._version
        # the edge, not the tensor, which an activation may change in place
        self.edge = get_gradient_edge(output) if output.requires_grad else None

    def is_a_batch_of(self, n_samples):
        """Tell whether a row went in and out for each sample."""
        return len(self.x) == len(self.output) == n_samples

    def is_changed(self):
        """Tell whether the input, or an output that is a view, was changed in place."""
        x, output = self.versions
        return self.x._version != x or (
            # its later uses go around the edge
            self.output._is_view() and self.output._version != output
        )


@contextmanager
def recorded(layers):
    """Record the calls of layers: {layer: [Call]}."""
    calls: dict[Any, list] = {layer: [] for layer in layers}

    def record(layer, args, kwargs, output):
        calls[layer].append(Call([*args, *kwargs.values()][0], output))

    hooks = [layer.register_forward_hook(record, with_kwargs=True) for layer in calls]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def count_uses(output):
    """Return how often the graph of a tensor uses each weight: {weight: number}."""
    uses: Counter = Counter()
    stack = [] if output.grad_fn is None else [output.grad_fn]
    seen = set(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if hasattr(node, "variable"):
                uses[node.variable] += 1
            elif node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return uses
