"""How the clients of a round are run: at once, in turn, in processes, by Flower.

An engine has ``updates(round, weights, numbers)``, which returns the updates of the
clients with these numbers, of shape (n, n_weights), and the mean loss of each client's
first batch at the server's weights (NaN where it is not known), and ``close()``.
"""

from skpoison.federated._engines._joblib import JoblibEngine
from skpoison.federated._engines._loop import LoopEngine
from skpoison.federated._engines._vectorized import VectorizedEngine

ENGINES = ("vectorized", "loop", "joblib", "flower")

__all__ = ["ENGINES", "JoblibEngine", "LoopEngine", "VectorizedEngine", "make_engine"]


def make_engine(name, clients, *, n_jobs=None, chunk_clients=None):
    """Return an engine for clients.

    Parameters
    ----------
    name : {"vectorized", "loop", "joblib", "flower"}
        A learner that can't train all clients at once makes "vectorized" a loop.
    clients : Clients
    n_jobs : int, default=None
    chunk_clients : int, default=None
        Clients trained at once by "vectorized".
    """
    if name == "joblib":
        return JoblibEngine(clients, n_jobs)
    if name == "flower":
        from skpoison.federated._engines._flower import FlowerEngine

        return FlowerEngine(clients, n_jobs)
    if name == "vectorized" and clients.learner.vectorizes:
        return VectorizedEngine(clients, chunk_clients)
    return LoopEngine(clients)
