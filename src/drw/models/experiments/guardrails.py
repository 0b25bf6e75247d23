"""Automatic stop of experiments whose guardrails are breached."""

from __future__ import annotations

import asyncio
import logging

from drw.api.models.v1.experiments_pb2 import Results
from drw.kernel.errors import DrwError
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.storage.database import Database
from drw.models.experiments.analysis import results
from drw.models.experiments.recording.recorder import Recorder
from drw.models.experiments.settings import Settings
from drw.models.experiments.store import ExperimentStore, StoredExperiment

log = logging.getLogger(__name__)


class GuardrailWatch:
    """Compares the arms of running experiments again and again, and stops an experiment that does harm.

    Several replicas may do it at the same time: an experiment stops once.
    """

    def __init__(self, database: Database, store: ExperimentStore, recorder: Recorder, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._recorder = recorder
        self._settings = settings

    async def run(self) -> None:
        """Check all running experiments at each interval."""
        while True:
            await self.check()
            await self._recorder.forget_ids(self._settings.outcome_ids_days)
            await asyncio.sleep(self._settings.guardrail_seconds)

    async def check(self) -> None:
        """Check all running experiments once."""
        for stored in await self._store.running():
            if any(metric.max_harm for metric in stored.experiment.metrics):
                await self._check_one(stored)

    async def _check_one(self, stored: StoredExperiment) -> None:
        fields = {"experiment": stored.key, "org": stored.org}
        try:
            reason = breach(await results(self._database, stored))
        except (DrwError, ValueError) as error:  # of this experiment only: the others are checked all the same
            log.error("guardrails cannot be checked: %s", error, extra={"fields": fields})
            return
        if reason:
            with acting_for(_guardrail(stored)):
                await self._store.stop(stored.key, reason)
            log.warning("experiment stopped by a guardrail", extra={"fields": fields})


def _guardrail(stored: StoredExperiment) -> Principal:
    """Return the principal of an automatic stop, so that the desk's audit log contains it."""
    return Principal(stored.org, stored.desk, "guardrail", frozenset(), frozenset(stored.experiment.walls))


def breach(found: Results) -> str:
    """Return which guardrail is breached, or an empty text."""
    if found.sample_ratio.mismatch:
        return ""  # nothing that is compared can be trusted, neither a benefit nor a harm
    for comparison in found.comparisons:
        if comparison.guardrail_breached:
            return f"guardrail {comparison.metric} breached by arm {comparison.arm}"
    return ""
