"""Four beliefs about networks, put to the test.

    python examples/papers/backpropaganda.py --out beliefs.jsonl
    python examples/papers/backpropaganda.py --out beliefs.jsonl --show
    python examples/papers/backpropaganda.py --out beliefs.jsonl --findings norms
    python examples/papers/backpropaganda.py --out full.jsonl --full

M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth or
backpropaganda? ICLR 2020, arXiv:1910.00359. Its findings: suboptimal local minima
exist, small norms are not optimal, residual networks do not behave as the theory of
wide networks says, and rank has to do with neither generalisation nor robustness. Its
tables were not at hand, so that "published" is the sign that it reports.

Each finding has a file of its own, whose docstring has the setting: `_minima.py`,
`_norms.py`, `_kernels.py` and `_ranks.py`. Means and 95 % intervals are over seeds
(Student's t), differences are paired by seed. All four take about an hour on one core;
--full is the published setting.
"""

import _kernels
import _minima
import _norms
import _ranks
from _runs import Runs, arguments

FINDINGS = {
    "minima": _minima,
    "norms": _norms,
    "kernels": _kernels,
    "ranks": _ranks,
}


def main(argv=None):
    """Run what is missing, print the tables and what they say."""
    parser = arguments(__doc__, seeds=5)
    names = [*FINDINGS]
    parser.add_argument("--findings", nargs="+", choices=names, default=names)
    args = parser.parse_args(argv)
    runs, told = Runs(args.out), []
    for name in args.findings:
        for run, measure in [] if args.show else FINDINGS[name].todo(runs, args):
            runs.get(run, measure)
    for name in args.findings:
        print(f"\n{name}: {FINDINGS[name].__doc__.splitlines()[0]}")
        told.append(f"{name}: {FINDINGS[name].show(runs, args)}")
    print("\n" + "\n".join(told))


if __name__ == "__main__":
    main()
