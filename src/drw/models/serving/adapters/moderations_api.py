"""Adapter for upstreams with OpenAI's `/moderations`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drw.models.serving.engines.openai_client import OpenAIClient, authorization_header, malformed_response
from drw.models.serving.ports import EngineTarget, Moderator
from drw.models.serving.settings import ClientSettings

MAX_BYTES = 16 << 20


class ModerationsApi(Moderator):
    """Passes inputs on, all texts of a request together."""

    Settings = ClientSettings

    def __init__(self, settings: ClientSettings) -> None:
        self._client = OpenAIClient(settings, reuse=True)
        self._seconds = settings.first_token_seconds

    async def moderate(self, target: EngineTarget, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the results of the upstream."""
        sent = list(inputs) if all(isinstance(one, str) for one in inputs) else inputs[0]
        answer = await self._client.fetch_json(
            target,
            "moderations",
            {"model": target.upstream_model, "input": sent},
            authorization_header(target),
            MAX_BYTES,
            target.deadlines.first_token or self._seconds,
        )
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or len(results) != len(inputs) or not all(map(_is_result, results)):
            raise malformed_response(target)
        return results

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _is_result(result: Any) -> bool:
    if not isinstance(result, dict) or type(result.get("flagged")) is not bool:
        return False
    return isinstance(result.get("categories"), dict) and isinstance(result.get("category_scores"), dict)
