"""The first-order primal-dual solver: one iteration code for NumPy and PyTorch."""

from skpoison.partition._pdhg._driver import check_options, solve_pdhg

__all__ = ["check_options", "solve_pdhg"]
