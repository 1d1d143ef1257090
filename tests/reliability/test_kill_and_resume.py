"""Calls killed at any moment go on, when called again, and end with the same bits.

``SKPOISON_KILLS=50`` kills each of them as often, ``SKPOISON_KILL_SEED`` draws other
moments.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

N_KILLS = int(os.environ.get("SKPOISON_KILLS", "2"))
SEED = os.environ.get("SKPOISON_KILL_SEED", "0")
CALLS = ["audit", "federated", "sweep", "protect", "release", "matching", "sleeper"]
CALLS += ["metapoison", "collision", "polytope", "bullseye", "hidden", "bilevel"]
CALLS += ["influence", "regression", "back-gradient"]


class Calls:
    """The process in whose forks the calls run."""

    def __init__(self, folder):
        script = Path(__file__).with_name("_long_calls.py")
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.whole = {}

    def run(self, call, *folders, after=None, by=None, in_writing=("", 0)):
        """Do a call at once for each folder; return how each went.

        Parameters
        ----------
        after : float
            Seconds to the signal `by`.
        in_writing : (moment, number)
            Where it dies by itself.
        """
        orders = [
            {
                "call": call,
                "folder": str(folder),
                "answer": str(self.folder / f"answer-{i}"),
                "after": after,
                "signal": by,
                "in_writing": in_writing,
            }
            for i, folder in enumerate(folders)
        ]
        print(json.dumps(orders), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def unbroken(self, call):
        """Return how the call goes that nobody disturbs, once."""
        if call not in self.whole:
            folder = self.folder / f"unbroken {call}"
            folder.mkdir()
            (self.whole[call],) = self.run(call, folder)
        return self.whole[call]


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    made = Calls(tmp_path_factory.mktemp("calls"))
    yield made
    made.process.stdin.close()
    assert made.process.wait() == 0


def _parts(folder):
    return list(folder.rglob(".skpoison-*.part"))


@pytest.mark.parametrize("call", CALLS)
def test_killed_calls_end_with_the_same_bits(calls, tmp_path, call):
    whole = calls.unbroken(call)
    assert whole["n_written"] >= 3
    draw, n_died = random.Random(f"{call} {SEED}"), 0
    for i in range(N_KILLS):
        if i % 2:
            kill = {"after": draw.uniform(0, whole["seconds"]), "by": signal.SIGKILL}
        else:
            # what was written stays so: a later number may never be reached
            number = draw.randint(1, max(1, whole["n_written"] // (N_KILLS + 1)))
            moment = draw.choice(["half", "whole", "there"])
            kill = {"in_writing": (moment, number)}
        (answer,) = calls.run(call, tmp_path, **kill)
        n_died += answer.get("killed") == -signal.SIGKILL
        assert "error" not in answer, answer
    assert n_died  # the first one always is
    (again,) = calls.run(call, tmp_path)
    assert again.get("digest") == whole["digest"], again
    assert not _parts(tmp_path)
    # and there is nothing left to do
    (last,) = calls.run(call, tmp_path)
    assert last["digest"] == whole["digest"] and last["n_written"] == 0


@pytest.mark.parametrize("moment", ["half", "whole", "there"])
def test_whatever_was_being_written_is_whole_or_not_there(calls, tmp_path, moment):
    for number in (1, 2):
        (answer,) = calls.run("federated", tmp_path, in_writing=(moment, number))
        assert answer == {"killed": -signal.SIGKILL}
        assert len(_parts(tmp_path)) == (moment != "there")
    (again,) = calls.run("federated", tmp_path)
    assert again["digest"] == calls.unbroken("federated")["digest"]
    assert not _parts(tmp_path)


@pytest.mark.parametrize("call", ["audit", "federated", "release"])
def test_interrupted_calls_clean_up_and_go_on(calls, tmp_path, call):
    whole = calls.unbroken(call)
    after = random.Random(f"{call} {SEED}").uniform(0.2, 0.8) * whole["seconds"]
    (answer,) = calls.run(call, tmp_path, after=after, by=signal.SIGINT)
    assert answer.get("error", "KeyboardInterrupt").startswith("KeyboardInterrupt")
    assert not _parts(tmp_path)
    (again,) = calls.run(call, tmp_path)
    assert again["digest"] == whole["digest"]


@pytest.mark.parametrize("call", ["audit", "federated", "influence"])
def test_two_processes_in_one_folder_are_both_right(calls, tmp_path, call):
    whole = calls.unbroken(call)
    answers = calls.run(call, tmp_path, tmp_path)
    assert [answer.get("digest") for answer in answers] == [whole["digest"]] * 2
    assert not _parts(tmp_path)


@pytest.mark.long
def test_the_second_to_protect_into_a_folder_is_refused(calls, tmp_path):
    answers = calls.run("protect", tmp_path, tmp_path)
    errors = [answer["error"] for answer in answers if "error" in answer]
    assert len(errors) == 1 and "is being written to by another call" in errors[0]
    (again,) = calls.run("protect", tmp_path)
    assert again["n_written"] == 0
    assert _names(tmp_path / "out")[:3] == [".skpoison", "digit 0", "digit 1"]


FLOWER = """
import numpy as np
from skpoison.federated import FederatedClassifier
X, y = np.random.RandomState(0).rand(40, 3), np.arange(40) % 2
clf = FederatedClassifier(n_clients=2, n_rounds=10_000, engine="flower", n_jobs=1,
                          callbacks=[lambda clf: print("round", flush=True)])
clf.fit(X, y)
"""


@pytest.mark.long
def test_a_killed_training_by_flower_takes_its_folder_along(tmp_path):
    pytest.importorskip("flwr")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", FLOWER],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "round\n"
    mark = f"skpoison-{process.pid}-*"
    places = [*tmp_path.glob(mark), *Path("/tmp").glob(mark)]
    assert len(places) == 1
    process.kill()
    process.communicate()
    for _ in range(600):
        if not places[0].exists():
            return
        time.sleep(0.2)
    raise AssertionError(f"{places[0]} is still there")


def _names(folder):
    return sorted(path.name for path in folder.iterdir())
