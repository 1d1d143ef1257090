"""Run the benchmarks and print their tables.

    python benchmarks/run.py                    # all that report ratios
    python benchmarks/run.py rows torch --quick
    python benchmarks/run.py torch --device cuda --json results.json
    python benchmarks/run.py label_issues       # one that prints a table of its own

A file ``bench_NAME.py`` with a function ``measure(bench)`` takes part in a run without
names. Any other ``bench_NAME.py`` is a script, and runs when it is named.
"""

import argparse
import ast
import importlib
import subprocess
import sys
from pathlib import Path

from _harness import Bench, machine
from _plot import draw

_HERE = Path(__file__).resolve().parent


def discover():
    """Return {name: whether it reports ratios} of the files beside this one."""
    found = {}
    for path in sorted(_HERE.glob("bench_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        found[path.stem.removeprefix("bench_")] = "measure" in functions
    return found


def main():
    """Parse the command line and run.

    Returns
    -------
    code : int
        1 if a script failed or, with ``--strict``, if a bar was missed.
    """
    found = discover()
    parser = argparse.ArgumentParser(
        description="Run the benchmarks and print their tables."
    )
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(found)}")
    parser.add_argument("--json", metavar="PATH", help="also write the figures here")
    parser.add_argument("--plot", metavar="PATH", help="also draw all ratios")
    parser.add_argument(
        "--quick", action="store_true", help="small data, one repetition: a smoke test"
    )
    parser.add_argument("--device", default="cpu", help="for networks: cpu or cuda")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 if a bar is missed"
    )
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in found]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(found)}")
    names = args.names or [name for name, ratios in found.items() if ratios]
    try:
        bench = Bench(quick=args.quick, device=args.device)
    except ValueError as error:
        parser.error(str(error))

    failed = False
    facts = machine(args.device).items()
    print(", ".join(f"{name} {value}" for name, value in facts))
    for name in names:
        if found[name]:
            bench.area = name
            importlib.import_module(f"bench_{name}").measure(bench)
            if args.json:  # what is measured is kept, whatever stops the rest
                bench.save(args.json)
        else:
            print(f"\n{name}", flush=True)
            script = subprocess.run([sys.executable, _HERE / f"bench_{name}.py"])
            failed |= script.returncode != 0
    missed = bench.summary() if bench.results else []
    others = [name for name in found if name not in names]
    if others:
        print(f"not run: {', '.join(others)}")
    if args.plot and bench.results:
        draw(bench.results, args.plot)
    return int(failed or (args.strict and bool(missed)))


if __name__ == "__main__":
    sys.exit(main())
