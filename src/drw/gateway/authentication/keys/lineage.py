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

KEY = "key_"
"""What the ids of keys begin with. Other callers are known by their id alone: an issuer or a certificate vouches."""
PLATFORM = "platform:admin"
AUTHORITIES = (PLATFORM, "org:admin")
"""Scopes with which a caller issues keys to other persons, the widest first."""
MAX_OTHERS = 100
MAX_ANCESTORS = 2000
"""Maximum number of compared keys; with more, relations are unknown."""

Relation = ComparePrincipalsResponse.Relation

ANCESTRY: LiteralString = """
with recursive up (root) as (
    select unnest(%s::text[])
    union
    select coalesce(parent.root, own.maker)
    from up join key_lineage own on own.root = up.root left join key_lineage parent on parent.key = own.maker
)
select distinct own.root, coalesce(parent.root, own.maker) as maker, own.authority, own.maker_org, own.maker_desk,
    own.maker <> '' and (parent.key is not null or not starts_with(own.maker, 'key_')) as known
from (select root from up limit %s) found join key_lineage own on own.root = found.root
    left join key_lineage parent on parent.key = own.maker
"""


def authority(principal: Principal) -> str:
    """Return the scope by which a caller issues keys to others; empty: it has none, and makes them for itself."""
    return next((scope for scope in AUTHORITIES if scope in principal.scopes), "")


@dataclass(frozen=True, slots=True)
class _Parent:
    """A caller that made or rotated a key of a family, which is a chain of rotations known by its first key."""

    family: str
    authority: str
    desk: str


class KeyAncestry:
    """The key families of callers, with the families of all creators of their keys."""

    def __init__(self, families: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
        self._families = families
        self._parents: dict[str, list[_Parent]] = defaultdict(list)
        self._unknown: set[str] = set()
        records = list(rows)
        self._too_many = len({row["root"] for row in records}) > MAX_ANCESTORS
        for row in records:
            if not row["known"]:
                self._unknown.add(row["root"])
            elif row["maker"] != row["root"]:
                desk = f"{row['maker_org']}/{row['maker_desk']}"
                self._parents[row["root"]].append(_Parent(row["maker"], row["authority"], desk))

    def family(self, caller: str) -> str:
        """Return the family of a caller; empty for a key that was never on record."""
        return self._families.get(caller, "" if caller.startswith(KEY) else caller)

    def relation(self, caller: str, other: str) -> ComparePrincipalsResponse.Relation:
        """Return how a caller is related to another one."""
        own = self.family(caller)
        its = self.family(other)
        if caller == other or (own and own == its):
            return Relation.SAME_KEY
        if not its and own:
            return Relation.NO_SUCH_KEY
        if not own:
            return Relation.RELATION_UNSPECIFIED
        above = self._above(own)
        above_other = self._above(its)
        # An administrator that made both does not make them one; whoever made one for itself, or is one of them, does.
        shared = above.keys() & above_other.keys()
        if any("" in above[family] | above_other[family] for family in shared):
            return self._issued(own, above_other)
        if self._too_many or self._unknown & (above.keys() | above_other.keys()):
            return Relation.RELATION_UNSPECIFIED
        return Relation.DIFFERENT

    def complete(self, caller: str) -> bool:
        """Return whether all ancestors of a caller are on record."""
        family = self.family(caller)
        return bool(family) and not self._too_many and self._unknown.isdisjoint(self._above(family))

    def desks(self, caller: str) -> set[str]:
        """Return the desks ("ORG/DESK") of the creators of the caller's key, up to a platform administrator."""
        names: set[str] = set()
        for family in self._walk(self.family(caller), beyond_platform=False):
            names |= {parent.desk for parent in self._parents[family] if parent.authority != PLATFORM}
        return names

    def _issued(self, own: str, above_other: Mapping[str, set[str]]) -> ComparePrincipalsResponse.Relation:
        by_caller = own in above_other and "" not in above_other[own]
        return Relation.ISSUED_BY_CALLER if by_caller else Relation.SAME

    def _above(self, family: str) -> dict[str, set[str]]:
        """Return every ancestor with the authorities it used; the family itself has none."""
        ancestors: dict[str, set[str]] = defaultdict(set, {family: {""}})
        for one in self._walk(family, beyond_platform=True):
            for parent in self._parents[one]:
                ancestors[parent.family].add(parent.authority)
        return ancestors

    def _walk(self, family: str, *, beyond_platform: bool) -> list[str]:
        seen = {family}
        families = [family]
        for one in families:
            for parent in self._parents.get(one, ()):
                if parent.family not in seen and (beyond_platform or parent.authority != PLATFORM):
                    seen.add(parent.family)
                    families.append(parent.family)
        return families


class KeyLineage:
    """The table `key_lineage`."""

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
            InvalidRequest: too many callers are compared.
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
        """Return the families of some callers and of all above them."""
        rows = await self._database.all("select key, root from key_lineage where key = any(%s)", callers)
        families = {row["key"]: row["root"] for row in rows}
        above = await self._database.all(ANCESTRY, sorted(set(families.values())), MAX_ANCESTORS + 1)
        return KeyAncestry(families, above)
