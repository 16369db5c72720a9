"""Writes `crates/core/tests/data/pt`: files that torch wrote, each with what `torch.load` makes of it as text.

They are only ever added to: `python tests/make_golden_pt.py` leaves those that exist alone.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent.parent / "crates/core/tests/data/pt"


def render(value: Any) -> str:
    """One line that says everything about a value; the Rust test writes the same of what it decoded."""
    if isinstance(value, torch.Tensor):
        plain = value.detach().contiguous().reshape(-1).view(torch.uint8).tolist() if value.numel() else []
        name = str(value.dtype).removeprefix("torch.")
        return f"{name} {list(value.shape)} {list(value.stride()) if plain else '-'} {bytes(plain).hex()}"
    if isinstance(value, torch.Size):
        return f"Size{list(value)}"
    if isinstance(value, dict):
        name = "OrderedDict" if isinstance(value, OrderedDict) else "dict"
        return f"{name}{{{', '.join(f'{render(key)}: {render(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple | set | frozenset):
        name = {list: "list", tuple: "tuple"}.get(type(value), "set")
        return f"{name}[{', '.join(map(render, value))}]"
    if isinstance(value, float):
        return f"float {struct.pack('>d', value).hex()}"
    if isinstance(value, complex):
        return f"complex {struct.pack('>d', value.real).hex()} {struct.pack('>d', value.imag).hex()}"
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return (
            f"int {value}"
            if -(2**63) <= value < 2**63
            else f"int {value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True).hex()}"
        )
    if isinstance(value, str):
        return f"str {value.encode().hex()}"
    if isinstance(value, bytes | bytearray):
        return f"bytes {bytes(value).hex()}"
    return str(value)


def values() -> dict[str, Any]:
    """What is written; names are file names."""
    base = torch.arange(12.0).reshape(3, 4)
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    dtypes += [torch.uint8, torch.bool, torch.complex64, torch.complex128]
    young = [torch.uint64, torch.uint32, torch.uint16, torch.complex32, torch.float8_e4m3fn, torch.float8_e4m3fnuz]
    young += [torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]
    return {
        "dtypes": {str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in dtypes},
        "young_dtypes": {str(dtype): torch.arange(2 * dtype.itemsize, dtype=torch.uint8).view(dtype) for dtype in young},
        "strided": [base.t(), base[1:, ::2], base[:1].expand(3, 4), base.reshape(-1)[5:]],
        "shared": [base, base[1:], base],
        "shapes": [torch.tensor(2.5), torch.empty(0), torch.empty(2, 0, 3), torch.ones(1, 1, 1)],
        "parameters": [torch.nn.Parameter(base), torch.nn.Parameter(base, requires_grad=False)],
        "state_dict": torch.nn.Linear(2, 1, bias=False).state_dict().__class__([("weight", base)]),
        "nested": {"a": [1, (2, {"b": [base[0], None]})], "c": OrderedDict(z=1, y={})},
        "integers": [0, -1, 255, 256, -129, 65536, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**40],
        "floats": [0.0, -0.0, 1.5, float("inf"), float("nan"), 5e-324],
        "scalars": [True, False, None, 1 + 2j, "", "日本", b"", b"\x00\xff", bytearray(b"x"), {7}],
        "torch_objects": [torch.Size([1, 2]), torch.float32, torch.bfloat16, torch.device("cpu")],
        "keys": {1: "int", None: "none", (1, "a"): "tuple", 2.5: "float"},
    }


def main() -> None:
    """Writes what is missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, value in values().items():
        for how, options in {
            "p2": {},
            "p5": {"pickle_protocol": 5},
            "legacy": {"_use_new_zipfile_serialization": False},
        }.items():
            path = FOLDER / f"{name}.{how}.pt"
            if path.exists() or (how, name) == ("legacy", "young_dtypes"):
                continue
            torch.save(value, path, **options)
            path.with_suffix(".txt").write_text(render(torch.load(path, weights_only=False)) + "\n")


if __name__ == "__main__":
    main()
