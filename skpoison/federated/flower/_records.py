"""Between Flower's records and one flat vector; replies are not to be trusted."""

import logging
import numbers

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord

LOG = logging.getLogger("flwr")

#: Where the server says what a reply holds: the new weights or what changed in them.
REPLIES_KEY = "replies"


class Layout:
    """Names, shapes and types of a model's arrays.

    Parameters
    ----------
    record : ArrayRecord

    Attributes
    ----------
    dtype : dtype
        Of the flat vector: the widest floating type among the arrays, at least float32.
    n_weights : int
    """

    def __init__(self, record):
        arrays = {name: array.numpy() for name, array in record.items()}
        for name, array in arrays.items():
            if array.dtype.kind not in "fiub":
                raise TypeError(f"array {name!r} of the model is of type {array.dtype}")
        self.shapes = {name: array.shape for name, array in arrays.items()}
        self.dtypes = {name: array.dtype for name, array in arrays.items()}
        floating = [t for t in self.dtypes.values() if t.kind == "f"]
        self.dtype = np.result_type(np.float32, *floating)
        self.n_weights = sum(array.size for array in arrays.values())

    def flatten(self, record):
        """Return the arrays of a record as one vector.

        Raises
        ------
        ValueError
            Other names or shapes than those of the model.
        """
        if set(record) != set(self.shapes):
            raise ValueError(f"arrays {sorted(record)}, not {sorted(self.shapes)}")
        flat = np.empty(self.n_weights, self.dtype)
        start = 0
        for name, shape in self.shapes.items():
            array = record[name].numpy()
            if array.shape != shape:
                raise ValueError(f"array {name!r} has shape {array.shape}, not {shape}")
            flat[start : start + array.size] = array.ravel()
            start += array.size
        return flat

    def record(self, flat, keep_types=True):
        """Return a vector as named arrays.

        Parameters
        ----------
        flat : ndarray of shape (n_weights,)
        keep_types : bool, default=True
            Round to the model's integer types, as weights must be. Updates of integers
            need not be integers.
        """
        arrays, start = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            part = flat[start : start + size].reshape(shape)
            dtype = self.dtypes[name]
            if keep_types:
                part = part if dtype.kind == "f" else np.rint(part)
                part = part.astype(dtype)
            arrays[name] = Array(np.ascontiguousarray(part).reshape(shape))
            start += size
        return ArrayRecord(arrays)


def only_arrays(content):
    """Return the one ArrayRecord of a message."""
    (record,) = content.array_records.values()
    return record


def client_of(message, key):
    """Return the client's own number in a reply, or the node's where it gives none.

    The node's, too, where the key is None.
    """
    for record in message.content.metric_records.values():
        if isinstance(client := record.get(key), numbers.Integral):
            return int(client)
    return message.metadata.src_node_id


def first_replies(answers, asked, server_round, client_key):
    """Return this round's first reply of each node asked, in the clients' order.

    Parameters
    ----------
    answers : list of Message
    asked : set of int
        Nodes.
    server_round : int
    client_key : str or None
    """
    first = {}
    for message in answers:
        node = message.metadata.src_node_id
        in_turn = message.metadata.group_id == str(server_round)
        if node not in asked or not in_turn:
            LOG.warning("left out a reply of node %d, out of turn", node)
        elif node in first:
            LOG.warning("left out a second reply of node %d", node)
        else:
            first[node] = message
    # the node after the client's number: that one is the client's own word
    order = sorted(
        (client_of(message, client_key), node) for node, message in first.items()
    )
    return [first[node] for _, node in order]


def stack_updates(answers, layout, sent=None):
    """Return updates as rows.

    Parameters
    ----------
    answers : list of Message
    layout : Layout
    sent : ndarray of shape (n_weights,), default=None
        What to take off, where the replies are weights.

    Returns
    -------
    updates : ndarray of shape (n_answers, n_weights)
        NaN where a reply does not fit.
    n_malformed : int
    """
    updates = np.empty((len(answers), layout.n_weights), layout.dtype)
    n_malformed = 0
    for row, message in zip(updates, answers, strict=True):
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                row[:] = layout.flatten(only_arrays(message.content))
                if sent is not None:
                    row -= sent
        except Exception as error:  # its bytes may break anything that reads them
            node = message.metadata.src_node_id
            LOG.warning("malformed reply of node %d: %s", node, error)
            row[:] = np.nan
            n_malformed += 1
    return updates, n_malformed


def median_metrics(contents, weighted_by_key=None):
    """Return the median of each number that most replies report.

    A mean, and more so one weighted by the sample counts that clients report, would be
    in the hands of any one of them.

    Parameters
    ----------
    contents : list of RecordDict
    weighted_by_key : ignored

    Returns
    -------
    metrics : MetricRecord
    """
    values: dict[str, list[float]] = {}
    for content in contents:
        merged = {
            name: value
            for record in content.metric_records.values()
            for name, value in record.items()
            if isinstance(value, numbers.Real)
        }
        for name, value in merged.items():
            values.setdefault(name, []).append(float(value))
    return MetricRecord(
        {
            name: float(np.median(np.nan_to_num(column, nan=np.inf, posinf=np.inf)))
            for name, column in values.items()
            if 2 * len(column) > len(contents)
        }
    )
