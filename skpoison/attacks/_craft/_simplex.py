"""Least squares over the simplex: the coefficients of points in a convex hull."""

import torch


def project_simplex(v):
    """Return the points of the simplex that are nearest to those in `v`.

    Parameters
    ----------
    v : tensor of shape (..., n)
    """
    ordered = v.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    count = torch.arange(1, v.shape[-1] + 1, device=v.device, dtype=v.dtype)
    n_kept = (ordered - excess / count > 0).sum(-1, keepdim=True).clamp_min(1)
    return (v - excess.gather(-1, n_kept - 1) / n_kept).clamp_min(0)


def simplex_least_squares(gram, inner, start, tol=1e-6, max_iter=2000):
    """Minimise ``1/2 c' G c - b' c`` over the simplex, a batch of problems at once.

    Parameters
    ----------
    gram : tensor of shape (k, n, n)
        Inner products of each problem's columns.
    inner : tensor of shape (k, n)
        Their inner products with what is approximated.
    start : tensor of shape (k, n)
    tol : float, default=1e-6
        Relative change at which all problems are done.
    max_iter : int, default=2000

    Returns
    -------
    c : tensor of shape (k, n)

    Notes
    -----
    Projected gradient with step ``1 / ||G||_2`` and momentum, which is dropped where
    it points uphill.
    """
    rate = 1 / torch.linalg.matrix_norm(gram, 2).clamp_min(1e-30)[:, None]
    c, ahead, t = start, start, torch.ones(len(gram), 1).to(gram)
    for _ in range(max_iter):
        slope = torch.einsum("knm,km->kn", gram, ahead) - inner
        new = project_simplex(ahead - rate * slope)
        change = new - c
        uphill = ((ahead - new) * change).sum(1, keepdim=True) > 0
        t = torch.where(uphill, 1.0, t)
        larger = (1 + (1 + 4 * t.square()).sqrt()) / 2
        ahead = new + (t - 1) / larger * change
        c, t = new, larger
        if (change.norm(dim=1) <= tol * c.norm(dim=1)).all():
            break
    return c
