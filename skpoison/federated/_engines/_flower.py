"""Clients as virtual nodes of Flower's simulation runtime."""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from joblib import effective_n_jobs

# Flower waits 0.1 s and more: much of a round of small models
_POLL_SECONDS = 0.01
# Paths of sockets end at 103 characters on macOS, and Ray needs 70 below our folder.
_LONGEST_FOLDER = 33
_CLOSE_SECONDS = 60
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # its name aside: 0 binds Ray's ports, which ask for no password, to loopback
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class FlowerEngine:
    """Train the clients of a round as nodes of one run of Flower's simulation.

    Flower and Ray live in a process of their own, with a folder of their own, so that
    nothing of theirs is left in this one, in its environment or in the user's home:
    Flower ends a simulation by shutting down Ray for the whole process. Data go to
    that folder once and are mapped from there by all workers.

    Parameters
    ----------
    clients : Clients
    n_jobs : int, default=None
        Processes that train.
    """

    def __init__(self, clients, n_jobs=None):
        self._process: Any = None
        _require_installed()
        self._folder = _short_folder()
        try:
            _store(clients, self._folder)
            self._process = self._start(len(clients), effective_n_jobs(n_jobs))
        except BaseException:
            self.close()
            raise

    def _start(self, n_clients, n_jobs) -> Any:
        code = "from skpoison.federated._engines import _flower; _flower.serve()"
        with open(self._folder / "log", "wb") as log:
            process: Any = subprocess.Popen(
                [sys.executable, "-c", code],
                env=os.environ
                | _QUIET
                | {
                    "FLWR_HOME": str(self._folder / "flwr"),
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        pickle.dump((str(self._folder), n_clients, n_jobs), process.stdin)
        return process

    def updates(self, round, weights, numbers):
        """Return updates and losses of some clients; see the package."""
        request = int(round), weights, [int(number) for number in numbers]
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            updates, losses, error = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            log = (self._folder / "log").read_text(errors="replace")
            raise RuntimeError(
                f"Flower's simulation ended in round {round}:\n{log[-4000:]}"
            ) from None
        if error is not None:
            raise RuntimeError(f"a client failed in round {round}: {error}")
        return updates, losses

    def close(self):
        """End the simulation and remove its folder."""
        process, self._process = self._process, None
        if process is not None:
            try:
                process.stdin.close()  # at its end the server leaves its loop
                process.wait(_CLOSE_SECONDS)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                process.kill()
                process.wait()
            process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _short_folder():
    folder = tempfile.mkdtemp(prefix=f"skpoison-{os.getpid()}-")
    if len(folder) > _LONGEST_FOLDER and os.path.isdir("/tmp"):
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix=f"skpoison-{os.getpid()}-", dir="/tmp")
    return Path(folder)


def _require_installed():
    # not imported: Ray sets variables of the environment when it is
    for name in ("flwr", "ray", "cloudpickle"):
        if find_spec(name) is None:
            raise ImportError(
                f"engine='flower' needs {name}, which is not installed: "
                "pip install skpoison[flower]"
            )


def _store(clients, folder):
    import cloudpickle  # takes what the user defined in a script or notebook

    np.save(folder / "X.npy", clients.X)
    np.save(folder / "y.npy", clients.y)
    content = cloudpickle.dumps(replace(clients, X=None, y=None))
    (folder / "clients.pickle").write_bytes(content)


@lru_cache(maxsize=1)
def _load(folder):
    clients = pickle.loads(Path(folder, "clients.pickle").read_bytes())
    return replace(
        clients,
        X=np.asarray(np.load(Path(folder, "X.npy"), mmap_mode="r")),
        y=np.asarray(np.load(Path(folder, "y.npy"), mmap_mode="r")),
    )


# In the process of the simulation


def serve():
    """Run the simulation: requests come on stdin, answers go to stdout."""
    requests = sys.stdin.buffer
    # what others print must not get between the answers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    folder, n_clients, n_jobs = pickle.load(requests)
    try:
        _simulate(folder, n_clients, n_jobs, requests, answers)
        shutil.rmtree(folder, ignore_errors=True)  # the asker may have been killed
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # the server's thread may be waiting for requests


def _simulate(folder, n_clients, n_jobs, requests, answers):
    from flwr.simulation import run_simulation

    run_simulation(
        _server_app(n_clients, requests, answers),
        _client_app(folder),
        n_clients,
        backend_config={
            "init_args": {
                "num_cpus": n_jobs,
                "num_gpus": 0,
                "_temp_dir": f"{folder}/ray",
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
        },
    )


def _server_app(n_clients, requests, answers):
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()
    def main(grid, context):
        while len(nodes := sorted(grid.get_node_ids())) < n_clients:
            time.sleep(_POLL_SECONDS)
        while True:
            try:
                round, weights, numbers = pickle.load(requests)
            except (EOFError, pickle.UnpicklingError):  # half of one: asker was killed
                return
            found = _ask(grid, dict(zip(numbers, nodes, strict=False)), round, weights)
            try:
                pickle.dump(found, answers)
                answers.flush()
            except BrokenPipeError:
                return

    return app


def _ask(grid, nodes, round, weights):
    """Return updates, losses and the first error, of nodes by clients' numbers."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

    arrays = ArrayRecord({"weights": Array(weights)})
    waiting = set(
        grid.push_messages(
            [
                Message(
                    RecordDict(
                        {
                            "arrays": arrays,
                            "config": ConfigRecord({"round": round, "client": number}),
                        }
                    ),
                    node,
                    "train",
                )
                for number, node in nodes.items()
            ]
        )
    )
    place = {node: i for i, node in enumerate(nodes.values())}
    updates = np.empty((len(nodes), len(weights)), weights.dtype)
    losses = np.empty(len(nodes))
    error = None
    while waiting:
        for reply in grid.pull_messages(waiting):
            waiting.remove(reply.metadata.reply_to_message_id)
            if reply.has_error():
                error = error or reply.error.reason
                continue
            i = place[reply.metadata.src_node_id]
            updates[i] = reply.content["arrays"]["update"].numpy()
            losses[i] = reply.content["metrics"]["loss"]
        time.sleep(_POLL_SECONDS)
    return updates, losses, error


def _client_app(folder):
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message, context):
        config = message.content["config"]
        weights = message.content["arrays"]["weights"].numpy()
        work = _load(folder).work(config["client"])
        update, loss = work.train(config["round"], weights)
        content = RecordDict(
            {
                "arrays": ArrayRecord({"update": Array(update)}),
                "metrics": MetricRecord({"loss": loss}),
            }
        )
        return Message(content, reply_to=message)

    return app
