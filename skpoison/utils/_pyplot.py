"""Matplotlib, which drawing needs and nothing else does."""


def import_pyplot():
    """Return matplotlib.pyplot, or say how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "drawing needs matplotlib: pip install 'skpoison[plot]'"
        ) from error
    return plt
