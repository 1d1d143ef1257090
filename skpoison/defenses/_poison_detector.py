"""The detector that the library recommends: decide by class first, then by row."""

import warnings

import numpy as np
from scipy.sparse import issparse
from scipy.special import expit
from sklearn.decomposition import PCA

from skpoison.defenses import _poison_evidence as evidence
from skpoison.defenses._detectors import LabelIssueDetector
from skpoison.defenses._feature_detectors import FeatureDetector
from skpoison.utils import RandomStreams
from skpoison.utils._validation import check_number

N_COMPONENTS = 64  # of wider tables, for the models that look for label issues


class PoisonDetector(FeatureDetector):
    """Find poisoned rows: decide which classes are poisoned, then flag their rows.

    Two kinds of evidence are weighed class by class. A *pattern* is a group of rows
    that a linear rule separates, with a gap, from all other rows of its class: a
    backdoor's trigger does that. *Label issues* are rows that models which never saw
    them take for another class, with confidence. Where neither is significant nothing
    is flagged, so that clean data usually stay whole.

    Parameters
    ----------
    estimator : classifier, default=None
        Network whose features are one of the places where patterns are looked for. A
        fitted one, or one in a ``FrozenEstimator``, is used as it is; otherwise a
        clone is trained on the data. (`clone`, and so a search, forgets a fit: use
        ``FrozenEstimator`` there.) None trains
        :class:`~skpoison.models.TorchClassifier` with its defaults.
    features : str, callable or array of shape (n_samples, n_values), default="auto"
        "auto" is what enters the network's last linear layer, another str the name of
        a layer, a callable maps X to features. "input" looks at X alone and trains no
        network, which is much faster and finds most triggers that are the same on
        every row.
    max_false_positive_rate : float, default=0.03
        Flag no more rows than keep the expected number of clean rows flagged, the sum
        of ``1 - scores_`` over them, at or below this share of all rows.
    significance : float, default=0.01
        Level of the tests, divided by the number of classes for those by class.
    cv : int, default=5
        Folds of the models that look for label issues; a class with fewer members is
        not judged by them.
    n_jobs : int, default=None
        Models trained at the same time, as in joblib; the result is the same.
    random_state : None, int, RandomState or Generator, default=None
        Draws the folds, and seeds `estimator` where it has no seed of its own.

    Attributes
    ----------
    scores_ : ndarray of shape (n_samples,), dtype float64
        In [0, 1]; roughly the probability that the row is poisoned.
    is_clean_ : ndarray of shape (n_samples,), dtype bool
        False for the rows to distrust.
    is_poisoned_class_ : ndarray of shape (n_classes,), dtype bool
        The labels under which there is poison.
    evidence_ : ndarray of shape (n_classes,), dtype object
        Where a pattern was found, "input", "values" or "features"; "labels" for label
        issues alone; "" for classes that look clean.
    separations_ : ndarray of shape (n_classes,)
        Gap of the class's pattern in standard deviations, 0 without one.
    disagreements_ : ndarray of shape (n_classes,)
        Share of the pattern's rows that neighbours outside of it take for another
        class: near 1 for wrong labels, near 0 for clean-label patches.
    p_values_ : ndarray of shape (n_classes,)
        Of the confident label issues, among the rows without a pattern.
    thresholds_ : ndarray of shape (n_classes,)
        Rows with larger scores are flagged: 0.5, or more where the false-positive
        budget binds. (Of ties at the threshold, the first rows may be flagged.)
    proposed_labels_ : ndarray of shape (n_samples,)
        The most likely true label of each row.
    estimator_ : estimator
        The network, where one was used.
    sample_indices_ : ndarray of int
        Positions of the rows that :meth:`fit_resample` keeps, in their order.
    n_removed_ : int
        Number of rows that are distrusted.
    classes_ : ndarray of shape (n_classes,)
        The labels met.
    n_features_in_ : int
        Number of features met.
    feature_names_in_ : ndarray of str
        Only when X has string column names.

    Raises
    ------
    ValueError
        In `fit`: a parameter out of range, or one class only.

    Warns
    -----
    UserWarning
        Classes too small to be judged; groups with a gap in most classes, which are
        then taken for the data's own structure.

    See Also
    --------
    LabelIssueDetector : Wrong labels alone; takes text, sparse and incomplete data.
    SpectralSignatures : The known rules, which flag a share of every class.
    ActivationClustering : Two clusters a class.

    Notes
    -----
    **Patterns.** They are looked for in three tables: X itself, the features, and, by
    class, the values of single columns that are over-represented in it. Guesses come
    from the directions v that maximise

    .. math:: v^T S_c v / v^T \\Sigma_{-c} v,

    the scatter of class c against the pooled covariance within the other classes, and
    from rows whose neighbours have other labels. A guess is the target u of a ridge
    regression over all rows. The leave-one-out predictions t of the class are cut in
    two where that leaves the least variance, the upper part is the next u, until
    nothing changes. Leaving out matters: with as many columns as rows an ordinary fit
    separates anything. The statistic is

    .. math:: d = (\\bar t_1 - \\bar t_0) / \\sqrt{(s_1^2 + s_0^2) / 2}.

    Half of a normal distribution against the other half gives 2.65, a uniform one
    3.5; the classes of the clean data below reach 3 to 6, and triggers 7 to several
    hundred. A pattern of :math:`d > 6.3` counts where the labels speak against it as
    well: most of its rows, those of other classes that carry it included, are taken
    for another class by neighbours outside of it, significantly more than the rest of
    the class. A pattern of X that hardly any other class has counts alone, as a
    clean-label patch, where :math:`d > 12`, or 8 if it covers a quarter of its class;
    not so in tables of mostly binary columns, where every column makes gaps. A class
    may be an exception, not the rule: if more than half of the classes have patterns
    of their own, none counts.

    **Label issues.** :class:`LabelIssueDetector` judges the rows outside of patterns,
    which would mislead its models. Models disagree with good labels, too, but with a
    confidence of 0.9 only in 6 to 15 % of the cases on clean data, more where the
    classes are hard to tell. With e the share of unsure disagreements, the share of
    sure ones among all is expected to be :math:`0.06 + 0.4 e`, and tested against
    :math:`0.1 + 0.5 e` by the binomial, for each class and for all together; the
    ordinary mistakes expected among them lower the scores. Data whose labels the
    models predict little better than by chance are not judged.

    The constants were chosen on Fashion-MNIST, MNIST, digits, breast cancer, wine and
    spambase, clean and poisoned, and looked at on CIFAR-10, Adult, faces, histology and
    data with many clusters a class. There is no guarantee elsewhere.

    **Blind** to triggers that differ from row to row, unless the network's features
    show them; to clean-label patches on pixels that vary much anyway, and in binary
    tables; to fewer than 8 poisoned rows; to flips between classes that the models
    confuse, or that an attacker chose next to the boundary; to poison in most
    classes, each with another trigger; and to attackers that adapt to it.

    References
    ----------
    B. Tran, J. Li and A. Madry, "Spectral signatures in backdoor attacks", NeurIPS
    2018. arXiv:1811.00636.

    J. Hayase, W. Kong, R. Somani and S. Oh, "SPECTRE: defending against backdoor
    attacks using robust statistics", ICML 2021. arXiv:2104.11315.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.attacks import BackdoorAttack, PatchTrigger
    >>> from skpoison.defenses import PoisonDetector
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X.reshape(-1, 1, 8, 8)
    >>> attack = BackdoorAttack(
    ...     PatchTrigger(size=2), target_class=3, budget=0.05, random_state=0
    ... )
    >>> data = attack.poison(X, y)
    >>> detector = PoisonDetector(features="input", random_state=0)
    >>> detector.fit(data.X, data.y).is_poisoned_class_.nonzero()[0]
    array([3])
    >>> detector.n_removed_, int((~detector.is_clean_ & data.poison_mask).sum())
    (89, 89)
    >>> detector.fit(X, y).n_removed_
    0
    """

    def __init__(
        self,
        estimator=None,
        *,
        features="auto",
        max_false_positive_rate=0.03,
        significance=0.01,
        cv=5,
        n_jobs=None,
        random_state=None,
    ):
        self.estimator = estimator
        self.features = features
        self.max_false_positive_rate = max_false_positive_rate
        self.significance = significance
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def _check_parameters(self):
        super()._check_parameters()
        for name in ("max_false_positive_rate", "significance"):
            check_number(name, getattr(self, name), low=0.0, high=1.0)
        check_number("cv", self.cv, low=2, integer=True)

    def _score(self, X, y):  # type: ignore[override]
        n_classes = len(self.classes_)
        if n_classes < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes, got {n_classes} "
                f"class: {', '.join(map(repr, self.classes_.tolist()))}"
            )
        self._warn_small(np.bincount(y))
        F = self._finite_features(X, y)
        table = _numbers(X)
        table = F if table is None else table
        # pixels share a unit, the columns of a table do not
        scale = 1.0 if np.ndim(X) > 2 else table.std(axis=0)
        place = table / np.where(scale > 0, scale, 1.0)
        found = self._find_patterns(table, F, place, y)
        self.evidence_ = np.full(n_classes, "", dtype=object)
        self.separations_, self.disagreements_ = np.zeros((2, n_classes))
        taken, scores = np.zeros(len(y), dtype=bool), np.zeros(len(y))
        for p in found:
            taken |= p.rows
            # at least 0.88 inside of the gap, below 0.5 outside
            own = np.where(p.rows, expit(p.scores + 2.0), 0.5 * expit(p.scores))
            scores = np.maximum(scores, own)
            for label in np.unique(y[p.rows]):
                if p.separation > self.separations_[label]:
                    self.evidence_[label] = p.view
                    self.separations_[label] = p.separation
                    self.disagreements_[label] = p.disagreement
        issues, proposed = self._find_label_issues(place, y, taken)
        for p in found:
            proposed[p.rows] = p.proposed
        self.is_poisoned_class_ = self.evidence_ != ""
        self.proposed_labels_ = self.classes_[proposed]
        return np.maximum(scores, issues)

    def _warn_small(self, sizes):
        for limit, what in ((2 * evidence.MIN_ROWS, "patterns"), (self.cv, "labels")):
            small = self.classes_[sizes < limit]
            if len(small):
                warnings.warn(
                    f"classes with fewer than {limit} members are not judged by "
                    f"{what}: {small}",
                    UserWarning,
                    stacklevel=5,
                )

    def _find_patterns(self, table, F, place, y):
        """Return the patterns that count as poison, each row in one at most."""
        n_classes, sizes = len(self.classes_), np.bincount(y)
        mistaken = evidence.mistaken_by_neighbours(place, y)
        views = [evidence.View("input", table, y)]
        # columns that the two tables share would only be looked at twice
        if F.shape != table.shape or not np.array_equal(F, table):
            views.append(evidence.View("features", F, y))
        excess, values, binary = evidence.common_values(table, y)
        alone = binary < 0.5
        best = []
        for label in np.flatnonzero(sizes >= 2 * evidence.MIN_ROWS):
            own = y == label
            patterns = [p for v in views for p in v.patterns(label, [own & mistaken])]
            patterns += evidence.value_patterns(table, y, label, excess, values)
            level = self.significance / n_classes
            judged = [
                evidence.judge(p, place, y, label, mistaken, level, alone)
                for p in patterns
            ]
            best += evidence.choose([p for p in judged if p], own)
        found, covered = [], np.zeros(len(y), dtype=bool)
        for p in sorted(best, key=lambda p: -p.rows.sum()):
            # one trigger in several classes is found from each of them
            if covered[p.rows].mean() < 0.5:
                found.append(p)
            covered |= p.rows
        if len(found) > n_classes / 2:
            warnings.warn(
                f"{len(found)} of {n_classes} classes have a group of rows with a gap "
                "around it: taken for the structure of the data, not for poison",
                UserWarning,
                stacklevel=5,
            )
            return []
        return found

    def _find_label_issues(self, table, y, taken):
        """Return a score and a proposed label code for each row."""
        n_classes = len(self.classes_)
        scores, proposed = np.zeros(len(y)), y.copy()
        self.p_values_ = np.ones(n_classes)
        kept = np.flatnonzero(~taken)
        sizes = np.bincount(y[kept], minlength=n_classes)
        if (sizes > 0).sum() < 2 or sizes.max() < 2:
            return scores, proposed
        seed = RandomStreams(self.random_state).seed("label issues")
        rows = table[kept]
        if min(rows.shape) > N_COMPONENTS:  # much the same answers in less time
            rows = PCA(N_COMPONENTS, random_state=seed).fit_transform(rows)
        detector = LabelIssueDetector(cv=self.cv, n_jobs=self.n_jobs, random_state=seed)
        with warnings.catch_warnings():  # said already of all the data, or no matter
            warnings.filterwarnings("ignore", message="classes with fewer members")
            warnings.filterwarnings("ignore", message="the detector rejects")
            detector.fit(rows, y[kept])
        codes, issue = y[kept], detector.scores_
        answers = detector.classes_[detector.probabilities_.argmax(axis=1)]
        other = answers != codes
        sure = other & (issue > evidence.CONFIDENT)
        largest = sizes.max() / len(kept)
        if other.mean() > evidence.MAX_DISAGREEMENT * (1 - largest):
            scores[kept] = 0.5 * issue  # an order, for what it is worth, and no verdict
            return scores, proposed
        p_all, false_all = evidence.test_issues(other, sure)
        for label in range(n_classes):
            own = codes == label
            p_value, false = evidence.test_issues(other[own], sure[own])
            self.p_values_[label] = p_value
            poisoned = p_value < self.significance / n_classes
            if not poisoned and p_all < self.significance:
                poisoned, false = bool(sure[own].any()), false_all
            # at most 0.5 where there is no case against the row or its class
            trust = np.where(sure[own] & poisoned, 1.0 - false, 0.5)
            scores[kept[own]] = issue[own] * trust
            if poisoned and not self.evidence_[label]:
                self.evidence_[label] = "labels"
        proposed[kept] = detector.proposed_labels_
        return scores, proposed

    def _flag(self, scores, y):
        order = np.argsort(-scores, kind="stable")
        expected = np.cumsum(1.0 - scores[order])
        # the small relative slack is for the rounding of the sums
        allowed = self.max_false_positive_rate * len(y) * (1 + 1e-9)
        flagged = np.zeros(len(y), dtype=bool)
        flagged[order[(scores[order] > 0.5) & (expected <= allowed)]] = True
        limit = scores[~flagged].max(initial=0.0) if flagged.any() else 0.5
        self.thresholds_ = np.full(len(self.classes_), max(0.5, limit))
        return flagged


def _numbers(X):
    """Return X as finite numbers, one row a sample; None where it holds others."""
    if issparse(X):
        return None
    try:
        table = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    table = table.reshape(len(table), -1)
    return table if np.isfinite(table).all() else None
