import joblib
import numpy as np
from dask.distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier

from skpoison.attacks import LabelFlipAttack
from skpoison.compose import PoisonedEstimator


def main():
    X, y = load_digits(return_X_y=True)
    search = GridSearchCV(
        PoisonedEstimator(
            LabelFlipAttack("pair"), KNeighborsClassifier(), random_state=0
        ),
        {"attack__budget": [0, 0.1, 0.2, 0.3]},
        cv=3,
        refit=False,
    )
    here = search.fit(X, y).cv_results_["mean_test_score"]
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster), joblib.parallel_config(backend="dask"):
        there = search.fit(X, y).cv_results_["mean_test_score"]
    print("on the cluster:", there.round(3))
    print("as on one core:", np.array_equal(here, there))


if __name__ == "__main__":  # workers import this file
    main()
