import joblib
import ray
from cluster_jobs import compare, sweep_and_audit
from ray.util.joblib import register_ray


def main():
    here = sweep_and_audit()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=2):
        there = sweep_and_audit()
    ray.shutdown()
    compare(here, there)


if __name__ == "__main__":
    main()
