"""What a store needs of psycopg besides a connection: JSON values, composed SQL and errors.

Only `drw.kernel.storage` and folders named `adapters` import psycopg; stores with SQL import from here.
"""

from __future__ import annotations

from psycopg import Error as DatabaseError
from psycopg.errors import ForeignKeyViolation
from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.json import Jsonb

__all__ = ["SQL", "Composed", "DatabaseError", "ForeignKeyViolation", "Identifier", "Jsonb"]
