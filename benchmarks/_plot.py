"""One picture of a run: every ratio, a line an area."""

_COLOURS = {None: "tab:blue", True: "tab:green", False: "tab:red"}
_NAMES = {None: "without a bar", True: "bar met", False: "bar missed"}


def draw(results, path):
    """Draw ratios of ours to peers and write the picture.

    Parameters
    ----------
    results : list of dict
        What ``Bench.results`` holds.
    path : str or Path
        Its suffix decides the format.
    """
    from matplotlib.figure import Figure

    areas = list(dict.fromkeys(result["area"] for result in results))
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(areas)), layout="constrained")
    ax = figure.subplots()
    for met, name in _NAMES.items():
        found = [r for r in results if r["met"] is met]
        ax.plot(
            [r["ratio"] for r in found],
            [areas.index(r["area"]) for r in found],
            "o",
            color=_COLOURS[met],
            alpha=0.6,
            label=name,
        )
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xscale("log")
    ax.set_yticks(range(len(areas)), areas)
    ax.invert_yaxis()
    ax.grid(axis="both", alpha=0.3)
    ax.set_xlabel("our time / the peer's (left of the line: faster than the peer)")
    figure.legend(loc="outside upper center", ncols=len(_NAMES), fontsize="small")
    figure.savefig(path, dpi=120)
