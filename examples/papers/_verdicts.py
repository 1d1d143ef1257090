"""Words for differences: the last lines under the tables of some papers."""

from _runs import interval, sign


def told(values, digits=2):
    """Return in words where the mean of differences lies, with its interval."""
    mean, half = interval(values)
    word = {1: "rises", -1: "falls", 0: "is not seen to change"}[sign(values)]
    return f"{word} ({mean:+.{digits}f} +- {half:.{digits}f})"


def compared(values, name, digits=2):
    """Return in words how something does beside `name`, by its differences to it."""
    mean, half = interval(values)
    word = {1: "above", -1: "below", 0: "not told apart from"}[sign(values)]
    return f"{word} {name} ({mean:+.{digits}f} +- {half:.{digits}f})"


def conclude(parts):
    """Print which parts of a claim are seen; `parts` maps words to whether they are."""
    words = [
        f"{part}: {'seen' if seen else 'not seen'}" for part, seen in parts.items()
    ]
    print(
        "The claim here: " + "; ".join(words) if words else "Too few runs for a claim"
    )
