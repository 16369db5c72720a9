"""Credentials from a user's function: asked for when needed, again when refused, in forked and spawned workers too."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import headwater as hw
from servers import testkit

SAMPLES = 4
ASKED: list[float] = []
# Longer than anything here takes.
LONG = 60.0


def keys() -> dict[str, Any]:
    ASKED.append(time.monotonic())
    return {"access_key_id": "a", "secret_access_key": "hunter2", "expires_at": datetime.now(UTC) + timedelta(hours=1)}


def sealed() -> dict[str, Any]:
    raise PermissionError("the vault is sealed")


def raising() -> dict[str, Any]:
    raise LookupError("the vault is being moved")


def leaving() -> dict[str, Any]:
    raise SystemExit(3)


def no_dict() -> Any:
    return "token"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[testkit.Testkit]:
    folder = tmp_path / "data" / "x"
    folder.mkdir(parents=True)
    for sample in range(SAMPLES):
        torch.save({"value": torch.full((3,), float(sample))}, folder / f"{sample}.pt")
    with testkit.serving(tmp_path / "data") as server:
        ASKED.clear()
        yield server


def opened(server: testkit.Testkit, credentials: Any, **options: str) -> hw.StreamingDataset:
    source = hw.Source(f"s3://{server.bucket}/x", endpoint=server.endpoint, region="test", credentials=credentials, **options)
    return hw.StreamingDataset({"x": source})


def test_a_function_is_asked_once_while_its_answer_holds(server: testkit.Testkit) -> None:
    dataset = opened(server, keys)
    assert [float(dataset[index]["x"]["value"][0]) for index in range(SAMPLES)] == [0.0, 1.0, 2.0, 3.0]
    assert len(ASKED) == 1


def test_a_function_is_asked_again_when_what_it_gave_is_refused_as_expired(server: testkit.Testkit) -> None:
    dataset = opened(server, keys)
    server.fault("expired,times=1")
    assert float(dataset[1]["x"]["value"][0]) == 1.0
    assert len(ASKED) == 2


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_ask_by_themselves(server: testkit.Testkit, method: str) -> None:
    loader = DataLoader(opened(server, keys), batch_size=2, num_workers=1, multiprocessing_context=method)
    assert [batch["x"]["value"][:, 0].tolist() for batch in loader] == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("function", "words"),
    [(sealed, "PermissionError: the vault is sealed"), (no_dict, "it must return a dict"), (dict, "there are no credentials")],
)
def test_a_function_that_gives_none_is_an_error_in_words(server: testkit.Testkit, function: Any, words: str) -> None:
    with pytest.raises(hw.AccessDeniedError, match=words) as error:
        opened(server, function)
    assert "the function in the source's options" in str(error.value)


@pytest.mark.parametrize(
    ("function", "words"), [(raising, "LookupError: the vault is being moved"), (leaving, "SystemExit: 3")]
)
def test_a_function_that_goes_on_raising_is_an_error_that_may_pass(server: testkit.Testkit, function: Any, words: str) -> None:
    with pytest.raises(hw.UnavailableError, match=words) as error:
        opened(server, function)
    assert "the function in the source's options" in str(error.value)


@pytest.mark.parametrize("kind", ["s3", "hf"])
def test_a_function_that_raises_once_is_asked_again(server: testkit.Testkit, kind: str) -> None:
    def once() -> dict[str, Any]:
        given = {**keys(), "token": server.token}
        if len(ASKED) == 1:
            raise ConnectionError("the vault did not answer")
        return given if kind == "s3" else {"token": given["token"]}

    source = hw.Source(server.uri(kind, "x"), **server.options(kind), credentials=once)
    assert float(hw.StreamingDataset({"x": source})[1]["x"]["value"][0]) == 1.0
    assert len(ASKED) == 2


def test_many_reads_whose_token_is_refused_ask_for_one_together(server: testkit.Testkit) -> None:
    given = iter(["first", "second"])
    source = hw.Source(server.uri("gs", "x"), **server.options("gs"), credentials=lambda: {"token": next(given)})
    dataset = hw.StreamingDataset({"x": source})
    server.expect("second")
    assert [float(sample["x"]["value"][0]) for sample in dataset[list(range(SAMPLES))]] == [0.0, 1.0, 2.0, 3.0]


def test_a_slow_function_holds_up_no_other(server: testkit.Testkit) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        began.set()
        assert goes_on.wait(LONG)
        return keys()

    opening = threading.Thread(target=lambda: opened(server, slow), daemon=True)
    opening.start()
    assert began.wait(LONG)
    assert len(opened(server, keys)) == SAMPLES
    loader = DataLoader(opened(server, keys), batch_size=2, num_workers=1, multiprocessing_context="fork")
    assert [batch["x"]["value"][:, 0].tolist() for batch in loader] == [[0.0, 1.0], [2.0, 3.0]]
    goes_on.set()
    opening.join(LONG)
    assert not opening.is_alive()


def test_so_many_functions_run_at_once_and_the_others_wait(server: testkit.Testkit) -> None:
    most, lock, goes_on = 8, threading.Lock(), threading.Event()
    running, full = [0, 0], threading.Event()

    def slow() -> dict[str, Any]:
        with lock:
            running[:] = running[0] + 1, max(running[0] + 1, running[1])
            if running[0] == most:
                full.set()
        assert goes_on.wait(LONG)
        with lock:
            running[0] -= 1
        return keys()

    # Each its own function, though they do the same.
    openings = [threading.Thread(target=opened, args=(server, partial(slow)), daemon=True) for _ in range(most + 3)]
    for opening in openings:
        opening.start()
    assert full.wait(LONG)
    goes_on.set()
    for opening in openings:
        opening.join(LONG)
    assert not any(opening.is_alive() for opening in openings)
    assert running == [0, most]
    assert len(ASKED) == most + 3


def test_a_process_ends_though_a_function_does_not_return(server: testkit.Testkit) -> None:
    code = f"""
import threading, headwater
def stuck():
    threading.Event().wait()
source = headwater.Source("s3://{server.bucket}/x", endpoint="{server.endpoint}", region="test", credentials=stuck)
try:
    headwater.StreamingDataset({{"x": source}}, framework="numpy", fetch=headwater.FetchConfig(deadline="300ms"))
except headwater.HeadwaterError:
    print("ends")
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=LONG)
    assert (ended.stdout, ended.returncode, ended.stderr) == ("ends\n", 0, "")


def test_a_function_that_does_not_return_is_named_within_the_deadline(server: testkit.Testkit) -> None:
    goes_on = threading.Event()

    def stuck() -> dict[str, Any]:
        assert goes_on.wait(LONG)
        return keys()

    source = hw.Source(f"s3://{server.bucket}/x", endpoint=server.endpoint, region="test", credentials=stuck)
    errors = (hw.DeadlineError, hw.UnavailableError)
    with pytest.raises(errors, match=r"the function did not return within 0\.3 s"):
        hw.StreamingDataset({"x": source}, fetch=hw.FetchConfig(deadline="600ms"))
    goes_on.set()


def held(functions: list[weakref.ref[Any]]) -> int:
    """How many of them are still there."""
    gc.collect()
    return sum(function() is not None for function in functions)


def own_keys() -> Callable[[], dict[str, Any]]:
    def own() -> dict[str, Any]:
        return keys()

    return own


def test_functions_are_let_go_with_what_uses_them(server: testkit.Testkit) -> None:
    functions = []
    for _ in range(3):
        function = own_keys()
        functions.append(weakref.ref(function))
        dataset = opened(server, function)
        del function
        assert held(functions) == 1
    copied = copy.copy(dataset)
    del dataset
    assert float(copied[1]["x"]["value"][0]) == 1.0
    del copied
    assert held(functions) == 0


def test_a_pass_asks_when_its_loader_is_gone(server: testkit.Testkit) -> None:
    batches = iter(hw.StreamingDataLoader(opened(server, own_keys()), window_samples=1))
    next(batches)
    gc.collect()
    server.fault("expired,times=1")
    assert [batch["x"]["value"][0, 0].item() for batch in batches] == [1.0, 2.0, 3.0]
    assert len(ASKED) == 2


def test_what_is_no_function_is_refused(server: testkit.Testkit) -> None:
    with pytest.raises(hw.ConfigError, match="give a function"):
        opened(server, "hunter2")
