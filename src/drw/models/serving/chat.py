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
from drw.models.serving.ports import Chunk
from drw.models.serving.routing.candidates import CandidateList, ChatModel, ModelRequest


async def generate(
    policy: FailoverPolicy,
    candidates: CandidateList,
    request: ModelRequest,
    answer: Answer,
    record: CallRecord,
    call: MeteredCall[ChatModel],
) -> AsyncGenerator[Chunk, None]:
    """Yield the chunks of an answer, which are added to `answer` and noted in `record`.

    Ends when the answer is complete, whichever engines gave its parts. The caller closes the record and settles the
    call. Of a request that is not `live` nothing is yielded: `answer` has it.
    Raises as `ChatEngine.stream`, `AdmissionQueue.turn`, `MeteredCall.begin` and `MeteredCall.progress` do.
    """
    failover = Failover(policy, candidates, request, answer, record)
    try:
        while True:
            attempt = await failover.next()
            try:
                async with attempt.model.queue.turn(attempt.patience(policy.clock.time())):
                    failover.enter(attempt)
                    await check_prompts(attempt.model, attempt.replica, request, attempt.body, attempt.limits.end)
                    attempt.body = attempt.body | dict(await call.begin(attempt.model))
                    events = attempt.stream(request.endpoint)
                    try:
                        async for chunk, usage in events:
                            await call.progress(usage)
                            passed_on = attempt.take(chunk)
                            if request.live:
                                for each in passed_on:
                                    failover.sent = True
                                    yield each
                    finally:
                        await events.aclose()
                    last = attempt.whole()
            except FINAL as error:  # no engine's fault, so none of another engine's business
                failover.left(attempt, outcome(error))
                raise
            except DrwError as error:
                failover.failed(attempt, error)
                continue
            except BaseException as error:
                failover.left(attempt, outcome(error))
                raise
            failover.succeeded(attempt)
            for each in last if request.live else ():
                yield each
            return
    finally:
        failover.close()
        record.answered(answer.text, answer.usage, answer.finish_reason)
        record.show_answer(answer)
