"""Re-exports of psycopg for stores: JSON values, composed SQL and errors.

Only `drw.kernel.storage` and folders named `adapters` import psycopg; other stores import from this module.
"""

from __future__ import annotations

from psycopg import Error as DatabaseError
from psycopg.errors import ForeignKeyViolation
from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.json import Jsonb

__all__ = ["SQL", "Composed", "DatabaseError", "ForeignKeyViolation", "Identifier", "Jsonb"]
