"""Counts the tokens of prompts, each prompt once for each model, and checks their length."""

from __future__ import annotations

import asyncio

from drw.kernel.errors import DrwError, InvalidRequest
from drw.kernel.observability.overhead import waiting
from drw.models.serving.errors import ContextLengthExceeded, RequestTimedOut
from drw.models.serving.ports import Body, CountedPrompt
from drw.models.serving.routing.candidates import ChatModel, ModelRequest, PromptCounts, split, too_long
from drw.models.serving.routing.circuit_breaker import State
from drw.models.serving.routing.load_balancing import Replica

SHARE = 4
"""Counting may take this part of a request's time; the rest is for the answer."""
MUTE_SECONDS = 30.0
"""A replica that did not count in time is not asked to for so long: a request needs no count, only a bound."""
MESSAGE_BYTES = 32
"""What a template may put around a message."""


async def count_request(model: ChatModel, request: ModelRequest) -> int | None:
    """Return the tokens of all prompts; None where no replica counts them: the attempt will report what is wrong.

    The counts stay with the request, so that `check_prompts` does not ask for them again.
    """
    if not model.reads(request.prompt_bytes):
        return None
    now = asyncio.get_running_loop().time()
    if (replica := _least_busy(model, now)) is None:
        return None
    counts = []
    try:
        async with asyncio.timeout_at(now + (request.end - now) / SHARE):
            for prompt in split(request.body):
                count = await model.engine.count_prompt(replica.target, request.endpoint, prompt)
                if count is None:
                    return None
                counts.append(count)
    except InvalidRequest:
        return None
    except (DrwError, TimeoutError):
        replica.mute_until = now + MUTE_SECONDS
        return None
    request.prompt_counts[model.id] = PromptCounts(replica, counts)
    return sum(count.tokens for count in counts)


async def check_prompts(model: ChatModel, replica: Replica, request: ModelRequest, body: Body, end: float) -> None:
    """Raise where a prompt of an attempt is longer than the operator allows, or than the model takes.

    The length of a single prompt is the engine's to check where the operator sets no bound. Of several prompts each
    is counted, so that a wrong one is found before the answers to the others.

    Raises:
        ContextLengthExceeded: a prompt is too long.
        RequestTimedOut: it is `end`, in the event loop's time, and the prompts are not counted.
    """
    if not model.reads(request.prompt_bytes):
        raise too_long(model, request)
    prompts = split(body)
    max_tokens = _max_tokens(model, several=len(prompts) > 1)
    counts = request.counted(model, body)
    for number, prompt in enumerate(prompts):
        if len(prompts) == 1 and (not max_tokens or _bytes(prompt) <= max_tokens):  # no token is shorter than a byte
            continue
        count = counts[number] if counts else await _count(model, replica, request, prompt, end)
        if count is not None and 0 < max_tokens < count.tokens:
            param = "prompt" if request.endpoint == "completions" else "messages"
            raise ContextLengthExceeded.counted(count.tokens, max_tokens, param)


async def _count(
    model: ChatModel, replica: Replica, request: ModelRequest, prompt: Body, end: float
) -> CountedPrompt | None:
    try:
        with waiting("upstream"):
            async with asyncio.timeout_at(end):
                return await model.engine.count_prompt(replica.target, request.endpoint, prompt)
    except TimeoutError as error:
        raise RequestTimedOut("the time for this request ran out while its prompt was counted") from error


def _max_tokens(model: ChatModel, *, several: bool) -> int:
    """Return how many tokens a prompt may have; 0: the engine checks that."""
    room = model.context_length - 1 if several and model.context_length else 0  # an answer has at least one
    return min((bound for bound in (model.max_prompt_tokens, room) if bound), default=0)


def _bytes(body: Body) -> int:
    """Return a bound on the prompt's length in bytes, with what templates put around each message."""
    prompt = body.get("prompt") or ""
    size = len(prompt.encode()) if isinstance(prompt, str) else len(prompt)
    messages = body.get("messages", ())
    return size + MESSAGE_BYTES + sum(len(str(message).encode()) + MESSAGE_BYTES for message in messages)


def _least_busy(model: ChatModel, now: float) -> Replica | None:
    """Return the least busy replica of those whose circuit is closed and that may be asked to count."""
    ready = [each for each in model.replicas if each.circuit.state is State.CLOSED and each.mute_until <= now]
    return min(ready, key=lambda each: each.outstanding, default=None)
