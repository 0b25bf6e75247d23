"""Retrieval settings of an arm, combined with those of a request: of each setting the one that finds less applies."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson
from google.protobuf.struct_pb2 import Struct

from drw.api.models.v1.experiments_pb2 import RetrievalSettings
from drw.kernel.rpc.json_messages import to_json
from drw.kernel.storage.audit import digest


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What an arm changes in a search; without values it changes nothing."""

    limit: int | None = None
    score_threshold: float = 0.0
    auto_filters: bool | None = None
    filter: Struct = field(default_factory=Struct)
    digest: str = ""
    """SHA-256 of the settings as JSON with sorted keys."""

    @classmethod
    def of(cls, settings: RetrievalSettings) -> SearchSettings:
        """Return the settings of a message of the contract."""
        return cls(
            settings.limit if settings.HasField("limit") else None,
            settings.score_threshold,
            settings.auto_filters if settings.HasField("auto_filters") else None,
            settings.filter,
            digest(orjson.dumps(to_json(settings), option=orjson.OPT_SORT_KEYS)),
        )

    def limit_of(self, requested: int | None, default: int) -> int:
        """Return the number of passages of a request; `default` applies if neither limits it."""
        return min((limit for limit in (requested, self.limit) if limit), default=default)

    def threshold_of(self, requested: float) -> float:
        """Return the lowest score of the passages of a request."""
        return max(requested, self.score_threshold)

    def auto_filters_of(self, requested: bool | None) -> bool:
        """Return whether automatic filters apply to a request; they do if neither decides."""
        decisions = [each for each in (requested, self.auto_filters) if each is not None]
        return any(decisions) or not decisions


UNCHANGED = SearchSettings()
