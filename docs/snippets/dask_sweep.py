import joblib
from cluster_jobs import compare, sweep_and_audit
from dask.distributed import Client, LocalCluster


def main():
    here = sweep_and_audit()
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster), joblib.parallel_config(backend="dask"):
        there = sweep_and_audit()
    compare(here, there)


if __name__ == "__main__":  # workers are processes that import this file
    main()
