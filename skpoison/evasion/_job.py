"""One call of an attack: labels as columns of scores, arrays as tensors, batches."""

import numpy as np
import torch
from sklearn.utils import column_or_1d, gen_batches

from skpoison.evasion._affine import has_closed_form, worst_case
from skpoison.evasion._draws import RowDraws
from skpoison.evasion._losses import as_loss, check_scores
from skpoison.evasion._region import Region, hand_back
from skpoison.evasion._search import Findings, Victim, search

#: Values of X in a batch on the CPU, for each thread. What the first layers of a
#: network make of more does not fit the caches, which costs up to a third more time.
_VALUES = 2**17


def batches_of(X, batch_size, device):
    """Yield slices of at most `batch_size` rows, on the CPU perhaps of fewer."""
    if device.type == "cpu":
        at_once = _VALUES * torch.get_num_threads() // max(X[0].size, 1)
        batch_size = min(batch_size, max(at_once, 32))
    return gen_batches(len(X), batch_size)


class Job:
    """An attack on one model and one array, to be solved batch by batch.

    Parameters
    ----------
    model : View
        In use.
    X : ndarray of float64, float32 or uint8
    eps : ndarray
    box : (low, high)
    norm, loss : str
    plan : dict
        What :func:`search` needs beside.
    seed : int
        Of the draws.
    is_exact : bool
        Solve affine models in closed form, where there is one.
    """

    def __init__(
        self, model, X, y, *, eps, box, norm, loss, targets, plan, seed, is_exact
    ):
        self.X, self.norm, self.loss, self.plan, self.seed = X, norm, loss, plan, seed
        self.dtype, self.device = model.dtype, model.device
        self.eps, self.low, self.high = (
            torch.as_tensor(value, dtype=torch.float64, device=self.device)
            for value in (eps, *box)
        )
        self.scale = model.pixel_scale if X.dtype == np.uint8 else 1.0
        self.model = model
        n_classes = self._count_classes()
        classes = np.arange(n_classes) if model.classes is None else model.classes
        self.y = None if y is None else self._columns("y", y, classes)
        self.targets = None
        if targets is not None:
            if np.ndim(targets) == 0:
                targets = np.repeat(targets, len(X))
            self.targets = self._columns("target_labels", targets, classes)
        self.affine: tuple | None = None
        if is_exact and model.affine is not None:
            # the best whole pixels in a round ball are not the best point, rounded
            is_rounded = norm == "l2" and X.dtype == np.uint8
            targeted = targets is not None
            if not is_rounded and has_closed_form(norm, n_classes, targeted=targeted):
                W, b = model.affine()
                self.affine = W / self.scale, b

    @property
    def solver(self):
        """Tell how the rows are solved."""
        return "search" if self.affine is None else "exact"

    def scores(self, x):
        """Return the scores of rows in the unit of X."""
        return self.model.scores(x if self.scale == 1 else x / self.scale)

    def _count_classes(self):
        """Return the number of scores that the model gives."""
        row = torch.tensor(self.X[:1], device=self.device).to(self.dtype)
        try:
            scores = self.scores(row)
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"the model can't read rows of X, of shape {self.X.shape[1:]}: {error}"
            ) from error
        check_scores(scores, 1)
        return scores.shape[1]

    def _columns(self, name, labels, classes):
        """Return labels as positions in the scores."""
        labels = column_or_1d(labels)
        if len(labels) != len(self.X):
            raise ValueError(
                f"{name} must have one label for each of the {len(self.X)} rows of X, "
                f"got {len(labels)}"
            )
        position = {label: i for i, label in enumerate(np.asarray(classes).tolist())}
        labels = labels.tolist()
        unseen = sorted({str(label) for label in labels if label not in position})
        if unseen:
            raise ValueError(
                f"{name} has labels that the model does not know: "
                f"{', '.join(unseen[:10])}; its classes are "
                f"{', '.join(map(str, list(position)[:10]))}"
            )
        columns = [position[label] for label in labels]
        return torch.tensor(columns, dtype=torch.int64, device=self.device)

    def solve(self, rows):
        """Attack the rows of a slice.

        Returns
        -------
        X_adv : ndarray
            In the type of X.
        result : SearchResult
            Of these very rows.
        """
        X = self.X[rows]
        given = torch.tensor(X, device=self.device)
        region = Region(
            given, self.eps, self.low, self.high, self.norm, dtype=self.dtype
        )
        y = self.scores(region.x).argmax(1) if self.y is None else self.y[rows]
        targets = None if self.targets is None else self.targets[rows]
        victim = Victim(self.scores, y, self.loss, targets)
        if self.affine is not None:
            W, b = self.affine
            result = self._solve_affine(W, b, victim, region)
        else:
            result = search(
                self.scores,
                region.x,
                y,
                region,
                draws=self._draws(X),
                loss=self.loss,
                targets=targets,
                **self.plan,
            )
        out = hand_back(result.x_adv, given, region)
        _recheck(result, out, victim)
        return out.cpu().numpy(), result

    def _draws(self, X):
        if self.plan["random_start"] or self.plan["rule"].needs_draws:
            return RowDraws.of_rows(self.seed, X, self.device)
        return None

    def _solve_affine(self, W, b, victim, region):
        found = Findings(region)
        found.update(None, region.x, *victim.read(region.x))
        rows = (~found.is_broken).nonzero()[:, 0]
        if not self.plan["early_stop"]:
            rows = torch.arange(len(region.x), device=self.device)
        if len(rows):
            victim, region = victim.take(rows), region.take(rows)
            is_box = region.floor is not None
            target = None if victim.targets is None else victim.targets.cpu().numpy()
            x = worst_case(
                W,
                b,
                region.x.cpu().numpy(),
                victim.y.cpu().numpy(),
                # the limits of a row hold its cube already
                np.inf if self.norm == "linf" else float(region.eps),
                region.floor.cpu().numpy() if is_box else -np.inf,
                region.ceiling.cpu().numpy() if is_box else np.inf,
                self.norm,
                target,
            )
            x = torch.as_tensor(x, dtype=self.dtype, device=self.device)
            x = region.seen(region.project(x))
            found.update(rows, x, *victim.read(x))
        return found.result(self.loss, targeted=victim.targets is not None)


def _recheck(result, out, victim):
    """Judge rows again that are handed back otherwise than the search saw them."""
    seen = out.to(result.x_adv.dtype)
    changed = (seen != result.x_adv).flatten(1).any(1).nonzero()[:, 0]
    if len(changed):
        victim = victim.take(changed)
        value, is_broken = victim.read(seen[changed])
        result.is_broken[changed] = is_broken
        result.loss[changed] = as_loss(value, victim.loss, victim.targets is not None)
