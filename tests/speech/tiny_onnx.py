"""A network made for tests, written as ONNX by hand (protobuf's wire format, field numbers of ``onnx.proto3``)."""

from __future__ import annotations

import struct


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _value_info(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    tensor = _field(1, _field(1, 1) + _field(2, dims))  # elem_type FLOAT
    return _field(1, name.encode()) + _field(2, tensor)


def mean_of_last_frames(rows: int, columns: int, last: int) -> bytes:
    """``logits`` (1, 1) = sigmoid of the sum of ``input_features`` (1, rows, columns) times 1/n on its last columns."""
    weights = [1.0 / (rows * last) if n % columns >= columns - last else 0.0 for n in range(rows * columns)]
    data = struct.pack(f"<{len(weights)}f", *weights)
    initialiser = _field(1, rows * columns) + _field(1, 1) + _field(2, 1) + _field(8, b"w") + _field(9, data)
    nodes = b"".join(
        _field(1, b"".join(_field(1, i) for i in inputs) + _field(2, output) + _field(4, operator))
        for operator, inputs, output in (
            (b"Flatten", (b"input_features",), b"flat"),
            (b"MatMul", (b"flat", b"w"), b"sum"),
            (b"Sigmoid", (b"sum",), b"logits"),
        )
    )
    graph = (
        nodes
        + _field(2, b"g")
        + _field(5, initialiser)
        + _field(11, _value_info("input_features", (1, rows, columns)))
        + _field(12, _value_info("logits", (1, 1)))
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))
