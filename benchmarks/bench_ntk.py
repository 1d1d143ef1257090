"""The tangent kernel against the usual recipes, and its memory as rows grow."""

import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from skpoison.landscape import empirical_ntk
from skpoison.models import MLP, ConvNet, ResNet20
from skpoison.utils import local_torch_seed

#: Largest ratios to `vmap(jacrev)` that are good enough: of any net, of wide ones, and
#: of so few outputs that all ways come to the same passes, which ours checks first.
_BAR, _WIDE_BAR, _FEW_BAR = 1.0, 0.02, 1.2
#: Values that the derivatives of all rows may have for the slower peers.
_MOST_VALUES = 2**27


def cases(bench):
    """Return {name: (network, shape of a row, rows, bar)}."""
    n = bench.size(25, 6)
    with local_torch_seed(0):
        return {
            "MLP 64-32-3": (MLP((64,), 3, hidden=(32,)), (64,), 5, _FEW_BAR),
            "MLP 256, 2 layers": (MLP((784,), 10, (256,) * 2), (784,), n, _WIDE_BAR),
            "MLP 1024, 3 layers": (MLP((784,), 10, (1024,) * 3), (784,), n, _WIDE_BAR),
            "ConvNet, 151k": (
                ConvNet((1, 28, 28), 10, channels=(32, 64), hidden=128),
                (1, 28, 28), n, _BAR,
            ),
            "ResNet-20": (ResNet20((3, 32, 32), 10), (3, 32, 32), 4, _FEW_BAR),
            "ResNet-20, 16 pixels": (ResNet20((3, 16, 16), 10), (3, 16, 16), n, _BAR),
        }  # fmt: skip


def recipe(network, X):
    """Return the kernel as torch's tutorial makes it: all derivatives, multiplied."""
    weights = {name: p.detach() for name, p in network.named_parameters()}

    def of_row(weights, x):
        return functional_call(network, weights, (x[None],))[0]

    found = vmap(jacrev(of_row), (None, 0))(weights, X)
    found = [J.flatten(2).flatten(0, 1) for J in found.values()]
    return sum(J @ J.T for J in found).numpy()


def loop(network, X):
    """Return the kernel from one backward pass an output of a row."""
    weights, lines = [*network.parameters()], []
    for x in X:
        for output in network(x[None])[0]:
            found = torch.autograd.grad(output, weights, retain_graph=True)
            lines.append(torch.cat([g.flatten() for g in found]))
    J = torch.stack(lines)
    return (J @ J.T).numpy()


def products(network, X):
    """Return the kernel by products with derivatives, mapped over pairs of rows."""
    weights = {name: p.detach() for name, p in network.named_parameters()}

    def of_row(x):
        return lambda weights: functional_call(network, weights, (x[None],))[0]

    def of_pair(x, z):
        outputs, back = vjp(of_row(z), weights)

        def column(direction):
            return jvp(of_row(x), (weights,), back(direction))[1]

        return vmap(column)(torch.eye(len(outputs)))

    found = torch.stack([vmap(lambda x, z=z: of_pair(x, z))(X) for z in X])
    return found.permute(1, 3, 0, 2).flatten(2).flatten(0, 1).numpy()


def measure(bench):
    """Time kernels of all nets, and print the memory of more and more rows."""
    bench.title("full tangent kernel of logits")
    for name, (network, shape, n_rows, bar) in cases(bench).items():
        network.eval()
        with local_torch_seed(1):
            X = torch.randn(n_rows, *shape)
        n_weights = sum(p.numel() for p in network.parameters())
        n_values = n_rows * network(X[:1]).numel() * n_weights
        peers = {"vmap(jacrev)": lambda X=X, net=network: recipe(net, X)}
        if n_values < _MOST_VALUES:
            peers["a loop over outputs"] = lambda X=X, net=network: loop(net, X)
        if n_values < _MOST_VALUES // 4:
            peers["NTK-vector products"] = lambda X=X, net=network: products(net, X)
        bench.compare(
            f"{name}, {n_rows} rows",
            lambda X=X, net=network: empirical_ntk(net, X, device="cpu"),
            peers, repeats=5, bars={"vmap(jacrev)": bar},
        )  # fmt: skip
    print("\npeak memory above that of torch and the kernel itself, MB; a process each")
    print(f"{'MLP 256, trace':24}{'ours':>9}{'vmap(jacrev)':>14}")
    for n_rows in bench.size((25, 100, 400, 1600), (5, 10)):
        cells = [
            _memory(way, n_rows) if way == "ours" or n_rows <= 100 else None
            for way in ("ours", "recipe")
        ]
        shown = ["-" if cell is None else f"{cell:.0f}" for cell in cells]
        print(f"{n_rows:>6} rows             {shown[0]:>9}{shown[1]:>14}", flush=True)


def _memory(way, n_rows):
    """Return the megabytes that a kernel takes in a process of its own."""
    command = [sys.executable, __file__, way, str(n_rows)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(found.stdout)


def _peak():
    """Return the largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # elsewhere, and not here, a child starts at its own size
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1e3
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    torch.set_num_threads(1)
    way, n_rows = sys.argv[1], int(sys.argv[2])
    network, X = MLP((784,), 10, (256,) * 2), torch.randn(n_rows, 784)
    for rows in (2, n_rows):  # the first call loads what torch loads late
        start = _peak()
        if way == "ours":
            empirical_ntk(network, X[:rows], reduction="trace", device="cpu")
        else:
            recipe(network, X[:rows])
    print(_peak() - start - n_rows**2 * 4e-6)
