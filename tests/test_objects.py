"""`load`, `loads` and `save`, against what torch itself writes and reads."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import zstandard

import headwater as hw
from same import assert_same, bits

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.bool, torch.complex32, torch.complex64, torch.complex128),
]


def of_dtype(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Every bit pattern there is room for."""
    size = dtype.itemsize * int(np.prod(shape))
    high = 2 if dtype == torch.bool else 256
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, high, size, dtype=np.uint8))
    return raw.view(dtype).reshape(shape)


def odd_values() -> dict[str, Any]:
    """One of every kind of thing that ends up in a `.pt`."""
    base = torch.arange(24.0).reshape(4, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # complex32 is experimental, says torch
        dtypes = {str(dtype): of_dtype(dtype, 2, 3) for dtype in DTYPES}
    return {
        **dtypes,
        "transposed": base.t(),
        "sliced": base[1:3, ::2],
        "expanded": torch.tensor([1.0]).expand(3, 4),
        "offset": base.reshape(-1)[5:],
        "shared": [base, base[2:], base.reshape(-1)],
        "0-d": torch.tensor(3.5),
        "empty": torch.empty(0),
        "empty in one dimension": torch.empty(3, 0, 2),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "frozen parameter": torch.nn.Parameter(torch.ones(3), requires_grad=False),
        "state_dict": torch.nn.Linear(3, 2).state_dict(),
        "ordered": OrderedDict([("b", 1), ("a", torch.ones(1))]),
        "nested": {"a": [1, (2, {"b": [torch.zeros(2), None]})]},
        "huge integers": [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**50, -(10**50)],
        "an integer of 2,100 bits": 2**2100,
        "integers": [0, 1, -1, 255, 256, -128, -129, 65535, 65536, 2**31 - 1, -(2**31), 2**31, 2**40],
        "floats": [0.0, -0.0, 1e-310, float("inf"), float("-inf")],
        "complex": 1.5 - 2j,
        "bytes": [b"", b"\x00\xff abc"],
        "bytes with shared text": [b"abc", "abc"],
        "strings": ["", "ascii", "日本語", "a" * 300, "\x00"],
        "booleans and none": [True, False, None],
        "set": {1, 2, 3},
        "frozen": frozenset([1]),
        "empty containers": [{}, [], (), set()],
        "size": torch.Size([2, 3]),
        "dtype": [torch.float32, torch.bfloat16],
        "device": torch.device("cpu"),
        "odd keys": {1: "int", (1, 2): "tuple", None: "none", 2.5: "float", "1": "text"},
        "twice the same": [base, base],
        "long list": list(range(3000)),
        "many tensors": [torch.full((2,), float(n)) for n in range(50)],
    }


VALUES = odd_values()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", VALUES)
def test_reads_what_torch_saves(name: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(VALUES[name], path, pickle_protocol=protocol)
    ours, theirs = hw.load(path), torch.load(path, weights_only=False)
    if name == "frozen":
        ours = frozenset(ours)
    assert_same(ours, theirs)


# The dtypes that came after torch's old format, so that torch does not save them in it.
YOUNG = {
    str(dtype)
    for dtype in DTYPES
    if "float8" in str(dtype) or dtype in (torch.uint16, torch.uint32, torch.uint64, torch.complex32)
}


@pytest.mark.parametrize("name", [name for name in VALUES if name not in YOUNG])
def test_reads_the_format_before_zip(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(VALUES[name], path, _use_new_zipfile_serialization=False)
    ours = hw.load(path)
    assert_same(frozenset(ours) if name == "frozen" else ours, torch.load(path, weights_only=False))


# An integer of over 255 bytes takes an opcode that torch itself does not read with weights_only.
@pytest.mark.parametrize("name", [name for name in VALUES if name != "an integer of 2,100 bits"])
def test_torch_reads_what_save_writes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    hw.save(VALUES[name], path)
    theirs = torch.load(path, weights_only=True)
    expected = set(VALUES[name]) if name == "frozen" else VALUES[name]
    assert_same(contiguous(theirs), contiguous(expected))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def contiguous(value: Any) -> Any:
    """Saving makes tensors contiguous."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, OrderedDict):
        return OrderedDict((key, contiguous(item)) for key, item in value.items())
    if type(value) is dict:
        return {key: contiguous(item) for key, item in value.items()}
    return [contiguous(item) for item in value] if type(value) is list else value


def test_shared_storage_stays_shared(tmp_path: Path) -> None:
    torch.save(VALUES["shared"], tmp_path / "x.pt")
    whole, part, flat = hw.load(tmp_path / "x.pt")
    flat[12] = 99.0
    assert whole[2, 0] == part[0, 0] == 99.0


def test_tensors_are_writable_and_nobody_elses(tmp_path: Path) -> None:
    torch.save(torch.zeros(10_000), tmp_path / "x.pt")
    first = hw.load(tmp_path / "x.pt")
    first.fill_(7)
    second = hw.load(tmp_path / "x.pt")
    assert second.eq(0).all()
    assert first.eq(7).all()


def test_tensors_outlive_everything_else(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(1000), "b": torch.arange(1000)}, tmp_path / "x.pt")
    kept = [hw.load(tmp_path / "x.pt")["a"] for _ in range(50)]
    assert all(torch.equal(tensor, torch.arange(1000)) for tensor in kept)


def test_reads_archives_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(VALUES["nested"], tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(hw.load(tmp_path / "x.pt"), VALUES["nested"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_the_other_byte_order(dtype: torch.dtype) -> None:
    tensor = of_dtype(dtype, 4, 2)
    plain = io.BytesIO()
    torch.save(tensor, plain)
    unit = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    turned = bytes(tensor.contiguous().view(torch.uint8).reshape(-1, unit).flip(1).reshape(-1).tolist())
    assert_same(hw.loads(rewritten(plain.getvalue(), {"archive/data/0": turned, "archive/byteorder": b"big"})), tensor)


def rewritten(archive: bytes, entries: dict[str, bytes]) -> bytes:
    """The zip with some of its entries replaced."""
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, entries.get(info.filename, old.read(info)))
    return out.getvalue()


@pytest.mark.parametrize("how", ["with its size", "without its size", "in two frames"])
def test_reads_zstd(how: str, tmp_path: Path) -> None:
    plain = io.BytesIO()
    torch.save(VALUES["nested"], plain)
    data = plain.getvalue()
    if how == "in two frames":
        packed = zstandard.compress(data[:100]) + zstandard.compress(data[100:])
    else:
        packed = zstandard.ZstdCompressor(write_content_size=how == "with its size").compress(data)
    (tmp_path / "x.pt.zst").write_bytes(packed)
    assert_same(hw.load(tmp_path / "x.pt.zst"), VALUES["nested"])


def test_reads_safetensors_and_npy(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.empty(0, 3)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"by": "test"})
    assert_same(dict(sorted(hw.load(tmp_path / "x.safetensors").items())), tensors)
    for number, array in enumerate(
        [np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.random.rand(3, 4)), np.array(2 + 3j), np.array([True])]
    ):
        path = tmp_path / f"{number}.npy"
        np.save(path, array)
        np.testing.assert_array_equal(hw.load(path, framework="numpy"), array)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != torch.complex32])
def test_numpy_arrays_hold_the_same_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = of_dtype(dtype, 4, 6)
    torch.save([tensor, tensor.t(), tensor[1:3, ::2], tensor[:0]], tmp_path / "x.pt")
    for array, expected in zip(
        hw.load(tmp_path / "x.pt", framework="numpy"), [tensor, tensor.t(), tensor[1:3, ::2], tensor[:0]], strict=True
    ):
        assert array.dtype.name == str(dtype).removeprefix("torch.")
        assert array.shape == tuple(expected.shape)
        assert array.tobytes() == bytes(expected.contiguous().view(torch.uint8).reshape(-1).tolist())
    array[...] = 0  # writable


def test_saves_numpy_arrays(tmp_path: Path) -> None:
    hw.save({"a": np.arange(6, dtype=">i2").reshape(2, 3), "b": np.float32(2.5)}, tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert_same(loaded, {"a": torch.arange(6, dtype=torch.int16).reshape(2, 3), "b": torch.tensor(2.5)})


def test_works_without_torch(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "s": torch.Size([1])}, tmp_path / "x.pt")
    code = f"""
import sys
sys.modules["torch"] = None
import importlib.util as util
find = util.find_spec
util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
import headwater as hw
value = hw.load({str(tmp_path / "x.pt")!r})
assert type(value["a"]).__module__ == "numpy" and value["a"].tolist() == [[0, 1, 2], [3, 4, 5]], value
assert value["s"] == (1,)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class Payload:
    """What an attacker pickles."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_marked_signs_are_turned_round(tmp_path: Path) -> None:
    x = torch.tensor([1 + 2j, -3.5 + 0j, complex(0.0, float("inf"))])
    half = x.to(torch.complex32)
    values = {
        "conj": x.conj(),
        "neg": x.clone().conj().imag,
        "both": torch._neg_view(x.clone().conj()),
        "transposed": x.reshape(3, 1).expand(3, 2).contiguous().t().conj(),
        "half": half.conj(),
        "expanded": x[:1].conj().expand(5),
    }
    assert values["conj"].is_conj()
    assert values["neg"].is_neg()
    torch.save(values, tmp_path / "x.pt")
    ours, theirs = hw.load(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", weights_only=True)
    for name in values:
        resolved = theirs[name].resolve_conj().resolve_neg()
        assert bits(ours[name]) == bits(resolved), name
        assert ours[name].stride() == theirs[name].stride(), name


def text(value: bytes) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value


def zipped(pickle: bytes, storage: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickle)
        archive.writestr("a/data/0", storage)
    return buffer.getvalue()


LONG_TEXT = b"\x80\x02" + text(b"a" * 200_000) + b"q\0" + text(b"latin1") + b"q\1"
STORAGE = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\0tQ"
MEMOISED = b"\x80\x02(" + b"K\1" * 100_000 + b"tq\0" + b"0"
BOMBS = {
    "sizes": MEMOISED + b"](" + b"ctorch\nSize\nh\0\x85R" * 3000 + b"e.",
    "sets": MEMOISED + b"](" + b"cbuiltins\nset\nh\0\x85R" * 3000 + b"e.",
    "shapes": MEMOISED + b"](" + (b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0h\0h\0\x89NtR") * 1000 + b"e.",
    "encoded": LONG_TEXT + b"](" + b"c_codecs\nencode\nh\0h\1\x86R" * 3000 + b"e.",
    "devices": LONG_TEXT + b"](" + b"ctorch\ndevice\nh\0\x85R" * 6000 + b"e.",
    "device": b"\x80\x02ctorch\ndevice\n" + text(b"a" * 200_000) + b"\x85Rq\0](" + b"h\0" * 6000 + b"e.",
    "bytes": b"\x80\x03B" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"q\0](" + b"h\0" * 3000 + b"e.",
}


def loaded_within_a_gigabyte(path: Path) -> str:
    """Loads in a process of little memory; gives the error, or nothing."""
    code = """
import resource, sys
import headwater as hw
limit = 1 << 30
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    hw.load(sys.argv[1], framework="numpy")
except hw.UnsupportedError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_repeated_without_end_costs_little_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / "bomb.pt").write_bytes(zipped(BOMBS[name]))
    assert "bomb.pt" in loaded_within_a_gigabyte(tmp_path / "bomb.pt")


def test_one_storage_is_turned_round_once(tmp_path: Path) -> None:
    million = b"J" + (1 << 17).to_bytes(4, "little")
    storage = b"(" + text(b"storage") + b"ctorch\nComplexFloatStorage\n" + text(b"0") + text(b"cpu") + million + b"tQ"
    conjugate = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + million + b"\x85K\1\x85\x89N}" + text(b"conj") + b"\x88stR"
    )
    (tmp_path / "x.pt").write_bytes(zipped(b"\x80\x02" + conjugate + b"q\0](" + b"h\0" * 3000 + b"e.", bytes(1 << 20)))
    assert not loaded_within_a_gigabyte(tmp_path / "x.pt")


@pytest.mark.slow
def test_long_lists_and_many_tensors_are_no_bombs(tmp_path: Path) -> None:
    for values in (list(range(1_500_000)), ["word"] * 1_500_000):
        for save in (torch.save, hw.save):
            save(values, tmp_path / "values.pt")
            assert hw.load(tmp_path / "values.pt") == values
    tensors = [torch.tensor(number) for number in range(66_000)]
    hw.save(tensors, tmp_path / "tensors.pt")
    for again in (hw.load(tmp_path / "tensors.pt"), torch.load(tmp_path / "tensors.pt", weights_only=True)):
        assert [int(tensor) for tensor in again] == list(range(66_000))


def test_what_nests_too_deep_is_refused_by_both_sides(tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(63):
        value = [value]
    hw.save(value, tmp_path / "x.pt")
    assert hw.load(tmp_path / "x.pt") == value
    with pytest.raises(TypeError, match="nest too deep"):
        hw.save([value], tmp_path / "y.pt")
    torch.save([value], tmp_path / "y.pt")
    with pytest.raises(hw.UnsupportedError, match="nest too deep"):
        hw.load(tmp_path / "y.pt")


def test_finds_the_compressed_file_where_there_is_no_plain_one(tmp_path: Path) -> None:
    torch.save([1], tmp_path / "x.pt")
    (tmp_path / "x.pt.zst").write_bytes(zstandard.compress((tmp_path / "x.pt").read_bytes()))
    torch.save([2], tmp_path / "x.pt")
    assert hw.load(tmp_path / "x.pt") == [2]
    (tmp_path / "x.pt").unlink()
    assert hw.load(tmp_path / "x.pt") == [1]
    with pytest.raises(hw.NotFoundError, match=r"y\.pt`"):
        hw.load(tmp_path / "y.pt")


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pt")
    with pytest.raises(hw.NotFoundError, match="no regular file"):
        hw.load(tmp_path / "x.pt")


def test_reads_npy_headers_as_others_write_them(tmp_path: Path) -> None:
    header = b'{"descr" : "<f4", "fortran_order":False , "shape": (2 ,), }'.ljust(117) + b"\n"
    magic = b"\x93NUMPY\x01\x00"
    (tmp_path / "x.npy").write_bytes(magic + len(header).to_bytes(2, "little") + header + np.float32([1, 2]).tobytes())
    assert hw.load(tmp_path / "x.npy").tolist() == [1.0, 2.0]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_payload_is_named_and_not_run(zipped: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": Payload(tmp_path / "owned")}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(hw.UnsupportedError, match=r"x\.pt`.*`posix\.system`.*nothing was executed"):
        hw.load(tmp_path / "x.pt")
    assert not (tmp_path / "owned").exists()


class Custom:
    """A class of the user's own."""


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (torch.eye(3).to_sparse(), "_rebuild_sparse_tensor"),
        (np.ones(3), "numpy"),
        (Custom(), "test_objects.Custom"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_what_is_not_supported_is_named(value: Any, named: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(hw.UnsupportedError, match=named):
        hw.load(tmp_path / "x.pt")


def test_a_thousand_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    torch.save(VALUES["nested"] | {"data": torch.randn(100)}, path)
    whole = path.read_bytes()
    expected = hw.load(path)
    random = np.random.default_rng(0)
    refused = 0
    for number in range(2000):
        if number % 2:
            damaged = whole[: random.integers(len(whole))]
        else:
            at = int(random.integers(len(whole)))
            damaged = whole[:at] + bytes([whole[at] ^ (1 << int(random.integers(8)))]) + whole[at + 1 :]
        try:
            value = hw.loads(damaged, "damaged.pt")
        except hw.HeadwaterError as error:
            refused += "damaged.pt" in str(error)
        else:
            # Damage where nothing is read: padding, dates, attributes.
            assert_same(value, expected)
    assert refused >= 1000


@pytest.mark.parametrize(
    ("value", "error"),
    [(object(), "cannot save a `object`"), (torch.eye(2).to_sparse(), "layout"), ({"a": [Custom()]}, "Custom")],
)
def test_what_cannot_be_saved_leaves_no_file(value: Any, error: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=error):
        hw.save(value, tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_a_value_that_contains_itself_is_refused(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="contain themselves"):
        hw.save(loop, tmp_path / "x.pt")
    torch.save(loop, tmp_path / "x.pt")
    with pytest.raises(hw.UnsupportedError, match="contain themselves"):
        hw.load(tmp_path / "x.pt")


@pytest.mark.slow
def test_ten_thousand_loads_keep_no_memory(tmp_path: Path) -> None:
    import resource

    torch.save({"a": torch.randn(16, 1, 32, 32), "b": torch.randn(8, 1024)}, tmp_path / "x.pt")
    for _ in range(1000):
        hw.load(tmp_path / "x.pt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10_000):
        hw.load(tmp_path / "x.pt")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 4096, f"grew by {grown} KiB"
