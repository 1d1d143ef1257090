"""What the tables of this folder share with those of ``../papers``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "papers"))

from _backdoored import NETWORK, POISONS, TRIGGER, load
from _runs import FETCH, Runs, arguments, interval, print_table, shown

__all__ = [
    "FETCH",
    "NETWORK",
    "POISONS",
    "TRIGGER",
    "Runs",
    "arguments",
    "interval",
    "load",
    "print_table",
    "shown",
]
