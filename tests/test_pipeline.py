"""Threads that take parts through stages: all parts, in order, few at once, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from wavflow.synthesis.pipeline import AHEAD, Pipeline

PARTS = 3 * AHEAD


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_each_stage_takes_all_parts_in_order(pool: ThreadPoolExecutor, threads: int) -> None:
    taken: dict[tuple[int, int], list[int]] = {(chain, n): [] for chain in range(2) for n in range(3)}
    started = 0

    def source() -> Iterator[int]:
        nonlocal started
        for started in range(1, PARTS + 1):
            yield started - 1

    def stage(chain: int, n: int, part: int) -> None:
        if n:
            assert part in taken[chain, n - 1]
        taken[chain, n].append(part)

    chains = [[lambda part, key=(chain, n): stage(*key, part) for n in range(3)] for chain in range(2)]
    for n, part in enumerate(Pipeline(source(), chains, pool, threads)):
        assert part == n
        assert started <= n + AHEAD + 1
    assert all(parts == list(range(PARTS)) for parts in taken.values())


@pytest.mark.parametrize("threads", [1, 4])
def test_errors_of_stages_and_of_the_source_reach_the_caller(pool: ThreadPoolExecutor, threads: int) -> None:
    def fail(part: int) -> None:
        if part == 10:
            raise KeyError("ten")

    def source() -> Iterator[int]:
        yield from range(10)
        raise KeyError("ten")

    for parts, stage in ((iter(range(PARTS)), fail), (source(), lambda part: None)):
        with pytest.raises(KeyError, match="ten"):
            list(Pipeline(parts, [[stage]], pool, threads))


def test_who_stops_early_leaves_no_thread_behind(pool: ThreadPoolExecutor) -> None:
    parts = iter(Pipeline(iter(range(10**9)), [[lambda part: None]], pool, 4))
    assert next(parts) == 0
    parts.close()
    everyone = threading.Barrier(3)  # of the pool's threads
    for waiting in [pool.submit(everyone.wait, 10) for _ in range(3)]:
        waiting.result()


def test_a_busy_pool_is_not_waited_for(pool: ThreadPoolExecutor) -> None:
    release = threading.Event()
    others = [pool.submit(release.wait) for _ in range(3)]
    assert list(Pipeline(iter(range(5)), [[lambda part: None]], pool, 3)) == list(range(5))
    release.set()
    assert all(other.result() for other in others)
