"""Applies all database migrations of this release, before its processes start."""

from __future__ import annotations

from importlib import resources

from drw.catalog import BY_NAME
from drw.events import publisher
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.workflow.orchestration.adapters.dbos_engine import DbosEngine

SHARED = {"audit": "drw.kernel.storage", "metering": "drw.billing", publisher.SCHEMA: publisher.PACKAGE}
"""Packages with migrations of schemas that several services share."""


def schemas() -> dict[str, str]:
    """Return the package with the migrations of each schema; the shared schemas come first."""
    services = {service.name: service.package for service in BY_NAME.values()}
    return SHARED | {
        name: package for name, package in services.items() if (resources.files(package) / "migrations").is_dir()
    }


async def apply(profile: Profile) -> list[str]:
    """Apply the missing migrations of all schemas; return the schemas.

    Processes of the earlier release keep working: a migration only adds what the next release needs. Safe to repeat,
    and to run twice at the same time.
    """
    await DbosEngine(DbosEngine.Settings(dsn=profile.postgres, executor="migrations")).migrate()
    for schema, package in schemas().items():
        database = Database(profile.postgres, schema, pool_size=1)
        try:
            await database.start(package)
        finally:
            await database.stop()
    return list(schemas())
