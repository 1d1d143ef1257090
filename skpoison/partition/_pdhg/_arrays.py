"""What the iterations ask of an array library: the same names for NumPy and PyTorch."""

import warnings

import numpy as np


class NumpyArrays:
    """Arrays of the processor's memory.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    """

    # numbers in the arrays of a strip of an image: half of them stay in a core's cache
    strip_size = 2**20

    add = staticmethod(np.add)
    subtract = staticmethod(np.subtract)
    multiply = staticmethod(np.multiply)
    divide = staticmethod(np.divide)
    minimum = staticmethod(np.minimum)
    maximum = staticmethod(np.maximum)
    sqrt = staticmethod(np.sqrt)
    matmul = staticmethod(np.matmul)
    clip = staticmethod(np.clip)

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)

    def zeros(self, shape):
        """Return zeros."""
        return np.zeros(shape, self.dtype)

    def empty(self, shape):
        """Return an array of any values."""
        return np.empty(shape, self.dtype)

    def put(self, array):
        """Return a NumPy array as one of this library's, in the working type."""
        return np.ascontiguousarray(array, dtype=self.dtype)

    def wide(self, array):
        """Return a copy in float64, contiguous."""
        return np.array(array, dtype=np.float64, order="C")

    def get(self, array):
        """Return a NumPy array; it may share memory."""
        return array

    def copy(self, array):
        """Return a copy."""
        return array.copy()

    def clip_below(self, array, low, out):
        """Raise values to at least `low`: np.maximum by a number is slower."""
        np.clip(array, low, np.inf, out=out)

    def least(self, array):
        """Return the least entry of each column."""
        return array.min(axis=0)

    def largest(self, array):
        """Return the largest entry of each column."""
        return array.max(axis=0)

    def sort(self, array):
        """Return the columns in descending order."""
        return -np.sort(-array, axis=0)

    def argmax(self, rows):
        """Return the position of each column's largest entry, the lowest on ties."""
        best = rows[0].copy()
        where = np.zeros(best.shape, np.int64)
        larger = np.empty(best.shape, bool)
        for k in range(1, len(rows)):
            np.greater(rows[k], best, out=larger)
            np.copyto(best, rows[k], where=larger)
            where[larger] = k
        return where

    def sparse(self, matrix, wide=False):
        """Return a matrix for :meth:`apply`, in the working type or float64."""
        return matrix.astype(np.float64 if wide else self.dtype)

    def apply(self, matrix, rows, out=None):
        """Multiply each row by a sparse matrix."""
        if out is None:
            out = np.empty((len(rows), matrix.shape[0]), rows.dtype)
        for row, target in zip(rows, out, strict=True):
            target[...] = matrix @ row
        return out


class TorchArrays:
    """Tensors on a device.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    device : str
        "auto" is CUDA where there is any.
    """

    strip_size = None  # a device is busiest with the whole image at once

    def __init__(self, dtype, device):
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {device!r}: torch sees no CUDA device")
        self.torch = torch
        self.dtype = getattr(torch, dtype)
        self.device = torch.device(device)
        self.add, self.subtract = torch.add, torch.sub
        self.multiply, self.divide = torch.mul, torch.div
        self.minimum, self.maximum = torch.minimum, torch.maximum
        self.sqrt, self.matmul, self.clip = torch.sqrt, torch.matmul, torch.clamp

    def zeros(self, shape):
        """Return zeros."""
        return self.torch.zeros(shape, dtype=self.dtype, device=self.device)

    def empty(self, shape):
        """Return an array of any values."""
        return self.torch.empty(shape, dtype=self.dtype, device=self.device)

    def put(self, array):
        """Return a NumPy array as one of this library's, in the working type."""
        array = np.ascontiguousarray(array)
        return self.torch.from_numpy(array).to(self.device, self.dtype)

    def wide(self, array):
        """Return a copy in float64, contiguous."""
        if isinstance(array, np.ndarray):
            array = self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        wide = array.to(self.torch.float64).contiguous()
        return wide.clone() if wide is array else wide

    def get(self, array):
        """Return a NumPy array; it may share memory."""
        return array.cpu().numpy()

    def copy(self, array):
        """Return a copy."""
        return array.clone()

    def clip_below(self, array, low, out):
        """Raise values to at least `low`."""
        self.torch.clamp(array, min=low, out=out)

    def least(self, array):
        """Return the least entry of each column."""
        return array.amin(dim=0)

    def largest(self, array):
        """Return the largest entry of each column."""
        return array.amax(dim=0)

    def sort(self, array):
        """Return the columns in descending order."""
        return self.torch.sort(array, dim=0, descending=True).values

    def argmax(self, rows):
        """Return the position of each column's largest entry, the lowest on ties."""
        # torch.argmax promises nothing on ties
        largest = rows == rows.amax(dim=0)
        order = self.torch.arange(len(rows), 0, -1, device=self.device)
        where = (largest * order[:, None]).amax(dim=0)
        return (len(rows) - where).cpu().numpy()

    def sparse(self, matrix, wide=False):
        """Return a matrix for :meth:`apply`, in the working type or float64."""
        with warnings.catch_warnings():  # "beta state", once a process
            warnings.filterwarnings("ignore", "Sparse", UserWarning)
            return self.torch.sparse_csr_tensor(
                self.torch.from_numpy(matrix.indptr.astype(np.int64)),
                self.torch.from_numpy(matrix.indices.astype(np.int64)),
                self.torch.from_numpy(matrix.data),
                size=matrix.shape,
                dtype=self.torch.float64 if wide else self.dtype,
                device=self.device,
            )

    def apply(self, matrix, rows, out=None):
        """Multiply each row by a sparse matrix."""
        found = (matrix @ rows.T.contiguous()).T
        return found if out is None else out.copy_(found)


def make_arrays(backend, dtype, device):
    """Return the array library of a backend."""
    if backend == "torch":
        return TorchArrays(dtype, device)
    return NumpyArrays(dtype)
