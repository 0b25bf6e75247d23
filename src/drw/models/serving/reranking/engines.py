"""The engines of rerankers: an upstream, the files of a cross-encoder, or an embedding model."""

from __future__ import annotations

from collections.abc import Sequence

from drw.api.models.v1.discovery_pb2 import ResolvedModel
from drw.kernel.observability.overhead import waiting
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.ports import EngineTarget, Ranking, RerankEngine
from drw.models.serving.routing.model_directory import EMBEDDING
from drw.models.serving.routing.rerankers import PooledReranker
from drw.models.serving.runtime.pool import ModelPool
from drw.models.serving.runtime.specs import has_files, spec_of
from drw.models.serving.upstreams import UpstreamCalls


class RerankEngines:
    """Scores documents with the engine of a model."""

    def __init__(self, calls: UpstreamCalls, upstream: RerankEngine, bi_encoder: RerankEngine, pool: ModelPool) -> None:
        self._calls = calls
        self._upstream = upstream
        self._bi_encoder = bi_encoder
        self._pool = pool

    async def rank(self, resolved: ResolvedModel, query: str, documents: Sequence[str], record: CallRecord) -> Ranking:
        """Return the scores of the documents; raises as `RerankEngine.rank` and `Reranker.score` do."""
        if has_files(resolved):
            return await self._rank_with_files(resolved, query, documents, record)
        engine = self._bi_encoder if resolved.model.kind == EMBEDDING else self._upstream

        async def rank(target: EngineTarget) -> Ranking:
            return await engine.rank(target, query, documents)

        return await self._calls.run(resolved, rank)

    async def _rank_with_files(
        self, resolved: ResolvedModel, query: str, documents: Sequence[str], record: CallRecord
    ) -> Ranking:
        spec = spec_of(resolved)
        with waiting("upstream"):
            async with self._pool.lease(spec) as loaded:
                record.details["version"] = loaded.digest
                scores = await PooledReranker(self._pool, spec).score(query, documents)
        return Ranking(scores, tokens=None)
