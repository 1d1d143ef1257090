"""Robust aggregation and Byzantine clients for Flower's message API.

Needs Flower: ``pip install skpoison[flower]``. :class:`RobustStrategy` goes into any
server, :func:`byzantine_mod` into any client; :func:`make_client_app` and
:func:`make_server_app` make whole apps of a
:class:`~skpoison.federated.FederatedClassifier`.
"""

try:
    import flwr  # noqa: F401
except ImportError as error:
    raise ImportError(
        "skpoison.federated.flower needs Flower, which is not installed: "
        "pip install skpoison[flower]"
    ) from error

from skpoison.federated.flower._apps import make_client_app, make_server_app
from skpoison.federated.flower._mod import byzantine_mod
from skpoison.federated.flower._strategy import RobustStrategy, RoundFailedError

__all__ = [
    "RobustStrategy",
    "RoundFailedError",
    "byzantine_mod",
    "make_client_app",
    "make_server_app",
]
