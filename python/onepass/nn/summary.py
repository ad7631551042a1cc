"""A model as a table."""

from __future__ import annotations

import math

from onepass.nn.layer import Layer

__all__ = ["table"]


def _rows(
    name: str, layer: Layer, shape: tuple[int, ...], itemsize: int, depth: int
) -> list[tuple[str, str, str, str]]:
    label = f"{'  ' * depth}{name}: " if name else ""
    children = layer.children()
    text = type(layer).__name__ if children else repr(layer)
    count = sum(parameter.size for parameter in layer.parameters())
    output = layer.output_shape(shape)
    size = itemsize * math.prod(output)
    rows = [(f"{label}{text}", str(("N", *output)).replace("'", ""), f"{size:,}", f"{count:,}")]
    sequence = all(key.isdecimal() for key, _ in children)  # one after another, otherwise beside each other
    for key, child in children:
        rows += _rows(key, child, shape, itemsize, depth + 1)
        if sequence:
            shape = child.output_shape(shape)
    return rows


def table(model: Layer, input_shape: tuple[int, ...]) -> str:
    """What `Layer.summary` returns.

    >>> from onepass import nn
    >>> print(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).summary((4,)))
    layer              output  bytes a row  parameters
    Sequential         (N, 3)           12          67
      0: Linear(4, 8)  (N, 8)           32          40
      1: ReLU()        (N, 8)           32           0
      2: Linear(8, 3)  (N, 3)           12          27
    67 parameters, 268 bytes of state
    """
    itemsize = max((parameter.dtype.itemsize for parameter in model.parameters()), default=4)
    rows = [("layer", "output", "bytes a row", "parameters"), *_rows("", model, input_shape, itemsize, 0)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
    size = sum(array.nbytes for array in model.state().values())
    return "\n".join([*lines, f"{rows[1][3]} parameters, {size:,} bytes of state"])
