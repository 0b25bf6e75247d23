"""Key lineage: which key created or rotated which, and whether two callers are the same principal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

from drw.api.gateway.v1.authentication_pb2 import ComparePrincipalsRequest, ComparePrincipalsResponse, Key
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.database import Connection, Database

KEY_PREFIX = "key_"
"""Prefix of the ids of keys. An issuer or a certificate identifies other callers, whose ids have no lineage."""
PLATFORM = "platform:admin"
AUTHORITIES = (PLATFORM, "org:admin")
"""Scopes with which a caller issues keys to other principals, the widest first."""
MAX_OTHERS = 100
MAX_ANCESTORS = 2000
"""Maximum number of ancestors; with more, relations are unspecified."""

Relation = ComparePrincipalsResponse.Relation

ANCESTRY: LiteralString = """
with recursive family (root) as (
    select unnest(%s::text[])
    union
    select coalesce(parent.root, own.maker)
    from family join key_lineage own on own.root = family.root left join key_lineage parent on parent.key = own.maker
)
select distinct own.root, coalesce(parent.root, own.maker) as maker, own.authority, own.maker_org, own.maker_desk,
    own.maker <> '' and (parent.key is not null or not starts_with(own.maker, 'key_')) as recorded
from (select root from family limit %s) ancestor join key_lineage own on own.root = ancestor.root
    left join key_lineage parent on parent.key = own.maker
"""


def authority(principal: Principal) -> str:
    """Return the scope with which a caller issues keys to others; empty: its keys are its own."""
    return next((scope for scope in AUTHORITIES if scope in principal.scopes), "")


@dataclass(frozen=True, slots=True)
class _Parent:
    """The creator of a key of a family. A family is a chain of rotations, identified by its first key."""

    family: str
    authority: str
    desk: str


class KeyAncestry:
    """The key families of callers, with the families of all creators of their keys."""

    def __init__(self, families: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
        self._families = families
        self._parents: dict[str, list[_Parent]] = defaultdict(list)
        self._unrecorded: set[str] = set()
        records = list(rows)
        self._is_truncated = len({row["root"] for row in records}) > MAX_ANCESTORS
        for row in records:
            if not row["recorded"]:
                self._unrecorded.add(row["root"])
            elif row["maker"] != row["root"]:
                desk = f"{row['maker_org']}/{row['maker_desk']}"
                self._parents[row["root"]].append(_Parent(row["maker"], row["authority"], desk))

    def family(self, caller: str) -> str:
        """Return the family of a caller; empty: a key without a record."""
        return self._families.get(caller, "" if caller.startswith(KEY_PREFIX) else caller)

    def relation(self, caller: str, other: str) -> ComparePrincipalsResponse.Relation:
        """Return the relation of a caller to another one."""
        family = self.family(caller)
        other_family = self.family(other)
        if caller == other or (family and family == other_family):
            return Relation.SAME_KEY
        if not other_family and family:
            return Relation.NO_SUCH_KEY
        if not family:
            return Relation.RELATION_UNSPECIFIED
        ancestors = self._ancestors(family)
        other_ancestors = self._ancestors(other_family)
        # A shared creator makes them the same principal, unless it created both as an administrator.
        shared = ancestors.keys() & other_ancestors.keys()
        if any("" in ancestors[shared_family] | other_ancestors[shared_family] for shared_family in shared):
            return self._same_or_issued(family, other_ancestors)
        if self._is_truncated or self._unrecorded & (ancestors.keys() | other_ancestors.keys()):
            return Relation.RELATION_UNSPECIFIED
        return Relation.DIFFERENT

    def complete(self, caller: str) -> bool:
        """Return whether all ancestors of a caller have a record."""
        family = self.family(caller)
        return bool(family) and not self._is_truncated and self._unrecorded.isdisjoint(self._ancestors(family))

    def desks(self, caller: str) -> set[str]:
        """Return the desks ("ORG/DESK") of the creators of the caller's key, up to a platform administrator."""
        names: set[str] = set()
        for family in self._ancestor_families(self.family(caller), beyond_platform=False):
            names |= {parent.desk for parent in self._parents[family] if parent.authority != PLATFORM}
        return names

    def _same_or_issued(
        self, family: str, other_ancestors: Mapping[str, set[str]]
    ) -> ComparePrincipalsResponse.Relation:
        by_caller = family in other_ancestors and "" not in other_ancestors[family]
        return Relation.ISSUED_BY_CALLER if by_caller else Relation.SAME

    def _ancestors(self, family: str) -> dict[str, set[str]]:
        """Return each ancestor family with the authorities of its creations; the family itself has the authority ""."""
        ancestors: dict[str, set[str]] = defaultdict(set, {family: {""}})
        for ancestor in self._ancestor_families(family, beyond_platform=True):
            for parent in self._parents[ancestor]:
                ancestors[parent.family].add(parent.authority)
        return ancestors

    def _ancestor_families(self, family: str, *, beyond_platform: bool) -> list[str]:
        visited = {family}
        families = [family]
        for current in families:
            for parent in self._parents.get(current, ()):
                if parent.family not in visited and (beyond_platform or parent.authority != PLATFORM):
                    visited.add(parent.family)
                    families.append(parent.family)
        return families


class KeyLineage:
    """Repository of the lineage of keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: Key, predecessor: str, connection: Connection) -> None:
        """Record the creator of a key and its predecessor; empty: none."""
        principal = context.caller()
        await connection.execute(
            """
            insert into key_lineage (key, root, predecessor, maker, authority, maker_org, maker_desk)
            values (%s, coalesce((select root from key_lineage where key = %s), %s), nullif(%s, ''), %s, %s, %s, %s)
            """,
            (
                key.id,
                predecessor,
                key.id,
                predecessor,
                key.created_by,
                authority(principal),
                principal.org,
                principal.desk,
            ),
        )

    async def compare(self, request: ComparePrincipalsRequest) -> ComparePrincipalsResponse:
        """Return the relation of the caller to others.

        Raises:
            InvalidRequest: there are more than `MAX_OTHERS`.
        """
        principal = context.caller()
        others = list(request.others)
        if len(others) > MAX_OTHERS:
            raise InvalidRequest(f"others: {len(others)} callers; at most {MAX_OTHERS}", param="others")
        ancestry = await self.ancestry([principal.key, *others])
        desks = ancestry.desks(principal.key) | {f"{principal.org}/{principal.desk}"}
        relations = [ancestry.relation(principal.key, other) for other in others]
        return ComparePrincipalsResponse(
            principal=ancestry.family(principal.key),
            relations=relations,
            desks=sorted(desks),
            complete=ancestry.complete(principal.key),
        )

    async def ancestry(self, callers: list[str]) -> KeyAncestry:
        """Return the families of these callers and of all their ancestors."""
        rows = await self._database.all("select key, root from key_lineage where key = any(%s)", callers)
        families = {row["key"]: row["root"] for row in rows}
        ancestors = await self._database.all(ANCESTRY, sorted(set(families.values())), MAX_ANCESTORS + 1)
        return KeyAncestry(families, ancestors)
