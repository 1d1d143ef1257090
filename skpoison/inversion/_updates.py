"""What a client sent, in whatever form it comes: read, checked, written."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import torch

from skpoison.models._sklearn_modules import as_module
from skpoison.utils._files import write_atomically

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SUFFIXES = (".npz", ".safetensors")


def load_update(source, module):
    """Return an update as one tensor a parameter, or say what doesn't fit.

    Parameters
    ----------
    source : list, dict, array, torch.Tensor, str or Path
        Gradients, or weights after training less those before. A list or tuple in the
        order of ``module.parameters()``, a dict by parameter name, one flat vector,
        all of NumPy or torch, or a file of these that ends in ``.npz`` or
        ``.safetensors``. Frozen parameters, whose ``requires_grad`` is False, are left
        out.
    module : torch.nn.Module or fitted classifier
        The model that was trained, see :func:`skpoison.models.as_module`.

    Returns
    -------
    update : dict of str to torch.Tensor
        In the module's order and on its device. Floating types are kept, others become
        those of the parameters.

    Raises
    ------
    ValueError
        Another number or shape than the module's, named by parameter; values that are
        NaN or infinite; zeros only; a file that can't be read.
    TypeError
        None of these forms.
    ImportError
        A ``.safetensors`` file without the package.

    See Also
    --------
    save_update : Writes such a file.

    Notes
    -----
    Files are data and never run code: arrays of Python objects, which need pickle, are
    refused. A ``.npz`` file holds arrays by parameter name, or those that
    ``np.savez(path, *update)`` numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.inversion import load_update
    >>> from torch import nn
    >>> update = load_update(np.arange(8.0), nn.Linear(3, 2))
    >>> {name: tuple(value.shape) for name, value in update.items()}
    {'weight': (2, 3), 'bias': (2,)}
    """
    module = as_module(module)
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError(f"the module has no parameters that are trained: {module!r}")
    if isinstance(source, str | os.PathLike):
        n_weights = sum(p.numel() for p in parameters.values())
        source = _read(Path(source), n_weights)
    if isinstance(source, dict):
        _check_names(source, parameters, module)
        values = [source[name] for name in parameters]
    elif isinstance(source, list | tuple):
        values = _in_order(source, parameters)
    else:
        values = _split(_as_tensor("source", source), parameters)
    update = {
        name: _checked(name, value, parameter)
        for (name, parameter), value in zip(parameters.items(), values, strict=True)
    }
    if not any(value.any() for value in update.values()):
        raise ValueError("the update is zero; nothing can be reconstructed")
    return update


def save_update(path, update):
    """Write an update to a file, whole or not at all.

    Parameters
    ----------
    path : str or Path
        Ends in ``.npz`` or ``.safetensors``.
    update : dict of str to array or torch.Tensor
        By parameter name, such as ``{name: p.grad for name, p in
        module.named_parameters()}``. ``.npz`` stores bfloat16 as float32.

    Raises
    ------
    ValueError, TypeError
        Another ending, or no such dict.
    ImportError
        ``.safetensors`` without the package.

    See Also
    --------
    load_update : Reads it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skpoison.inversion import load_update, save_update
    >>> from torch import nn
    >>> module = nn.Linear(3, 2)
    >>> update = {name: p.detach() for name, p in module.named_parameters()}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_update(Path(folder, "update.npz"), update)
    ...     loaded = load_update(Path(folder, "update.npz"), module)
    >>> bool((loaded["weight"] == module.weight).all())
    True
    """
    path = Path(path)
    _check_suffix(path)
    if not isinstance(update, dict) or not all(isinstance(n, str) for n in update):
        raise TypeError(
            "update must be a dict of arrays by parameter name, got "
            f"{type(update).__name__}"
        )
    # own memory each: views of one flat vector can't be stored apart otherwise
    tensors = {
        name: _as_tensor(f"update[{name!r}]", value)
        .cpu()
        .clone(memory_format=torch.contiguous_format)
        for name, value in update.items()
    }
    if path.suffix == ".safetensors":
        content = _safetensors().save(tensors)
    else:
        buffer = io.BytesIO()
        arrays = {
            n: (t.float() if t.dtype == torch.bfloat16 else t).numpy()
            for n, t in tensors.items()
        }
        # np.savez has parameters of its own, whose names a module may have too
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        content = buffer.getvalue()
    write_atomically(path, content)


def _check_names(source, parameters, module):
    frozen, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    for name in source:
        if name in parameters:
            continue
        if name in frozen or name in buffers:
            kind = "frozen parameter" if name in frozen else "buffer"
            raise ValueError(
                f"the update has {name!r}, a {kind} of the module: drop it"
            )
        raise ValueError(
            f"the update has {name!r}, which is no parameter of the module: those are "
            f"{', '.join(map(repr, parameters))}"
        )
    for name, parameter in parameters.items():
        if name not in source:
            raise ValueError(
                f"the update lacks the parameter {name!r} of shape "
                f"{tuple(parameter.shape)}"
            )


def _in_order(source, parameters):
    """Return the values of a list, after its length and shapes are checked."""
    for (name, parameter), value in zip(parameters.items(), source, strict=False):
        _check_shape(name, value, parameter)
    if len(source) != len(parameters):
        longer = len(source) > len(parameters)
        where = "after" if longer else "from"
        name = list(parameters)[-1 if longer else len(source)]
        raise ValueError(
            f"the update has {len(source)} arrays, but the module has "
            f"{len(parameters)} trained parameters (frozen ones are left out): they "
            f"disagree {where} {name!r}"
        )
    return source


def _check_shape(name, value, parameter):
    if value is None:
        raise ValueError(
            f"the update has None for {name!r}: pass zeros for a parameter that has no "
            "gradient"
        )
    if np.shape(value) != tuple(parameter.shape):
        raise ValueError(
            f"the update has shape {tuple(np.shape(value))} for {name!r}, but the "
            f"parameter has shape {tuple(parameter.shape)}"
        )


def _split(flat, parameters):
    """Return the parts of a flat vector in the shapes of the parameters."""
    sizes = [p.numel() for p in parameters.values()]
    if flat.ndim != 1 or len(flat) != sum(sizes):
        raise ValueError(
            f"a flat update must have shape ({sum(sizes)},), as the module has so many "
            f"trained weights, got {tuple(flat.shape)}"
        )
    parts = flat.split(sizes)
    return [
        part.reshape(p.shape)
        for part, p in zip(parts, parameters.values(), strict=True)
    ]


def _checked(name, value, parameter):
    _check_shape(name, value, parameter)
    value = _as_tensor(f"the update of {name!r}", value).to(parameter.device)
    if value.dtype not in _FLOATS:
        value = value.to(parameter.dtype)
    if not value.isfinite().all():
        raise ValueError(f"the update of {name!r} holds NaN or infinite values")
    return value


def _as_tensor(what, value):
    if isinstance(value, torch.Tensor):
        value = value.detach()
        if value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{what} must hold real numbers, got {value.dtype}")
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"{what} must be an array of real numbers, got {type(value).__name__} of "
            f"dtype {array.dtype}"
        )
    # torch knows neither long doubles nor foreign byte orders, and shares memory
    wide = array.dtype.itemsize > 8
    dtype = np.float64 if wide else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=dtype))


def _check_suffix(path):
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"{path}: update files end in {' or '.join(_SUFFIXES)}; others, such as "
            "those of torch.save, could run code when they are read"
        )


def _read(path, n_weights):
    _check_suffix(path)
    with open(path, "rb") as file:  # where there is none, the error says so
        try:
            if path.suffix == ".npz":
                return _read_npz(file, n_weights)
            return _safetensors().load(file.read())
        except ImportError:
            raise
        except Exception as error:  # whatever hostile bytes make the readers say
            raise ValueError(
                f"{path} can't be read as {path.suffix}: {error}"
            ) from error


def _read_npz(file, n_weights):
    with zipfile.ZipFile(file) as archive:
        n_bytes = sum(entry.file_size for entry in archive.infolist())
    # a small file may unpack to any size
    if n_bytes > 64 * n_weights + 2**20:
        raise ValueError(
            f"it holds {n_bytes:,} bytes, too many for the {n_weights:,} weights of "
            "the module"
        )
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise ValueError(f"{name!r} in it is no array of real numbers")
    numbered = [f"arr_{i}" for i in range(len(arrays))]
    if not arrays or list(arrays) != numbered:
        return arrays
    values = list(arrays.values())
    alone = len(values) == 1 and values[0].shape == (n_weights,)
    return values[0] if alone else values


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "update files that end in .safetensors need the package safetensors: "
            'pip install "skpoison[safetensors]"'
        ) from error
    return safetensors.torch
