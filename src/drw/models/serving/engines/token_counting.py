"""Counts the tokens of prompts once for each model, and checks their length."""

from __future__ import annotations

import asyncio

from drw.kernel.errors import DrwError, InvalidRequest
from drw.kernel.observability.overhead import waiting
from drw.models.serving.errors import ContextLengthExceeded, EngineUnavailable, RequestTimedOut
from drw.models.serving.ports import Body, CountedPrompt
from drw.models.serving.routing.candidates import ChatModel, ModelRequest, PromptCounts, prompt_too_long, split_prompts
from drw.models.serving.routing.circuit_breaker import State
from drw.models.serving.routing.load_balancing import Replica

TIME_SHARE = 4
"""Counting can take this fraction of a request's time: 1/4."""
COUNT_BACKOFF_SECONDS = 30.0
"""A replica that did not count in time is not asked to count for this time; a bound is used instead."""
MESSAGE_BYTES = 32
"""A bound on the bytes of a template around a message."""


async def count_request(model: ChatModel, request: ModelRequest) -> int | None:
    """Return the tokens of all prompts; None if no replica can count them. Errors are left to the attempt to report.

    The counts are stored in the request for `check_prompts` and the engine.
    """
    if not model.accepts_prompt(request.prompt_bytes):
        return None
    now = asyncio.get_running_loop().time()
    if (replica := _least_busy(model, now)) is None:
        return None
    counts = []
    try:
        async with asyncio.timeout_at(now + (request.deadline - now) / TIME_SHARE):
            for prompt in split_prompts(request.body):
                count = await model.engine.count_prompt(replica.target, request.endpoint, prompt)
                if count is None:
                    return None
                counts.append(count)
    except InvalidRequest:
        return None
    except (DrwError, TimeoutError):
        replica.count_backoff_until = now + COUNT_BACKOFF_SECONDS
        return None
    request.prompt_counts[model.id] = PromptCounts(replica, counts)
    return sum(count.tokens for count in counts)


async def count_prompt(model: ChatModel, request: ModelRequest) -> int | None:
    """Return the tokens of the prompt of a chat as the model's engine counts them; None if it cannot count.

    Raises:
        EngineUnavailable: no replica accepts requests now.
        RequestTimedOut: it did not count in time; also as `ChatEngine.count_prompt`.
    """
    now = asyncio.get_running_loop().time()
    if (replica := _least_busy(model, now)) is None:
        raise EngineUnavailable(f"no replica of {model.id!r} accepts requests now: try again")
    count = await _count(model, replica, request, request.body, now + (request.deadline - now) / TIME_SHARE)
    return None if count is None else count.tokens


async def check_prompts(model: ChatModel, replica: Replica, request: ModelRequest, body: Body, deadline: float) -> None:
    """Check the prompts of an attempt against the configured limit and the context length.

    Without a configured limit, the engine checks the length of a single prompt. Several prompts are always counted,
    so that one that is too long is rejected before the others are answered.

    Raises:
        ContextLengthExceeded: a prompt is too long.
        RequestTimedOut: the deadline, in the event loop's time, passed before the prompts were counted.
    """
    if not model.accepts_prompt(request.prompt_bytes):
        raise prompt_too_long(model, request)
    prompts = split_prompts(body)
    max_tokens = _max_tokens(model, several=len(prompts) > 1)
    counts = request.counted(model, body)
    for number, prompt in enumerate(prompts):
        # A token has at least one byte.
        if len(prompts) == 1 and (not max_tokens or _max_prompt_bytes(prompt) <= max_tokens):
            continue
        count = counts[number] if counts else await _count(model, replica, request, prompt, deadline)
        if count is not None and 0 < max_tokens < count.tokens:
            param = "prompt" if request.endpoint == "completions" else "messages"
            raise ContextLengthExceeded.counted(count.tokens, max_tokens, param)


async def _count(
    model: ChatModel, replica: Replica, request: ModelRequest, prompt: Body, deadline: float
) -> CountedPrompt | None:
    try:
        with waiting("upstream"):
            async with asyncio.timeout_at(deadline):
                return await model.engine.count_prompt(replica.target, request.endpoint, prompt)
    except TimeoutError as error:
        raise RequestTimedOut("the time for this request ran out while its prompt was counted") from error


def _max_tokens(model: ChatModel, *, several: bool) -> int:
    """Return the maximum tokens of a prompt; 0: the engine checks it."""
    prompt_limit = model.context_length - 1 if several and model.context_length else 0  # an answer has at least one
    return min((bound for bound in (model.max_prompt_tokens, prompt_limit) if bound), default=0)


def _max_prompt_bytes(body: Body) -> int:
    """Return a bound on the bytes of a prompt, including the template."""
    prompt = body.get("prompt") or ""
    size = len(prompt.encode()) if isinstance(prompt, str) else len(prompt)
    messages = body.get("messages", ())
    return size + MESSAGE_BYTES + sum(len(str(message).encode()) + MESSAGE_BYTES for message in messages)


def _least_busy(model: ChatModel, now: float) -> Replica | None:
    """Return the least busy replica with a closed circuit that is not backed off from counting."""
    ready = [
        replica
        for replica in model.replicas
        if replica.circuit.state is State.CLOSED and replica.count_backoff_until <= now
    ]
    return min(ready, key=lambda replica: replica.outstanding, default=None)
