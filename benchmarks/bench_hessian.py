"""Both ends of the Hessian's spectrum against power iteration, ARPACK and peers."""

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from skpoison.landscape import hessian_eigenvalues
from skpoison.landscape._objective import TrainingLoss
from skpoison.models import MLP, TorchClassifier

#: Relative error of both ends that everybody has to reach.
_ERROR = 1e-3
_MOST_PRODUCTS, _QUICK_PRODUCTS = 1_500, 50
_N_PRODUCTS = 20


def setting(device):
    """Return a network trained for some epochs, in float64, and its rows."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    clf = TorchClassifier(
        MLP, module__hidden=(32, 16), max_epochs=5, device=device, random_state=0
    )
    net = clf.fit(X, y).module_.double().eval()
    return net, X, y


def power_iteration(product, n, exact, *, most, shift=0.0, device="cpu"):
    """Iterate as the published procedure does, until the value is known to `_ERROR`.

    It stops where it is close to the exact value, which only a benchmark can know, or
    after `most` products.

    Parameters
    ----------
    product : callable
    n : int
    exact : float
        The value looked for.
    most : int
    shift : float, default=0.0
        Taken off the spectrum, to turn its lower end into the largest one.
    device : str, default="cpu"

    Returns
    -------
    value : float
    n_products : int
    """
    vector = torch.randn(n, generator=torch.Generator().manual_seed(0))
    vector = vector.double().to(device)
    value, n_products = np.inf, 0
    while abs(value - exact) > _ERROR * abs(exact) and n_products < most:
        vector = vector / vector.norm()
        w = product(vector)
        value = float(vector @ w)
        vector = w - shift * vector
        n_products += 1
    return value, n_products


def measure(bench):
    """Time both ends, the upper end alone, and single products."""
    net, X, y = setting(bench.device)
    params = {"device": bench.device, "random_state": 0}
    exact = hessian_eigenvalues(net, X, y, tol=1e-9, **params)
    low, high = exact.smallest[0], exact.largest[0]
    loss = TrainingLoss(net, X, y, device=bench.device)
    n = len(loss.start)
    reached = {}

    def note(name, values, n_products):
        errors = [abs(v / e - 1) for v, e in zip(values, (high, low), strict=False)]
        reached[name] = n_products, errors

    def ours(which="both"):
        found = hessian_eigenvalues(net, X, y, which=which, tol=1e-4, **params)
        values = [*found.largest, *found.smallest]
        note(f"ours, {which}", values, found.n_products)

    def published():
        fresh = TrainingLoss(net, X, y, device=bench.device)
        most = bench.size(_MOST_PRODUCTS, _QUICK_PRODUCTS)
        on = {"most": most, "device": bench.device}
        top, first = power_iteration(fresh.product, n, high, **on)
        bottom, second = power_iteration(fresh.product, n, low, shift=top, **on)
        note("power iteration", (top, bottom), first + second)

    def arpack():
        fresh = TrainingLoss(net, X, y, device=bench.device)

        def product(v):
            v = torch.as_tensor(v.ravel()).to(fresh.start)
            return fresh.product(v).cpu().numpy()

        operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
        begin = np.random.RandomState(0).randn(n)
        values = eigsh(
            operator, 2, which="BE", tol=1e-2, v0=begin, return_eigenvectors=False
        )
        note("eigsh", values[::-1], fresh.n_products)

    def bound():
        for _ in range(reached["ours, both"][0]):
            loss.product(loss.start)

    peers = {"power iteration, shifted": published, "scipy eigsh, BE": arpack}
    curvlinops = bench.optional("curvlinops")
    tensors = torch.as_tensor(X), torch.as_tensor(y)
    if curvlinops is not None:

        def by_curvlinops():
            operator = curvlinops.HessianLinearOperator(
                net, nn.CrossEntropyLoss(), [*net.parameters()], [tensors],
                check_deterministic=False,
            )  # fmt: skip
            values = eigsh(
                operator.to_scipy(), 2, which="BE", tol=1e-2,
                v0=np.random.RandomState(0).randn(n), return_eigenvectors=False,
            )  # fmt: skip
            note("curvlinops", values[::-1], None)

        if bench.device == "cpu":
            peers["curvlinops, eigsh"] = by_curvlinops
    bench.title(f"Hessian of an MLP with {n} weights on {len(X)} digits, float64")
    bench.compare(
        "both ends", ours, peers, repeats=3, bound=bound,
        bars={"power iteration, shifted": 0.2, "scipy eigsh, BE": 1.0,
              "curvlinops, eigsh": 1.0},
    )  # fmt: skip
    pyhessian = bench.optional("pyhessian")
    if pyhessian is not None:

        def by_pyhessian():
            found = pyhessian.hessian(
                net, nn.CrossEntropyLoss(), data=tensors, cuda=bench.device != "cpu"
            )
            values, _ = found.eigenvalues(tol=_ERROR / 10)
            note("PyHessian, largest", values, None)
            net.zero_grad(set_to_none=True)

        bench.compare(
            "the largest", lambda: ours("largest"), {"PyHessian": by_pyhessian},
            repeats=3,
        )  # fmt: skip

    vectors = torch.randn(_N_PRODUCTS, n, dtype=torch.float64).to(loss.start)
    X, y = (t.to(bench.device) for t in tensors)
    weights = list(net.parameters())

    def rebuilt():
        for vector in vectors:
            at = F.cross_entropy(net(X), y)
            slopes = torch.autograd.grad(at, weights, create_graph=True)
            slope = torch.cat([s.flatten() for s in slopes])
            torch.autograd.grad(slope, weights, vector)

    def mapped():
        def at(theta):
            return F.cross_entropy(
                torch.func.functional_call(net, loss.named(theta), (X,)), y
            )

        for vector in vectors:
            torch.func.jvp(torch.func.grad(at), (loss.start,), (vector,))

    bench.compare(
        "a product", lambda: [loss.product(v) for v in vectors],
        {"both backward passes": rebuilt, "torch.func, jvp of grad": mapped},
        repeats=5, work=_N_PRODUCTS,
        bars={"both backward passes": 0.8, "torch.func, jvp of grad": 0.8},
    )  # fmt: skip
    print(f"\nproducts, relative errors; exact: {high:.6f}, {low:.6f}")
    for name, (count, errors) in reached.items():
        shown = ", ".join(f"{error:.1e}" for error in errors)
        print(f"{name:24}{'-' if count is None else count:>6}  {shown}")
