import datetime

from drw.api.kernel.v1 import kernel_pb2 as _kernel_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Key(_message.Message):
    __slots__ = ("id", "name", "org", "desk", "scopes", "last_characters", "created_at", "expires_at", "revoked_at", "requests_per_minute", "walls", "signed_with", "ends_at", "successor", "created_by", "borrowed", "revoked_keys", "kept_keys")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    LAST_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    SIGNED_WITH_FIELD_NUMBER: _ClassVar[int]
    ENDS_AT_FIELD_NUMBER: _ClassVar[int]
    SUCCESSOR_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    BORROWED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_KEYS_FIELD_NUMBER: _ClassVar[int]
    KEPT_KEYS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    org: str
    desk: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    last_characters: str
    created_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    revoked_at: _timestamp_pb2.Timestamp
    requests_per_minute: int
    walls: _containers.RepeatedScalarFieldContainer[str]
    signed_with: str
    ends_at: _timestamp_pb2.Timestamp
    successor: str
    created_by: str
    borrowed: bool
    revoked_keys: _containers.RepeatedScalarFieldContainer[str]
    kept_keys: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., last_characters: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoked_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., requests_per_minute: _Optional[int] = ..., walls: _Optional[_Iterable[str]] = ..., signed_with: _Optional[str] = ..., ends_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., successor: _Optional[str] = ..., created_by: _Optional[str] = ..., borrowed: _Optional[bool] = ..., revoked_keys: _Optional[_Iterable[str]] = ..., kept_keys: _Optional[int] = ...) -> None: ...

class CreateKeyRequest(_message.Message):
    __slots__ = ("desk", "name", "scopes", "ttl_seconds", "requests_per_minute", "walls", "org")
    DESK_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    desk: str
    name: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    ttl_seconds: int
    requests_per_minute: int
    walls: _containers.RepeatedScalarFieldContainer[str]
    org: str
    def __init__(self, desk: _Optional[str] = ..., name: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., ttl_seconds: _Optional[int] = ..., requests_per_minute: _Optional[int] = ..., walls: _Optional[_Iterable[str]] = ..., org: _Optional[str] = ...) -> None: ...

class CreatedKey(_message.Message):
    __slots__ = ("key", "secret")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    key: Key
    secret: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., secret: _Optional[str] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("all", "page_size", "page_token", "org")
    ALL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    all: bool
    page_size: int
    page_token: str
    org: str
    def __init__(self, all: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., org: _Optional[str] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("keys", "next_page_token")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    next_page_token: str
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetKeyRequest(_message.Message):
    __slots__ = ("id", "org")
    ID_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    id: str
    org: str
    def __init__(self, id: _Optional[str] = ..., org: _Optional[str] = ...) -> None: ...

class RevokeKeyRequest(_message.Message):
    __slots__ = ("id", "org", "keep_children")
    ID_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    KEEP_CHILDREN_FIELD_NUMBER: _ClassVar[int]
    id: str
    org: str
    keep_children: bool
    def __init__(self, id: _Optional[str] = ..., org: _Optional[str] = ..., keep_children: _Optional[bool] = ...) -> None: ...

class RotateKeyRequest(_message.Message):
    __slots__ = ("id", "overlap_seconds", "org")
    ID_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    id: str
    overlap_seconds: int
    org: str
    def __init__(self, id: _Optional[str] = ..., overlap_seconds: _Optional[int] = ..., org: _Optional[str] = ...) -> None: ...

class GetMeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Me(_message.Message):
    __slots__ = ("org", "desk", "key", "scopes", "walls", "identified_by", "expires_at")
    class IdentifiedBy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        IDENTIFIED_BY_UNSPECIFIED: _ClassVar[Me.IdentifiedBy]
        KEY: _ClassVar[Me.IdentifiedBy]
        ISSUER: _ClassVar[Me.IdentifiedBy]
        CERTIFICATE: _ClassVar[Me.IdentifiedBy]
        OPERATOR: _ClassVar[Me.IdentifiedBy]
    IDENTIFIED_BY_UNSPECIFIED: Me.IdentifiedBy
    KEY: Me.IdentifiedBy
    ISSUER: Me.IdentifiedBy
    CERTIFICATE: Me.IdentifiedBy
    OPERATOR: Me.IdentifiedBy
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    IDENTIFIED_BY_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    org: str
    desk: str
    key: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    walls: _containers.RepeatedScalarFieldContainer[str]
    identified_by: Me.IdentifiedBy
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, org: _Optional[str] = ..., desk: _Optional[str] = ..., key: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., walls: _Optional[_Iterable[str]] = ..., identified_by: _Optional[_Union[Me.IdentifiedBy, str]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Org(_message.Message):
    __slots__ = ("name", "title", "scopes", "walls", "created_at", "updated_at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    walls: _containers.RepeatedScalarFieldContainer[str]
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., walls: _Optional[_Iterable[str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PutOrgRequest(_message.Message):
    __slots__ = ("name", "title", "scopes", "walls", "revoke_wider")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    REVOKE_WIDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    walls: _containers.RepeatedScalarFieldContainer[str]
    revoke_wider: bool
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., walls: _Optional[_Iterable[str]] = ..., revoke_wider: _Optional[bool] = ...) -> None: ...

class PutOrgResponse(_message.Message):
    __slots__ = ("org", "narrowed_desks", "revoked_keys")
    ORG_FIELD_NUMBER: _ClassVar[int]
    NARROWED_DESKS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_KEYS_FIELD_NUMBER: _ClassVar[int]
    org: Org
    narrowed_desks: _containers.RepeatedScalarFieldContainer[str]
    revoked_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, org: _Optional[_Union[Org, _Mapping]] = ..., narrowed_desks: _Optional[_Iterable[str]] = ..., revoked_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class ListOrgsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListOrgsResponse(_message.Message):
    __slots__ = ("orgs", "next_page_token")
    ORGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    orgs: _containers.RepeatedCompositeFieldContainer[Org]
    next_page_token: str
    def __init__(self, orgs: _Optional[_Iterable[_Union[Org, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetOrgRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteOrgRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Desk(_message.Message):
    __slots__ = ("org", "name", "title", "scopes", "walls", "created_at", "updated_at")
    ORG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    org: str
    name: str
    title: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    walls: _containers.RepeatedScalarFieldContainer[str]
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    def __init__(self, org: _Optional[str] = ..., name: _Optional[str] = ..., title: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., walls: _Optional[_Iterable[str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PutDeskRequest(_message.Message):
    __slots__ = ("name", "org", "title", "scopes", "walls", "revoke_wider")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    REVOKE_WIDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    org: str
    title: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    walls: _containers.RepeatedScalarFieldContainer[str]
    revoke_wider: bool
    def __init__(self, name: _Optional[str] = ..., org: _Optional[str] = ..., title: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., walls: _Optional[_Iterable[str]] = ..., revoke_wider: _Optional[bool] = ...) -> None: ...

class PutDeskResponse(_message.Message):
    __slots__ = ("desk", "revoked_keys")
    DESK_FIELD_NUMBER: _ClassVar[int]
    REVOKED_KEYS_FIELD_NUMBER: _ClassVar[int]
    desk: Desk
    revoked_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, desk: _Optional[_Union[Desk, _Mapping]] = ..., revoked_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class ListDesksRequest(_message.Message):
    __slots__ = ("org", "page_size", "page_token")
    ORG_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    org: str
    page_size: int
    page_token: str
    def __init__(self, org: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDesksResponse(_message.Message):
    __slots__ = ("desks", "next_page_token")
    DESKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    desks: _containers.RepeatedCompositeFieldContainer[Desk]
    next_page_token: str
    def __init__(self, desks: _Optional[_Iterable[_Union[Desk, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetDeskRequest(_message.Message):
    __slots__ = ("name", "org")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    name: str
    org: str
    def __init__(self, name: _Optional[str] = ..., org: _Optional[str] = ...) -> None: ...

class DeleteDeskRequest(_message.Message):
    __slots__ = ("name", "org", "revoke_keys")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    REVOKE_KEYS_FIELD_NUMBER: _ClassVar[int]
    name: str
    org: str
    revoke_keys: bool
    def __init__(self, name: _Optional[str] = ..., org: _Optional[str] = ..., revoke_keys: _Optional[bool] = ...) -> None: ...

class DeleteDeskResponse(_message.Message):
    __slots__ = ("desk", "revoked_keys")
    DESK_FIELD_NUMBER: _ClassVar[int]
    REVOKED_KEYS_FIELD_NUMBER: _ClassVar[int]
    desk: Desk
    revoked_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, desk: _Optional[_Union[Desk, _Mapping]] = ..., revoked_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class SigningKey(_message.Message):
    __slots__ = ("kid", "state", "created_at", "signs_from", "retired_at", "good_keys", "last_key_ends_at")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[SigningKey.State]
        PUBLISHED: _ClassVar[SigningKey.State]
        SIGNS: _ClassVar[SigningKey.State]
        VERIFIES: _ClassVar[SigningKey.State]
        ENDED: _ClassVar[SigningKey.State]
        RETIRED: _ClassVar[SigningKey.State]
    STATE_UNSPECIFIED: SigningKey.State
    PUBLISHED: SigningKey.State
    SIGNS: SigningKey.State
    VERIFIES: SigningKey.State
    ENDED: SigningKey.State
    RETIRED: SigningKey.State
    KID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    SIGNS_FROM_FIELD_NUMBER: _ClassVar[int]
    RETIRED_AT_FIELD_NUMBER: _ClassVar[int]
    GOOD_KEYS_FIELD_NUMBER: _ClassVar[int]
    LAST_KEY_ENDS_AT_FIELD_NUMBER: _ClassVar[int]
    kid: str
    state: SigningKey.State
    created_at: _timestamp_pb2.Timestamp
    signs_from: _timestamp_pb2.Timestamp
    retired_at: _timestamp_pb2.Timestamp
    good_keys: int
    last_key_ends_at: _timestamp_pb2.Timestamp
    def __init__(self, kid: _Optional[str] = ..., state: _Optional[_Union[SigningKey.State, str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., signs_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., retired_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., good_keys: _Optional[int] = ..., last_key_ends_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListSigningKeysRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSigningKeysResponse(_message.Message):
    __slots__ = ("signing_keys",)
    SIGNING_KEYS_FIELD_NUMBER: _ClassVar[int]
    signing_keys: _containers.RepeatedCompositeFieldContainer[SigningKey]
    def __init__(self, signing_keys: _Optional[_Iterable[_Union[SigningKey, _Mapping]]] = ...) -> None: ...

class RotateSigningKeyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RetireSigningKeyRequest(_message.Message):
    __slots__ = ("kid",)
    KID_FIELD_NUMBER: _ClassVar[int]
    kid: str
    def __init__(self, kid: _Optional[str] = ...) -> None: ...

class RetireSigningKeyResponse(_message.Message):
    __slots__ = ("signing_key", "revoked_keys")
    SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    REVOKED_KEYS_FIELD_NUMBER: _ClassVar[int]
    signing_key: SigningKey
    revoked_keys: int
    def __init__(self, signing_key: _Optional[_Union[SigningKey, _Mapping]] = ..., revoked_keys: _Optional[int] = ...) -> None: ...

class Issuer(_message.Message):
    __slots__ = ("name", "issuer", "audiences", "jwks_uri", "jwks", "org", "claims", "default_desk", "roles", "created_at", "updated_at", "fetched_at", "fetch_error", "kids")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    AUDIENCES_FIELD_NUMBER: _ClassVar[int]
    JWKS_URI_FIELD_NUMBER: _ClassVar[int]
    JWKS_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_DESK_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    FETCHED_AT_FIELD_NUMBER: _ClassVar[int]
    FETCH_ERROR_FIELD_NUMBER: _ClassVar[int]
    KIDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    issuer: str
    audiences: _containers.RepeatedScalarFieldContainer[str]
    jwks_uri: str
    jwks: str
    org: str
    claims: ClaimNames
    default_desk: str
    roles: _containers.RepeatedCompositeFieldContainer[Role]
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    fetched_at: _timestamp_pb2.Timestamp
    fetch_error: str
    kids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., issuer: _Optional[str] = ..., audiences: _Optional[_Iterable[str]] = ..., jwks_uri: _Optional[str] = ..., jwks: _Optional[str] = ..., org: _Optional[str] = ..., claims: _Optional[_Union[ClaimNames, _Mapping]] = ..., default_desk: _Optional[str] = ..., roles: _Optional[_Iterable[_Union[Role, _Mapping]]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., fetched_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., fetch_error: _Optional[str] = ..., kids: _Optional[_Iterable[str]] = ...) -> None: ...

class ClaimNames(_message.Message):
    __slots__ = ("org", "desk", "roles", "walls")
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    org: str
    desk: str
    roles: str
    walls: str
    def __init__(self, org: _Optional[str] = ..., desk: _Optional[str] = ..., roles: _Optional[str] = ..., walls: _Optional[str] = ...) -> None: ...

class Role(_message.Message):
    __slots__ = ("name", "scopes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    name: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ...) -> None: ...

class PutIssuerRequest(_message.Message):
    __slots__ = ("name", "issuer", "audiences", "jwks_uri", "jwks", "org", "claims", "default_desk", "roles")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    AUDIENCES_FIELD_NUMBER: _ClassVar[int]
    JWKS_URI_FIELD_NUMBER: _ClassVar[int]
    JWKS_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_DESK_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    issuer: str
    audiences: _containers.RepeatedScalarFieldContainer[str]
    jwks_uri: str
    jwks: str
    org: str
    claims: ClaimNames
    default_desk: str
    roles: _containers.RepeatedCompositeFieldContainer[Role]
    def __init__(self, name: _Optional[str] = ..., issuer: _Optional[str] = ..., audiences: _Optional[_Iterable[str]] = ..., jwks_uri: _Optional[str] = ..., jwks: _Optional[str] = ..., org: _Optional[str] = ..., claims: _Optional[_Union[ClaimNames, _Mapping]] = ..., default_desk: _Optional[str] = ..., roles: _Optional[_Iterable[_Union[Role, _Mapping]]] = ...) -> None: ...

class ListIssuersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListIssuersResponse(_message.Message):
    __slots__ = ("issuers",)
    ISSUERS_FIELD_NUMBER: _ClassVar[int]
    issuers: _containers.RepeatedCompositeFieldContainer[Issuer]
    def __init__(self, issuers: _Optional[_Iterable[_Union[Issuer, _Mapping]]] = ...) -> None: ...

class GetIssuerRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RefreshIssuerRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteIssuerRequest(_message.Message):
    __slots__ = ("name", "keep_children")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KEEP_CHILDREN_FIELD_NUMBER: _ClassVar[int]
    name: str
    keep_children: bool
    def __init__(self, name: _Optional[str] = ..., keep_children: _Optional[bool] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("name", "san", "org", "desk", "scopes", "walls", "created_at", "updated_at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAN_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    san: str
    org: str
    desk: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    walls: _containers.RepeatedScalarFieldContainer[str]
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., san: _Optional[str] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., walls: _Optional[_Iterable[str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PutCertificateRequest(_message.Message):
    __slots__ = ("name", "san", "org", "desk", "scopes", "walls")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAN_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    DESK_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    name: str
    san: str
    org: str
    desk: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    walls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., san: _Optional[str] = ..., org: _Optional[str] = ..., desk: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., walls: _Optional[_Iterable[str]] = ...) -> None: ...

class ListCertificatesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCertificatesResponse(_message.Message):
    __slots__ = ("certificates",)
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    certificates: _containers.RepeatedCompositeFieldContainer[Certificate]
    def __init__(self, certificates: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ...) -> None: ...

class GetCertificateRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteCertificateRequest(_message.Message):
    __slots__ = ("name", "keep_children")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KEEP_CHILDREN_FIELD_NUMBER: _ClassVar[int]
    name: str
    keep_children: bool
    def __init__(self, name: _Optional[str] = ..., keep_children: _Optional[bool] = ...) -> None: ...

class ComparePrincipalsRequest(_message.Message):
    __slots__ = ("others",)
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    others: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, others: _Optional[_Iterable[str]] = ...) -> None: ...

class ComparePrincipalsResponse(_message.Message):
    __slots__ = ("principal", "relations", "desks", "complete")
    class Relation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RELATION_UNSPECIFIED: _ClassVar[ComparePrincipalsResponse.Relation]
        DIFFERENT: _ClassVar[ComparePrincipalsResponse.Relation]
        NO_SUCH_KEY: _ClassVar[ComparePrincipalsResponse.Relation]
        ISSUED_BY_CALLER: _ClassVar[ComparePrincipalsResponse.Relation]
        SAME: _ClassVar[ComparePrincipalsResponse.Relation]
        SAME_KEY: _ClassVar[ComparePrincipalsResponse.Relation]
    RELATION_UNSPECIFIED: ComparePrincipalsResponse.Relation
    DIFFERENT: ComparePrincipalsResponse.Relation
    NO_SUCH_KEY: ComparePrincipalsResponse.Relation
    ISSUED_BY_CALLER: ComparePrincipalsResponse.Relation
    SAME: ComparePrincipalsResponse.Relation
    SAME_KEY: ComparePrincipalsResponse.Relation
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    RELATIONS_FIELD_NUMBER: _ClassVar[int]
    DESKS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    principal: str
    relations: _containers.RepeatedScalarFieldContainer[ComparePrincipalsResponse.Relation]
    desks: _containers.RepeatedScalarFieldContainer[str]
    complete: bool
    def __init__(self, principal: _Optional[str] = ..., relations: _Optional[_Iterable[_Union[ComparePrincipalsResponse.Relation, str]]] = ..., desks: _Optional[_Iterable[str]] = ..., complete: _Optional[bool] = ...) -> None: ...

class GetPermissionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Permissions(_message.Message):
    __slots__ = ("ended", "scopes", "walls")
    ENDED_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    WALLS_FIELD_NUMBER: _ClassVar[int]
    ended: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    walls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ended: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., walls: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchCredentialsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Credentials(_message.Message):
    __slots__ = ("issuer", "audience", "jwks", "revoked", "issuers", "certificates", "desks")
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    JWKS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    ISSUERS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    DESKS_FIELD_NUMBER: _ClassVar[int]
    issuer: str
    audience: str
    jwks: str
    revoked: _containers.RepeatedScalarFieldContainer[str]
    issuers: _containers.RepeatedCompositeFieldContainer[Issuer]
    certificates: _containers.RepeatedCompositeFieldContainer[Certificate]
    desks: _containers.RepeatedCompositeFieldContainer[Desk]
    def __init__(self, issuer: _Optional[str] = ..., audience: _Optional[str] = ..., jwks: _Optional[str] = ..., revoked: _Optional[_Iterable[str]] = ..., issuers: _Optional[_Iterable[_Union[Issuer, _Mapping]]] = ..., certificates: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ..., desks: _Optional[_Iterable[_Union[Desk, _Mapping]]] = ...) -> None: ...
