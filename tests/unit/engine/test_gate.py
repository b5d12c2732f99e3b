from __future__ import annotations

import asyncio
from collections.abc import Callable

from qaworker.engine.gate import Gate, Gates, News
from qaworker.errors import HaltError, ModelRefused
from tests.support.virtual_time import now_s, run


async def passes(gate: Gate, callers: int) -> list[float]:
    """When each of so many callers came through."""

    async def call() -> float:
        await gate.pass_through()
        return now_s()

    return list(await asyncio.gather(*(call() for _ in range(callers))))


async def shut(gate: Gate, error: HaltError) -> None:
    """Shut it as a call does that is refused."""
    gate.refused(error, await gate.pass_through())


def later(delay_s: float, what: Callable[..., object], *args: object) -> None:
    asyncio.get_running_loop().call_later(delay_s, what, *args)


def test_an_open_gate_delays_nobody() -> None:
    assert run(passes(Gate(), 3)) == [0, 0, 0]


def test_a_gate_that_a_refusal_shut_stays_shut_until_it_is_opened() -> None:
    async def scenario() -> tuple[list[float], object, object]:
        gate = Gate()
        error = HaltError("no quota")
        await shut(gate, error)
        assert gate.halted_by is gate.refused_by is error
        assert gate.news is News.REFUSED
        later(40, gate.open)
        return await passes(gate, 3), gate.halted_by, gate.refused_by

    assert run(scenario()) == ([40, 40, 40], None, None)


def test_those_who_wait_are_counted() -> None:
    async def scenario() -> list[int]:
        gate = Gate()
        gate.shut(HaltError())
        waiting = [asyncio.create_task(gate.pass_through()) for _ in range(3)]
        await asyncio.sleep(1)
        counted = [gate.waiting]
        waiting[0].cancel()
        await asyncio.sleep(1)
        counted.append(gate.waiting)
        gate.open()
        await asyncio.wait(waiting)
        return [*counted, gate.waiting]

    assert run(scenario()) == [3, 2, 0]


def test_a_probe_lets_one_through_who_waits_in_turn() -> None:
    """Else one chunk that fails in any case would be every probe."""

    async def scenario() -> list[str]:
        gate = Gate()
        gate.shut(HaltError())
        through: list[str] = []

        async def call(name: str) -> None:
            for _ in range(2):
                await gate.pass_through()
                through.append(name)
                await asyncio.sleep(1)

        callers = [asyncio.create_task(call(name)) for name in "abc"]
        for probe in range(6):
            await asyncio.sleep(15)
            gate.probe()
            await asyncio.sleep(1)
            assert len(through) == probe + 1
        await asyncio.wait(callers)
        return through

    assert run(scenario()) == ["a", "b", "c"] * 2


def test_a_probe_that_finds_nobody_is_for_who_comes_next() -> None:
    async def scenario() -> list[float]:
        gate = Gate()
        gate.shut(HaltError())
        gate.probe()
        later(40, gate.open)
        return await passes(gate, 2)

    assert run(scenario()) == [0, 40]


def test_a_probe_nobody_took_is_none_in_the_next_hold() -> None:
    async def scenario() -> list[float]:
        gate = Gate()
        gate.shut(HaltError())
        gate.probe()
        gate.open()
        gate.shut(HaltError())
        later(40, gate.open)
        return await passes(gate, 1)

    assert run(scenario()) == [40]


def test_an_answer_to_a_probe_is_news_and_opens_nothing_by_itself() -> None:
    """It may be an operator who holds."""

    async def scenario() -> tuple[object, bool]:
        gate = Gate()
        gate.shut(HaltError())
        gate.probe()
        gate.answered(await gate.pass_through())
        return gate.news, gate.halted_by is None

    assert run(scenario()) == (News.ANSWERED, False)


def test_a_probe_that_is_refused_tells_the_latest_error() -> None:
    async def scenario() -> tuple[object, str]:
        gate = Gate()
        gate.shut(HaltError("no quota"))
        gate.probe()
        await shut(gate, HaltError("bad key"))
        return gate.news, str(gate.refused_by)

    assert run(scenario()) == (News.REFUSED, "bad key")


def test_what_passed_before_the_gate_changed_shows_nothing() -> None:
    async def scenario() -> None:
        gate = Gate()
        old = await gate.pass_through()
        gate.shut(HaltError("no quota"))
        assert not gate.honours(old)
        gate.answered(old)
        assert gate.news is None
        gate.open()
        assert not gate.honours(old)
        gate.refused(HaltError("no quota"), old)
        assert gate.halted_by is gate.news is None
        assert gate.honours(await gate.pass_through())

    run(scenario())


def test_an_answer_while_the_gate_is_open_is_no_news() -> None:
    async def scenario() -> object:
        gate = Gate()
        gate.answered(await gate.pass_through())
        return gate.news

    assert run(scenario()) is None


def test_a_model_that_is_refused_holds_only_itself() -> None:
    async def scenario() -> list[float]:
        gates = Gates()
        gates.refused(ModelRefused("no such model"), await gates.pass_through("wrong"))
        assert gates.has_news.is_set()
        later(15, gates.of("wrong").open)
        times = []
        for model in ("right", "wrong"):
            await gates.pass_through(model)
            times.append(now_s())
        return times

    assert run(scenario()) == [0, 15]


def test_a_broken_account_holds_every_model() -> None:
    async def scenario() -> list[float]:
        gates = Gates()
        gates.refused(HaltError("no quota"), await gates.pass_through("one"))
        later(15, gates.account.open)
        times = []
        for model in ("one", "another"):
            await gates.pass_through(model)
            times.append(now_s())
        return times

    assert run(scenario()) == [15, 15]


def test_a_model_shut_while_its_caller_waited_for_the_account_is_not_called() -> None:
    async def scenario() -> float:
        gates = Gates()
        gates.account.shut(HaltError())
        later(5, gates.of("model").shut, ModelRefused())
        later(10, gates.account.open)
        later(20, gates.of("model").open)
        await gates.pass_through("model")
        return now_s()

    assert run(scenario()) == 20


def test_the_account_is_named_before_a_model_as_what_holds() -> None:
    async def scenario() -> list[tuple[str, str]]:
        gates = Gates()
        found = []
        passed = await gates.pass_through("wrong")
        for error in (ModelRefused("no such model"), HaltError("no quota")):
            gates.refused(error, passed)
            found.append((str(gates.halted_by), str(gates.refused_by)))
        return found

    assert run(scenario()) == [("no such model",) * 2, ("no quota",) * 2]


def test_a_pass_from_before_the_gate_was_shut_is_honoured_no_more() -> None:
    async def scenario() -> tuple[bool, bool]:
        gates = Gates()
        passed = await gates.pass_through("model")
        before = gates.honour(passed)
        gates.account.shut(HaltError("no quota"))
        return before, gates.honour(passed)

    assert run(scenario()) == (True, False)
