"""Random numbers that belong to rows: batching and order never change them."""

import math

import numpy as np
import torch

from skpoison.utils import row_keys

_WORD = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# 23 bits and a half: every draw is exact in float32, so that all types see the same
_BITS = 23


def _signed(word):
    """Return 64 bits as the int64 that holds them."""
    return word - (1 << 64) if word >> 63 else word


def _mix(bits):
    """Scramble int64 in place: the finaliser of SplitMix64, whose shifts are logical.

    Products of int64 wrap around on every device that torch knows.
    """
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        bits ^= (bits >> shift) & ((1 << (64 - shift)) - 1)
        bits *= _signed(factor)
    bits ^= (bits >> 31) & ((1 << 33) - 1)
    return bits


def _hash(*parts):
    """Scramble a few integers into one tensor of one int64."""
    word = 0
    for part in parts:
        word = (word + part + _STEP) & _WORD
        for shift, factor in zip((30, 27), _FACTORS, strict=True):
            word = (word ^ (word >> shift)) * factor & _WORD
        word ^= word >> 31
    return torch.tensor([_signed(word)])


def _unit(bits):
    """Turn scrambled bits into numbers of the open unit interval."""
    bits = (bits >> (64 - _BITS)) & ((1 << _BITS) - 1)
    return (bits.float() + 0.5) * 2.0**-_BITS


class RowDraws:
    """Uniform numbers that are a function of seed, row, restart and step alone.

    A counter is hashed, nothing is advanced: a row gets the same numbers in any
    batch, in any order, on any device, and equal rows get equal ones.

    Parameters
    ----------
    seed : int
    keys : tensor of int64 of shape (n,)
        One a row, see :meth:`of_rows`.
    """

    def __init__(self, seed, keys):
        self.seed = seed
        self.keys = keys

    @classmethod
    def of_rows(cls, seed, X, device="cpu"):
        """Make the draws of the rows of an array, from their content."""
        keys = np.array([int(key[:16], 16) for key in row_keys(X)], dtype=np.uint64)
        return cls(seed, torch.from_numpy(keys.view(np.int64)).to(device))

    def take(self, rows):
        """Return the draws of some rows."""
        return RowDraws(self.seed, self.keys[rows])

    def uniform(self, restart, step, shape):
        """Draw from (0, 1), float32.

        Parameters
        ----------
        restart, step : int
        shape : tuple of int
            The first axis is that of the rows.
        """
        counter = _hash(self.seed, restart, step).to(self.keys.device)
        rows = _mix(self.keys + counter)
        n_draws = math.prod(shape[1:])
        index = torch.arange(1, n_draws + 1, device=rows.device)
        return _unit(_mix(rows[:, None] + index * _signed(_STEP))).reshape(shape)

    def shared(self, restart, step):
        """Draw one number for all rows of all batches."""
        return float(_unit(_hash(self.seed, restart, step)))


class GeneratorDraws:
    """The same calls on a torch generator, for batches of training.

    Parameters
    ----------
    generator : torch.Generator
        Advanced by each draw.
    """

    def __init__(self, generator):
        self.generator = generator

    def take(self, rows):
        """Return the draws of some rows: the next ones."""
        return self

    def uniform(self, restart, step, shape):
        """Draw from [0, 1), float32, on the generator's device."""
        return torch.rand(shape, generator=self.generator, device=self.generator.device)

    def shared(self, restart, step):
        """Draw one number for all rows."""
        return float(self.uniform(restart, step, (1,)))
