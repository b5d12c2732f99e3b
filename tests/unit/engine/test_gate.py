from __future__ import annotations

import asyncio

from qaworker.engine.gate import Gate, Gates
from qaworker.errors import HaltError, ModelRefused
from tests.support.virtual_time import now_s, run


async def passes(gate: Gate, callers: int) -> list[float]:
    """When each of so many callers came through."""

    async def call() -> float:
        await gate.pass_through()
        return now_s()

    return list(await asyncio.gather(*(call() for _ in range(callers))))


def test_an_open_gate_delays_nobody() -> None:
    assert run(passes(Gate(), 3)) == [0, 0, 0]


def test_a_shut_gate_lets_one_caller_through_in_each_interval() -> None:
    async def scenario() -> list[float]:
        gate = Gate(probe_interval_s=15)
        gate.shut(HaltError("no quota"))
        return await passes(gate, 3)

    assert sorted(run(scenario())) == [15, 30, 45]


def test_an_answer_to_the_probe_opens_the_gate_for_all_who_wait() -> None:
    async def scenario() -> tuple[list[float], object]:
        gate = Gate(probe_interval_s=15)
        gate.shut(HaltError("no quota"))
        passed = await gate.pass_through()
        asyncio.get_running_loop().call_later(2, gate.answered, passed)
        return await passes(gate, 3), gate.halted_by

    assert run(scenario()) == ([17, 17, 17], None)


def test_an_answer_to_a_call_made_before_the_gate_was_shut_does_not_open_it() -> None:
    async def scenario() -> list[float]:
        gate = Gate(probe_interval_s=15)
        passed = await gate.pass_through()
        gate.shut(HaltError("no quota"))
        gate.answered(passed)
        return await passes(gate, 2)

    assert sorted(run(scenario())) == [15, 30]


def test_a_probe_that_fails_does_not_put_off_the_next_and_tells_the_latest_error() -> None:
    async def scenario() -> tuple[list[float], str]:
        gate = Gate(probe_interval_s=15)
        gate.shut(HaltError("no quota"))
        await passes(gate, 1)
        await asyncio.sleep(5)
        gate.shut(HaltError("bad key"))
        return await passes(gate, 1), str(gate.halted_by)

    assert run(scenario()) == ([30], "bad key")


def test_a_model_that_is_refused_holds_only_itself() -> None:
    async def scenario() -> list[float]:
        gates = Gates(probe_interval_s=15)
        gates.shut(ModelRefused("no such model"), "wrong")
        times = []
        for model in ("right", "wrong"):
            await gates.pass_through(model)
            times.append(now_s())
        return times

    assert run(scenario()) == [0, 15]


def test_a_broken_account_holds_every_model_until_any_is_answered() -> None:
    async def scenario() -> tuple[list[float], object]:
        gates = Gates(probe_interval_s=15)
        gates.shut(HaltError("no quota"), "one")
        passes = await gates.pass_through("one")
        times = [now_s()]
        asyncio.get_running_loop().call_later(2, gates.answered, passes)
        await gates.pass_through("another")
        return [*times, now_s()], gates.halted_by

    assert run(scenario()) == ([15, 17], None)


def test_the_account_is_named_before_a_model_as_what_holds() -> None:
    async def scenario() -> list[str]:
        gates = Gates()
        gates.shut(ModelRefused("no such model"), "wrong")
        before = str(gates.halted_by)
        gates.shut(HaltError("no quota"), "wrong")
        return [before, str(gates.halted_by)]

    assert run(scenario()) == ["no such model", "no quota"]


def test_a_pass_from_before_the_gate_was_shut_is_honoured_no_more() -> None:
    async def scenario() -> tuple[bool, bool]:
        gates = Gates()
        passes = await gates.pass_through("model")
        before = gates.honour(passes)
        gates.shut(HaltError("no quota"), "model")
        return before, gates.honour(passes)

    assert run(scenario()) == (True, False)
