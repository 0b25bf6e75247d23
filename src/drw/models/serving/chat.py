"""Generates the answer to one request: attempts at candidate models until one succeeds, metered and recorded."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from drw.billing.reservations.errors import FINAL_ERRORS
from drw.billing.reservations.metered_call import MeteredCall
from drw.kernel.errors import DrwError
from drw.models.serving.engines.token_counting import check_prompts
from drw.models.serving.failover.loop import Failover, FailoverPolicy
from drw.models.serving.observability.call_record import CallRecord, call_outcome
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
    """Add the chunks of an answer to `answer`, and yield them if the request streams.

    Ends when the answer is complete; several engines can contribute to it. The caller closes the record and settles
    the call. Raises as `ChatEngine.stream`, `AdmissionQueue.admit`, `MeteredCall.begin` and `MeteredCall.progress` do.
    """
    failover = Failover(policy, candidates, request, answer, record)
    try:
        while True:
            attempt = await failover.next()
            try:
                timeout = attempt.queue_timeout(policy.clock.time())
                async with attempt.model.queue.admit(timeout, background=request.background):
                    failover.enter_circuit(attempt)
                    await check_prompts(attempt.model, attempt.replica, request, attempt.body, attempt.limits.deadline)
                    attempt.body = attempt.body | dict(await call.begin(attempt.model))
                    events = attempt.stream(request.endpoint)
                    try:
                        async for chunk, usage in events:
                            await call.progress(usage)
                            ready = attempt.receive(chunk)
                            if request.stream:
                                for chunk in ready:
                                    failover.sent = True
                                    yield chunk
                    finally:
                        await events.aclose()
                    final_chunks = attempt.finish()
            except FINAL_ERRORS as error:  # not a failure of the engine: no failover
                failover.abandoned(attempt, call_outcome(error))
                raise
            except DrwError as error:
                failover.failed(attempt, error)
                continue
            except BaseException as error:
                failover.abandoned(attempt, call_outcome(error))
                raise
            failover.succeeded(attempt)
            for chunk in final_chunks if request.stream else ():
                yield chunk
            return
    finally:
        failover.close()
        record.set_answer(answer.text, answer.usage, answer.finish_reason)
        record.trace_answer(answer)
