"""Generates the answer to one request: attempts at its candidate models until one succeeds, metered and recorded."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from drw.billing.reservations.errors import FINAL
from drw.billing.reservations.metered_call import MeteredCall
from drw.kernel.errors import DrwError
from drw.models.serving.engines.token_counting import check_prompts
from drw.models.serving.failover.loop import Failover, FailoverPolicy
from drw.models.serving.observability.call_record import CallRecord, outcome
from drw.models.serving.openai.responses import Answer
from drw.models.serving.openai.usage import usage_update
from drw.models.serving.ports import Chunk
from drw.models.serving.routing.candidates import CandidateList, ChatModel, ModelRequest


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
                async with attempt.model.queue.turn(attempt.patience(rules.clock.time())):
                    course.enter(attempt)
                    await check_prompts(attempt.model, attempt.replica, asked, attempt.body, attempt.limits.end)
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
