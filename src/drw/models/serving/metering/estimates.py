"""The most tokens that a request can take at a model."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from drw.billing.amounts import FREE, Price
from drw.billing.reservations.metered_call import Estimate
from drw.billing.settings import MeteringSettings
from drw.models.serving.engines.token_counting import count_request
from drw.models.serving.ports import Body
from drw.models.serving.routing.candidates import ChatModel, ModelRequest, split

MESSAGE_TOKENS = 32
"""What a template may put around one message, and around the whole."""
TEXT_TOKENS = 8
"""What an embedding model may put around one text."""
UNBOUNDED = 1 << 53


async def estimate(model: ChatModel, request: ModelRequest, price: Price, settings: MeteringSettings) -> Estimate:
    """Return the most that a request can take at a model: its prompt as the engine counts it, else its bound."""
    tokens = await count_request(model, request)
    prompt = prompt_bound(request.body, settings.image_tokens) if tokens is None else tokens
    # A bound on the prompt says nothing of the room that it leaves.
    alone = tokens if len(split(request.body)) == 1 else None  # of several, each has a context of its own
    room = model.context_length - (alone or 0) if model.context_length else None
    known = [bound for bound in (request.max_tokens, room) if bound is not None]
    each = max(1, min(known, default=settings.max_tokens))
    bounds = {} if known else {request.param: each}  # where nothing bounds the answer, what was reserved must
    return Estimate(model.id, model.upstream_model, price, prompt, each * request.choices, bounds)


async def free(model: ChatModel) -> Estimate:
    """Return the estimate of a request that nothing binds."""
    return Estimate(model.id, model.upstream_model, FREE, 0, UNBOUNDED)


def prompt_bound(body: Body, image_tokens: int) -> int:
    """Return a bound on a prompt's tokens: no token is shorter than a byte of what the engine is sent.

    A picture in the request itself (`data:`) has the tokens of a picture, however many bytes it has.
    """
    images = [
        part["image_url"].get("url", "")
        for message in body.get("messages", ())
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part.get("type") == "image_url"
    ]
    pictures = sum(len(url) for url in images if url[:5].lower() == "data:")
    around = MESSAGE_TOKENS * (len(split(body)) + len(body.get("messages", ())))
    return len(orjson.dumps(body)) - pictures + around + len(images) * image_tokens


def text_bound(text: str | Sequence[int]) -> int:
    """Return a bound on the tokens of one text to embed, or of one that is tokens already."""
    return TEXT_TOKENS + len(text.encode() if isinstance(text, str) else text)
