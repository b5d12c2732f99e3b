"""The ladder of failures: how often one prompt is asked, and what becomes of its chunks.

================== ============================================ =========================
failure            then                                         costs an attempt
================== ============================================ =========================
throttled          everybody pauses as long as the provider asks no
halted             all workers are held until a probe succeeds  no
a third bare 403   dead, if calls made in between were answered -
unavailable        again after 5, 10 and 20 s, with jitter      yes, four at most in a run
half of the calls  the account is held, as when it is broken    no
everybody's calls  likewise, when a chunk's last attempt fails  no, once in a run
a probe's          the account stays held                       no, so long as MOST_PROBES last
truncated          once more with twice the output cap          its own single chance
invalid            once more, saying what was wrong             its own single chance
permanent          dead                                         -
the worker died    again, with ever fewer others on the wire    of its own, four at most
================== ============================================ =========================

A call that is cancelled at the task's hard limit was unavailable. Chunks that share a prompt are
asked alone before any of them is dead: once, where the provider was unavailable.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

from qaworker import logs
from qaworker.engine.gate import Gates, Passes
from qaworker.engine.health import Health, Trial
from qaworker.engine.line import Passage
from qaworker.engine.meter import Meter
from qaworker.engine.prompt import HandedBack, Prompt
from qaworker.engine.purse import Money, Purse
from qaworker.engine.suspects import MOST_DEATHS, Suspects
from qaworker.engine.turnstile import Turnstile
from qaworker.errors import (
    AnswerInvalid,
    AnswerTruncated,
    CallError,
    HaltError,
    InternalFault,
    ModelRefused,
    ProviderDown,
    ProviderThrottled,
    ProviderUnavailable,
    RequestRefused,
    WorkerDied,
)
from qaworker.limits.limiter import check_size
from qaworker.llm.estimates import Tokens
from qaworker.llm.generator import Answer
from qaworker.models import Chunk, GenerationConfig, Usage

log = logs.get(__name__)

BACKOFF_S = (5.0, 10.0, 20.0)
ATTEMPTS = len(BACKOFF_S) + 1
LARGER_CAP = 2.0
# Whether the provider is down or answers this chunk alone never, nobody can tell when no other is
# left: at one every 15 s, half an hour.
MOST_PROBES = 120
# Something before the provider may refuse a text as the provider does an account: a bare 403.
MOST_REFUSALS = 3


class Generator(Protocol):
    """What the ladder asks; :class:`qaworker.llm.generator.Generator` in production."""

    async def ask(
        self,
        chunks: Sequence[Chunk],
        config: GenerationConfig,
        model: str,
        *,
        cap_factor: float = 1.0,
        repair: str | None = None,
    ) -> Answer:
        """One call: pairs for each chunk, or a CallError."""

    def tokens(
        self,
        chunks: Sequence[Chunk],
        config: GenerationConfig,
        model: str,
        *,
        cap_factor: float = 1.0,
        repair: str | None = None,
    ) -> Tokens:
        """What that call takes of the provider's limit."""


class Ladder:
    """Asks prompts within the number of calls a process may have in flight."""

    def __init__(  # noqa: PLR0913, one for each that a call passes
        self,
        generator: Generator,
        gates: Gates,
        turnstile: Turnstile,
        purse: Purse,
        suspects: Suspects,
        meter: Meter,
        *,
        call_timeout_s: float,
    ) -> None:
        self._generator = generator
        self._gates = gates
        self._turnstile = turnstile
        self._purse = purse
        self._suspects = suspects
        self._meter = meter
        self._health = Health(_now_s)
        self._answered_call_began_at_s: dict[str, float] = {}
        """Of the last one to each model, by the loop's clock."""
        self._call_timeout_s = call_timeout_s
        self.calls_in_flight = 0

    async def ask(self, prompt: Prompt) -> Answer:
        """Ask until there is an answer.

        Raises:
            CallError: the last failure; the prompt cannot succeed as it is.
            HandedBack: the prompt was stopped first.
        """
        while True:
            try:
                return await self._call(prompt)
            except HaltError:
                continue  # to the gate, which it shut
            except ProviderThrottled as error:
                await self._turnstile.learn(prompt.model, error.reported)
                asked_s = error.retry_after_s
                await self._turnstile.pause(
                    prompt.model, BACKOFF_S[0] if asked_s is None else asked_s
                )
            except AnswerTruncated:
                if prompt.was_truncated:
                    raise
                prompt.was_truncated = True
            except AnswerInvalid as error:
                if prompt.repair:
                    raise
                prompt.repair = str(error)
            except ProviderUnavailable as error:
                prompt.attempts += 1
                if prompt.attempts >= ATTEMPTS:
                    raise
                delay_s = BACKOFF_S[prompt.attempts - 1] * random.uniform(0.75, 1.25)
                log.info("call_failed", error=str(error), again_in_s=round(delay_s, 1))
                async with prompt.waiting():
                    await asyncio.sleep(delay_s)

    async def _call(self, prompt: Prompt) -> Answer:
        if prompt.deaths >= MOST_DEATHS:
            raise WorkerDied
        cap_factor = LARGER_CAP if prompt.was_truncated else 1.0
        tokens = self._generator.tokens(
            prompt.chunks,
            prompt.config,
            prompt.model,
            cap_factor=cap_factor,
            repair=prompt.repair or None,
        )
        check_size(tokens.total)
        async with prompt.waiting():
            passes, passage, money, company = await self._enter(prompt, tokens)
        with company, passage, money:
            self.calls_in_flight += 1
            trial = self._health.begin()
            try:
                async with prompt.calling(self._call_timeout_s):
                    answer = await self._generate(prompt, cap_factor=cap_factor)
            except CallError as error:
                self._meter.failed(prompt.model, _now_s() - trial.began_at_s, error)
                prompt.failed_for = error.reason
                if isinstance(error, ProviderThrottled):
                    passage.settle(0)
                else:
                    _settle(passage, error.usage)
                if error.is_free:
                    money.give_back()
                money.charge(error.usage or Usage())
                prompt.usage += error.usage or Usage()
                self._failed(prompt, error, passes, trial)
                raise
            finally:
                self.calls_in_flight -= 1
            self._meter.answered(prompt.model, _now_s() - trial.began_at_s, answer.usage)
            _settle(passage, answer.usage)
            money.charge(answer.usage)
        self._answered(passes, trial)
        prompt.usage += answer.usage
        self._turnstile.report(prompt.model, answer.reported)
        return answer

    def _answered(self, passes: Passes, trial: Trial) -> None:
        self._health.answered()
        self._answered_call_began_at_s[passes.model_name] = trial.began_at_s
        self._gates.answered(passes)

    def _failed(self, prompt: Prompt, error: CallError, passes: Passes, trial: Trial) -> None:
        """Learn what a failed call shows of the account, the model and the provider.

        Raises:
            ProviderDown: it failed in an outage, which is no fault of its chunks.
            RequestRefused: the account works, and this text is refused.
        """
        if isinstance(error, HaltError):
            if error.may_mean_text and self._is_refused_alone(prompt):
                raise RequestRefused(str(error)) from error
            if isinstance(error, ModelRefused):
                error.run_id = prompt.run_id
            self._gates.refused(error, passes)
        elif isinstance(error, ProviderUnavailable):
            if self._is_down(prompt, passes, trial):
                down = ProviderDown(str(error))
                self._gates.refused(down, passes)
                raise down from error
        elif not isinstance(error, (InternalFault, ProviderThrottled)):
            # The provider did answer: the account works.
            self._answered(passes, trial)

    def _is_refused_alone(self, prompt: Prompt) -> bool:
        """Whether it is the prompt that is refused, and neither the account nor the model."""
        began_at_s = self._answered_call_began_at_s.get(prompt.model, 0.0)
        if not prompt.refusals or began_at_s > prompt.refused_at_s:
            prompt.refusals += 1
        prompt.refused_at_s = _now_s()
        return prompt.refusals >= MOST_REFUSALS

    def _is_down(self, prompt: Prompt, passes: Passes, trial: Trial) -> bool:
        """Whether a call that the provider was not available for is one of an outage."""
        if not self._gates.honour(passes):
            return True
        if self._gates.account.halted_by is not None:
            prompt.probes += 1
            return prompt.probes < MOST_PROBES
        if self._health.failed(trial):
            self._health.forget()
            return True
        return self._is_left_alone(prompt)

    def _is_left_alone(self, prompt: Prompt) -> bool:
        """Whether a prompt that would be dead cannot be told from an outage by other calls.

        Where it held the account before, somebody was answered since, as that released the hold.
        """
        if prompt.failing_since_s is None:
            prompt.failing_since_s = _now_s()
        if prompt.attempts + 1 < ATTEMPTS or prompt.probes:
            return False
        if self._health.has_answered_since(prompt.failing_since_s):
            return False
        prompt.probes = 1
        return True

    async def _generate(self, prompt: Prompt, *, cap_factor: float) -> Answer:
        try:
            return await self._generator.ask(
                prompt.chunks,
                prompt.config,
                prompt.model,
                cap_factor=cap_factor,
                repair=prompt.repair or None,
            )
        except CallError:
            raise
        except MemoryError as error:
            log.exception("call_raised")
            raise HandedBack from error
        except Exception as error:
            # A defect ends this chunk with a reason, instead of its neighbours' task again and again.
            log.exception("call_raised")
            raise InternalFault(f"{type(error).__name__}: see the worker's log") from error

    async def _enter(
        self, prompt: Prompt, tokens: Tokens
    ) -> tuple[Passes, Passage, Money, ExitStack]:
        # Who waits at a gate is not in line, so that a model which is held leaves all to the others;
        # nor is who waits for money, so that a budget which is refused takes nothing of the limit.
        # Money is reserved last, as what waits with it is charged in full when this process dies.
        # Who is in company waits for the limiter only, so that a loner's turn comes.
        while True:
            async with self._purse.foresee(prompt.paying_run, prompt.model, tokens) as reserve:
                passes = await self._gates.pass_through(prompt.model)
                with ExitStack() as undoing:
                    company = await self._suspects.join(prompt.digests, prompt.deaths)
                    undoing.callback(company.close)
                    came_at_s = _now_s()
                    passage = await self._turnstile.enter(prompt.model, tokens.total)
                    undoing.callback(passage.give_back)
                    waited_s = _now_s() - came_at_s
                    money = await reserve()
                    if money is None:
                        continue
                    undoing.callback(money.give_back)
                    if self._gates.honour(passes):
                        undoing.pop_all()
                        self._meter.call_began(prompt.model, waited_s, prompt.failed_for)
                        return passes, passage, money, company


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _settle(passage: Passage, usage: Usage | None) -> None:
    """What the provider took for a call that it says nothing of stays charged in full."""
    if usage is not None and usage.is_told:
        passage.settle(usage.input + usage.output)
