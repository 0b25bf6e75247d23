"""Answers one request with chat models: their lines, their limits, their engines, one after the other; its record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from drw.billing.reservations.errors import FINAL
from drw.billing.reservations.metered_call import MeteredCall
from drw.kernel.errors import DrwError
from drw.kernel.observability.overhead import waiting
from drw.models.serving.errors import ContextLengthExceeded, RequestTimedOut
from drw.models.serving.failover.attempts import Attempt
from drw.models.serving.failover.loop import Failover, FailoverPolicy
from drw.models.serving.observability.call_record import CallRecord, outcome
from drw.models.serving.openai.responses import Answer
from drw.models.serving.openai.usage import usage_update
from drw.models.serving.ports import Body, Chunk
from drw.models.serving.routing.candidates import CandidateList, ChatModel, ModelRequest, split, too_long


async def generate(
    rules: FailoverPolicy,
    plan: CandidateList,
    asked: ModelRequest,
    answer: Answer,
    record: CallRecord,
    call: MeteredCall[ChatModel],
) -> AsyncGenerator[Chunk, None]:
    """Yield the chunks of an answer while `answer` and `record` take note of them.

    Ends only when the answer is whole, whoever gave which part of it; the record is the caller's to close, the call
    the caller's to settle. Of an answer that is not `live` nothing is yielded: `answer` has it.
    Raises as `ChatEngine.stream`, `AdmissionQueue.turn`, `MeteredCall.begin` and `MeteredCall.progress` do.
    """
    course = Failover(rules, plan, asked, answer, record)
    try:
        while True:
            attempt = await course.next()
            try:
                async with attempt.model.line.turn(attempt.patience(rules.clock.time())):
                    course.enter(attempt)
                    await _check_prompt(attempt, asked)
                    attempt.body = attempt.body | dict(await call.begin(attempt.model))
                    chunks = attempt.stream(asked.endpoint)
                    try:
                        async for chunk in chunks:
                            await call.progress(usage_update(chunk))
                            ready = attempt.take(chunk)
                            if asked.live:
                                for each in ready:
                                    course.sent = True
                                    yield each
                    finally:
                        await chunks.aclose()
                    last = attempt.whole()
            except FINAL as error:  # no engine's fault, so none of another engine's business
                course.left(attempt, outcome(error))
                raise
            except DrwError as error:
                course.failed(attempt, error)
                continue
            except BaseException as error:
                course.left(attempt, outcome(error))
                raise
            course.succeeded(attempt)
            for each in last if asked.live else ():
                yield each
            return
    finally:
        course.close()
        record.answered(answer.text, answer.usage, answer.finish_reason)
        record.show_answer(answer)


async def _check_prompt(attempt: Attempt, asked: ModelRequest) -> None:
    """Raise where the prompt is longer than the operator allows; the model's own limit is the engine's to check.

    Of several prompts each is counted: a wrong one is not to be found after the answers to those before it.
    """
    if not attempt.model.reads(asked.prompt_bytes):
        raise too_long(attempt.model, asked)
    endpoint, bodies = asked.endpoint, split(attempt.body)
    most = _most_tokens(attempt.model, several=len(bodies) > 1)
    for body in bodies:
        if len(bodies) == 1 and (not most or _bytes(body) <= most):  # no token is shorter than a byte
            continue
        try:
            with waiting("upstream"):
                async with asyncio.timeout_at(attempt.limits.end):
                    counted = await attempt.model.engine.count_prompt(attempt.replica.target, endpoint, body)
        except TimeoutError as error:
            raise RequestTimedOut("the time for this request ran out while its prompt was counted") from error
        if counted is not None and 0 < most < counted:
            raise ContextLengthExceeded.counted(counted, most, "prompt" if endpoint == "completions" else "messages")


def _most_tokens(model: ChatModel, *, several: bool) -> int:
    """Return how many tokens a prompt may have; 0: that is the engine's to say."""
    room = model.context_length - 1 if several and model.context_length else 0  # an answer has at least one
    return min((bound for bound in (model.max_prompt_tokens, room) if bound), default=0)


def _bytes(body: Body) -> int:
    """Return a bound on the prompt's length in bytes, with what templates put around each message."""
    prompt = body.get("prompt") or ""
    size = len(prompt.encode()) if isinstance(prompt, str) else len(prompt)
    return size + 32 + sum(len(str(message).encode()) + 32 for message in body.get("messages", ()))
