"""Gradients of trained networks: the goals that poisons are to imitate, and norms."""

import torch
from torch.nn import functional as F

from skpoison.attacks._craft._matching import flat_norm, target_loss


def goal_gradient(members, index, rows, labels, loss, *, batch_size=512):
    """Return the gradient that poisons are to imitate, of one member.

    Parameters
    ----------
    members : Members
    index : int
    rows : tensor of shape (n, *row_shape)
    labels : tensor of int of shape (n,)
    loss : str
        See :func:`target_loss`; the mean over rows is differentiated.
    batch_size : int

    Returns
    -------
    goal : dict of str to tensor
    """
    leaves = members.leaves([index])
    others = {n: b[[index]] for n, b in members.others.items()}
    total = [torch.zeros_like(p) for p in leaves.values()]
    with members.randomness(0):
        for cut in range(0, len(rows), batch_size):
            logits = members.logits(leaves, others, rows[None, cut : cut + batch_size])
            value = target_loss(loss, logits[0], labels[cut : cut + batch_size]).sum()
            part = torch.autograd.grad(value / len(rows), list(leaves.values()))
            for t, p in zip(total, part, strict=True):
                t.add_(p)
    return dict(zip(leaves, (t[0] for t in total), strict=True))


def stacked_goals(members, problems, loss, *, batch_size=512):
    """Return the goals of several problems on all members, see :func:`goal_gradient`.

    Parameters
    ----------
    members : Members
    problems : list of list of (rows, labels)
        For each problem its goals, as many in each.
    loss : str
    batch_size : int

    Returns
    -------
    goals : dict of str to tensor of shape (n_members, n_problems, n_goals, ...)
    """
    each = [
        goal_gradient(members, e, rows, labels, loss, batch_size=batch_size)
        for e in range(len(members))
        for goals in problems
        for rows, labels in goals
    ]
    shape = len(members), len(problems), len(problems[0])
    return {n: torch.stack([g[n] for g in each]).unflatten(0, shape) for n in each[0]}


def gradient_norms(groups, rows, labels, batch_size=128):
    """Return the length of each row's training gradient, the mean over members."""
    total, n_members = torch.zeros(len(rows), device=rows.device), 0
    for members in groups:
        for e in range(len(members)):
            params, others = members.chosen([e])
            params = {n: p[0] for n, p in params.items()}
            others = {n: b[0] for n, b in others.items()}

            def loss(params, row, label, members=members, others=others):
                logits = members._forward(params, others, row[None])
                return F.cross_entropy(logits, label[None])

            each = torch.func.vmap(
                torch.func.grad(loss), in_dims=(None, 0, 0), randomness="different"
            )
            parts = rows.split(batch_size), labels.split(batch_size)
            with members.randomness(0):
                norms = [
                    flat_norm(each(params, r, c)) for r, c in zip(*parts, strict=True)
                ]
            total += torch.cat(norms).detach()
            n_members += 1
    return (total / n_members).cpu().numpy()
