"""Estimates: the maximum tokens and cost of a request at a model."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from drw.billing.amounts import FREE, Price
from drw.billing.reservations.metered_call import Estimate
from drw.billing.settings import MeteringSettings
from drw.models.serving.engines.token_counting import count_request
from drw.models.serving.ports import Body
from drw.models.serving.routing.candidates import ChatModel, ModelRequest, split_prompts

MESSAGE_TOKENS = 32
"""A bound on the template tokens around one message, and around the prompt."""
TEXT_TOKENS = 8
"""A bound on the special tokens around one text of an embedding model."""
UNBOUNDED = 1 << 53


async def estimate(model: ChatModel, request: ModelRequest, price: Price, settings: MeteringSettings) -> Estimate:
    """Return the maximum usage of a request at a model; the prompt is counted by the engine if it can, else bounded."""
    tokens = await count_request(model, request)
    prompt = prompt_token_bound(request.body, settings.image_tokens) if tokens is None else tokens
    # Only an exact count of a single prompt reduces the tokens that are left for the answer.
    prompt_tokens = tokens if len(split_prompts(request.body)) == 1 else None  # several prompts have separate contexts
    context_limit = model.context_length - (prompt_tokens or 0) if model.context_length else None
    limits = [bound for bound in (request.max_tokens, context_limit) if bound is not None]
    completion = max(1, min(limits, default=settings.max_tokens))
    # Without another limit, the reservation limits the answer.
    bounds = {} if limits else {request.max_tokens_param: completion}
    return Estimate(model.id, model.upstream_model, price, prompt, completion * request.choices, bounds)


async def unlimited_estimate(model: ChatModel) -> Estimate:
    """Return the estimate of a request without budgets and limits."""
    return Estimate(model.id, model.upstream_model, FREE, 0, UNBOUNDED)


def prompt_token_bound(body: Body, image_tokens: int) -> int:
    """Return a bound on the tokens of a prompt: one per byte of the request.

    An inline image (`data:`) counts as `image_tokens`, whatever its size.
    """
    images = [
        part["image_url"].get("url", "")
        for message in body.get("messages", ())
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part.get("type") == "image_url"
    ]
    image_bytes = sum(len(url) for url in images if url[:5].lower() == "data:")
    template_tokens = MESSAGE_TOKENS * (len(split_prompts(body)) + len(body.get("messages", ())))
    return len(orjson.dumps(body)) - image_bytes + template_tokens + len(images) * image_tokens


def text_token_bound(text: str | Sequence[int]) -> int:
    """Return a bound on the tokens of one input of an embedding model: a text or token ids."""
    return TEXT_TOKENS + len(text.encode() if isinstance(text, str) else text)
