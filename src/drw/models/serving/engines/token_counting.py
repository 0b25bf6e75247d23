"""How many tokens a prompt has, as far as an engine tells it in good time."""

from __future__ import annotations

import asyncio

from drw.kernel.errors import DrwError, InvalidRequest
from drw.models.serving.ports import Body, Endpoint
from drw.models.serving.routing.candidates import ChatModel, ModelRequest, split
from drw.models.serving.routing.circuit_breaker import State
from drw.models.serving.routing.load_balancing import Replica

SHARE = 4
"""Of a request's time, counting may take this part; the rest is for the answer."""
MUTE_SECONDS = 30.0
"""A place that did not count is not asked to for so long: a request needs no count, only a bound."""


async def count_request(model: ChatModel, asked: ModelRequest) -> int | None:
    """Return the tokens of the prompt; None where no place of the model tells: the attempt will say what is wrong."""
    if not model.reads(asked.prompt_bytes):
        return None
    now = asyncio.get_running_loop().time()
    if (place := _place(model, now)) is None:
        return None
    try:
        async with asyncio.timeout_at(now + (asked.end - now) / SHARE):
            return await count_prompts(model, place, asked.endpoint, asked.body)
    except InvalidRequest:
        return None
    except (DrwError, TimeoutError):
        place.mute_until = now + MUTE_SECONDS
        return None


async def count_prompts(model: ChatModel, place: Replica, endpoint: Endpoint, body: Body) -> int | None:
    """Return the tokens of all prompts; raises as `ChatEngine.count_prompt` does."""
    total = 0
    for each in split(body):
        if (tokens := await model.engine.count_prompt(place.target, endpoint, each)) is None:
            return None
        total += tokens
    return total


def _place(model: ChatModel, now: float) -> Replica | None:
    """Return the least busy place of those that are well."""
    well = [each for each in model.replicas if each.circuit.state is State.CLOSED and each.mute_until <= now]
    return min(well, key=lambda each: each.outstanding, default=None)
