from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.attacks import LabelFlipAttack
from skpoison.audit import audit
from skpoison.compose import PoisonedEstimator


def sweep_and_audit():
    """Return the scores of a grid search and the table of an audit."""
    X, y = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    search = GridSearchCV(
        PoisonedEstimator(LabelFlipAttack("pair"), model, random_state=0),
        {"attack__budget": [0, 0.1, 0.2, 0.3]},
        cv=3,
        refit=False,
    ).fit(X, y)
    report = audit(
        model,
        X,
        y,
        attacks=["pair-flips"],
        defenses=[],
        budgets=(0.1,),
        cv=3,
        random_state=0,
        verbose=0,
    )
    return search.cv_results_["mean_test_score"], report.table


def compare(here, there):
    """Print whether two runs gave the same numbers, bit for bit."""
    same = (here[0] == there[0]).all() and here[1].equals(there[1])
    print("grid search:", there[0].round(3))
    print("audit:", len(there[1]), "rows")
    print("as on one core:", bool(same))
