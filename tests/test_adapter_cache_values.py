"""What the cache of the older loader takes and gives: equal, to the bit, and the caller's own."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from headwater.adapter import SmartLRUCache
from latents import latents
from same import assert_same

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fnuz,
    torch.float8_e5m2, torch.float8_e5m2fnuz, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16,
    torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128, torch.complex32,
]  # fmt: skip


def both(cache: SmartLRUCache, key: str, value: Any, compress: bool = True) -> Any:
    """Puts a value in and gets it, in a coroutine; and checks that the blocking form says the same."""

    async def work() -> Any:
        assert await cache.put(key, value, compress=compress)
        return await cache.get(key)

    found = asyncio.run(work())
    assert_same(cache.get_sync(key), found)
    return found


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_value_comes_back_as_it_was(compression: Any, compress: bool) -> None:
    cache = SmartLRUCache(0.1, compression_type=compression)
    value = {
        "latents": latents(),
        "embeds": {"prompt": torch.zeros(256, 4096).bfloat16(), "mask": torch.ones(256, dtype=torch.bool)},
        "list": [1, -(2**80), 2.5, float("inf"), "ä", b"bytes", None, True, 1 + 2j],
        "tuple": (torch.arange(3), ()),
        3: OrderedDict(a=1),
        "size": torch.Size([1, 2]),
        "dtype": torch.bfloat16,
    }
    assert_same(both(cache, "k", value, compress), value)


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_dtype_come_back_bit_for_bit(dtype: torch.dtype, compression: Any) -> None:
    cache = SmartLRUCache(0.1, compression_type=compression)
    bits = torch.randint(0, 256, (64, 40, dtype.itemsize), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    bits[:, :, 0] &= 1
    value = bits.view(torch.bool).view(64, 40) if dtype == torch.bool else bits.view(dtype).view(64, 40)
    assert_same(both(cache, "k", [value, value[0, 0], value[:0]]), [value, value[0, 0], value[:0]])


def test_strides_of_dense_tensors_and_zero_sizes_come_back() -> None:
    cache = SmartLRUCache(0.2)
    base = latents(shape=(6, 5, 320, 4))
    dense = [
        base.permute(3, 1, 0, 2), base.transpose(0, 1), base.to(memory_format=torch.channels_last), base[2:4], base[1],
        torch.zeros(0), torch.zeros(3, 0, 5), torch.tensor(7), torch.ones(1).expand(4, 1000), base.permute(1, 0, 2, 3)[:, :0],
    ]  # fmt: skip
    for tensor in dense:
        found = both(cache, "k", tensor)
        assert_same(found, tensor)
        assert found.stride() == tensor.stride()


def test_tensors_that_skip_memory_come_back_equal_and_contiguous() -> None:
    cache = SmartLRUCache(0.2)
    base = latents(shape=(64, 64, 64))
    for tensor in (base[:, ::2], base[::3, 1], base[5:, :, 7]):
        found = both(cache, "k", tensor)
        assert torch.equal(found, tensor)
        assert found.is_contiguous()
        assert cache.get_cache_stats()["current_size_gb"] * 1e9 < 2 * tensor.nbytes + 20_000, "what is skipped is not kept"


def test_views_that_torch_resolves_lazily_and_tensors_that_need_gradients_are_kept_as_numbers() -> None:
    cache = SmartLRUCache(0.1)
    number = torch.tensor([1 + 2j, 3 - 4j])
    parameter = torch.nn.Parameter(torch.arange(4.0))
    found = both(cache, "k", [number.conj(), number.imag, number.conj().imag, parameter])
    for ours, theirs in zip(found, [number.conj(), number.imag, number.conj().imag, parameter], strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad


def test_no_two_callers_share_memory_with_each_other_or_the_cache() -> None:
    for compression in ("zstd", "none"):
        cache = SmartLRUCache(0.1, compression_type=compression)
        mine = latents(shape=(16, 16))
        cache.put_sync("k", {"x": mine, "y": [mine]})
        mine.zero_()
        first = cache.get_sync("k")
        assert torch.equal(first["x"], latents(shape=(16, 16)))
        first["x"].fill_(9)
        first["y"].append("more")
        second = asyncio.run(cache.get("k"))
        assert torch.equal(second["x"], latents(shape=(16, 16)))
        assert torch.equal(second["y"][0], latents(shape=(16, 16)))
        assert len(second["y"]) == 1


def test_values_outlive_the_cache() -> None:
    cache = SmartLRUCache(0.1)
    cache.put_sync("k", latents())
    found = cache.get_sync("k")
    cache.clear()
    del cache
    assert torch.equal(found, latents())


class Thing:
    pass


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Thing(), "cannot keep a `Thing`"),
        ({"a": [1, Thing()]}, "cannot keep a `Thing`"),
        ({"a": lambda: None}, "cannot keep a `function`"),
        (cyclic(), "nest too deep"),
        (None, "cannot keep `None`"),
        (torch.eye(3).to_sparse(), "layout torch.sparse_coo"),
        (torch.zeros(3, device="meta"), "on meta: move it to the CPU first"),
        ({"x": np.zeros(3)}, "cannot keep a `ndarray` of numpy"),
    ],
    ids=["object", "nested", "function", "cyclic", "none", "sparse", "meta", "numpy"],
)
def test_what_is_not_kept_is_a_type_error_and_changes_nothing(value: Any, words: str) -> None:
    cache = SmartLRUCache(0.1)
    cache.put_sync("k", {"before": 1})
    before = cache.get_cache_stats()
    with pytest.raises(TypeError, match=words):
        asyncio.run(cache.put("k", value))
    with pytest.raises(TypeError, match=words):
        cache.put_sync("k", value)
    assert cache.get_cache_stats() == before
    assert cache.get_sync("k") == {"before": 1}


def test_a_cache_of_numpy_keeps_arrays() -> None:
    cache = SmartLRUCache(0.1, framework="numpy")
    arrays = [
        np.arange(12.0).reshape(3, 4).T,
        np.zeros((0, 3), np.int16),
        np.arange(9)[::-1],
        np.arange(4, dtype=">i4"),
        np.float32(3),
    ]
    cache.put_sync("k", arrays)
    found = cache.get_sync("k")
    for ours, theirs in zip(found, arrays, strict=True):
        assert np.array_equal(ours, theirs)
    with pytest.raises(TypeError, match="cannot keep a `Tensor` of torch"):
        cache.put_sync("k", torch.zeros(3))
    with pytest.raises(TypeError, match="cannot keep an array of object"):
        cache.put_sync("k", np.array([Thing()]))


def test_keys_are_strings_of_any_kind() -> None:
    cache = SmartLRUCache(0.1)
    keys = ["", "a/b/ü.pt", "x" * 10_000, "\0", "s3://bucket/key?x=1"]
    for number, key in enumerate(keys):
        cache.put_sync(key, number)
    assert [cache.get_sync(key) for key in keys] == list(range(len(keys)))
    with pytest.raises(TypeError):
        cache.put_sync(3, 1)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_kept_as_the_numbers_that_they_are() -> None:
    cache = SmartLRUCache(0.1)
    value = {
        "fps": np.float64(24.0),
        "scale": np.float32(0.1),
        "frames": np.int64(5),
        "keep": np.bool_(True),
        "name": np.str_("a"),
    }
    found = both(cache, "k", value)
    assert found == value
    assert {type(one) for one in found.values()} == {float, int, bool, str}
    with pytest.raises(TypeError, match="cannot keep a `datetime`"):
        cache.put_sync("k", np.datetime64("2026-01-01T00:00:00", "s"))
