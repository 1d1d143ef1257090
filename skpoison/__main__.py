"""The command line: ``skpoison audit DATA.csv --target COLUMN``."""

import sys


def main():
    """Run the command line."""
    try:
        import click  # noqa: F401
        import pandas  # noqa: F401
    except ImportError as error:
        print(
            f"skpoison: the command line needs {error.name}: "
            "pip install 'skpoison[audit]'",
            file=sys.stderr,
        )
        return 2
    from skpoison.audit._cli import cli

    return cli(prog_name="skpoison")


if __name__ == "__main__":
    sys.exit(main())
