"""Local replies of Envoy in OpenAI's error format, and at the paths of Anthropic's API in that one's.

Types and codes match `drw.kernel.errors.HTTP`, so that official clients raise the same exception classes as for
errors of the services. At the paths of the Open Inference Protocol, errors have the format of that protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drw.agent import native_filter
from drw.agent.xds.builders import Json, extension, header, typed
from drw.agent.xds.http_filters import deny_list, filters
from drw.agent.xds.routes import INVALID_BODY_STATUS, PLATFORM_MARK, ROUTE_METADATA
from drw.kernel import errors

CREATE_KEY_HINT = "make one with `drw keys create`"
MISSING = f"there is no key in this request: send it as `Authorization: Bearer KEY`; {CREATE_KEY_HINT}"
SEVERAL_TOKENS = "there are two keys in this request: send it as Authorization or as x-api-key, not both"
EXPIRED = f"the key has expired; {CREATE_KEY_HINT}"
REVOKED = f"the key is revoked; {CREATE_KEY_HINT}"
KILLED = "this key, desk or model is stopped by a kill switch: `drw kill list` says since when, why and by whom"
CUT = "this was stopped by a kill switch: `drw kill list` says since when, why and by whom"
TOKENS = "the tokens of this minute are used up; try every few seconds, as Retry-After says, until some are free again"
MONEY = "the money of this period is used up; a retry does not help until more is set or the next period begins"
NOT_VALID = f"the key is not valid here: it is not whole, or another platform issued it; {CREATE_KEY_HINT}"
IDENTITY_ERROR = f"%DYNAMIC_METADATA({filters.IDENTITY}:rejection)%"
MISSING_SCOPE = (
    f"the key lacks the scope %METADATA(ROUTE:{ROUTE_METADATA}:needs)%; make one that has it with `drw keys create`"
)
NOT_ALLOWED = "this is not allowed here: %RESPONSE_CODE_DETAILS%"
NOT_FOUND = "there is nothing at %REQ(:METHOD)% %PATH(NQ)%"
INVALID_BODY = "the body must be a JSON object in UTF-8, each key in it once"
ENCODED_BODY = "the model is looked for in bodies at this path, so they must come without Content-Encoding"
WRONG_METHOD = f"%PATH(NQ)% takes %METADATA(ROUTE:{ROUTE_METADATA}:methods)%, not %REQ(:METHOD)%"
TOO_LARGE = f"the body is too large: at most %METADATA(ROUTE:{ROUTE_METADATA}:max_body)% at this path"
RATE_LIMITED = (
    "the key has used up its requests for this minute; Retry-After says in how many seconds the next may come"
)
NO_CREDENTIAL = "the gateway has no credential for the upstream of this route; its operator must give it one"
OVERLOADED = "too many requests are under way; try again soon"
UPSTREAM_DOWN = f"%METADATA(ROUTE:{ROUTE_METADATA}:gone)%"
TOO_SLOW = "no answer came in the time that this path allows"
REQUEST_TIMEOUT = "the request did not come whole in the time that there is for it: %RESPONSE_CODE_DETAILS%"
MALFORMED_REQUEST = "the request is not well formed: %RESPONSE_CODE_DETAILS%"
INTERNAL_ERROR = "the gateway cannot answer: %RESPONSE_CODE_DETAILS%"

NO_FIRST_BYTE = (
    "response.code_details == 'upstream_per_try_timeout' && "
    f"'{PLATFORM_MARK}' in xds.route_metadata.filter_metadata['{ROUTE_METADATA}']"
)
"""A platform process that has not started to respond. Third-party upstreams may be slow."""

SCOPE_DENIED = (
    f"response.code_details.contains('{native_filter.LACKS_SCOPE}') || "
    "response.code_details.startsWith('rbac_access_denied')"
)
"""Routes without body extraction, and routes matched after it."""

INVALID_FORM = errors.HTTP[errors.InvalidRequest]
RETRY_SECONDS = "2"
START_SECONDS = "5"
"""Start-up time of a platform process."""
TOKEN_RETRY_SECONDS = "10"

KILLED_FORM = errors.HTTP[errors.Forbidden]._replace(code="killed")
QUOTA_FORM = errors.HTTP[errors.RateLimited]._replace(code="insufficient_quota")
JWT_DENIED = "jwt_authn_access_denied"

ANTHROPIC_PATH = "/v1/messages"
PAYMENT = 402
ANTHROPIC_FORMS = {
    401: (401, "authentication_error"),
    PAYMENT: (PAYMENT, "billing_error"),
    403: (403, "permission_error"),
    404: (404, "not_found_error"),
    413: (413, "request_too_large"),
    429: (429, "rate_limit_error"),
    500: (500, "api_error"),
    503: (529, "overloaded_error"),
    504: (504, "timeout_error"),
}
"""Status and error type in Anthropic's API by status; others are `invalid_request_error` with the same status."""


INFERENCE_PATH = "/v2(/[^?]*)?([?].*)?"
INFERENCE_GRPC_PATH = "/inference[.]GRPCInferenceService/.*"


def local_replies() -> Json:
    """Return all local replies; the first match applies."""
    success = {"filter": _status(200), "body_format_override": {"text_format_source": {"inline_string": "ok\n"}}}
    mappers = [
        _reply(_cel(f"'rejection' in metadata.filter_metadata['{filters.IDENTITY}']"), IDENTITY_ERROR, 401),
        _reply(_rejected_for(filters.BAD_HEADER), NOT_VALID, 401),
        _reply(_rejected_for(filters.SEVERAL_TOKENS), SEVERAL_TOKENS, 401),
        _reply(_rejected_for(deny_list.REVOKED), REVOKED, 401),
        _reply(_rejected_for(deny_list.KILLED), KILLED, 403, form=KILLED_FORM),
        _reply(_rejected_for(deny_list.MONEY), MONEY, 429, form=QUOTA_FORM),
        _reply(_rejected_for(deny_list.TOKENS), TOKENS, 429, TOKEN_RETRY_SECONDS),
        _reply(_cel(f"response.code_details.contains('{native_filter.CUT}')"), CUT, 403, form=KILLED_FORM),
        _reply(_details(f"{JWT_DENIED}{{Jwt_is_missing}}"), MISSING, 401),
        _reply(_details(f"{JWT_DENIED}{{Jwt_is_expired}}"), EXPIRED, 401),
        _reply(_cel(f"response.code_details.startsWith('{JWT_DENIED}')"), NOT_VALID, 401),
        _reply(_cel("response.code_details.contains('credential')"), NO_CREDENTIAL, 503),
        _reply(_cel(SCOPE_DENIED), MISSING_SCOPE, 403),
        _reply(_status(403), NOT_ALLOWED, 403),
        _reply(_status(404), NOT_FOUND, 404),
        _reply(_status(405), WRONG_METHOD, 405),
        _reply(_status(413), TOO_LARGE, 413),
        _reply(_status(415), ENCODED_BODY, 415),
        _reply(_status(INVALID_BODY_STATUS), INVALID_BODY, 400),
        _reply(_status(429), RATE_LIMITED, 429),
        _reply(_flags("UO", "OM"), OVERLOADED, 503, RETRY_SECONDS),
        _reply(_status(503), UPSTREAM_DOWN, 503, START_SECONDS),
        _reply(_cel(NO_FIRST_BYTE), UPSTREAM_DOWN, 503, START_SECONDS),
        _reply(_cel("response.code_details.startsWith('request_')"), REQUEST_TIMEOUT, 408, form=INVALID_FORM),
        _reply(_status(408), TOO_SLOW, 504),
        _reply(_status(504), TOO_SLOW, 504),
        _reply(_status(400), MALFORMED_REQUEST, 400),
        _reply(_status(431), MALFORMED_REQUEST, 431, form=INVALID_FORM),
    ]
    return {
        "mappers": [success, *_inference_mappers(mappers), *_anthropic_mappers(mappers), *mappers],
        "body_format": _format(INTERNAL_ERROR, errors.HTTP[errors.InternalError]),
    }


def _inference_mappers(mappers: Sequence[Json]) -> Iterator[Json]:
    """Yield the mappers for the Open Inference Protocol: `{"error": MESSAGE}`, and only the message for gRPC."""
    for mapper in mappers:
        message = _openai_error(mapper)["message"]
        for path, body in (
            (INFERENCE_PATH, {"json_format": {"error": message}}),
            (INFERENCE_GRPC_PATH, {"text_format_source": {"inline_string": message}}),
        ):
            condition = {"and_filter": {"filters": [_path_filter(path), mapper["filter"]]}}
            yield mapper | {"filter": condition, "body_format_override": body}


def _anthropic_mappers(mappers: Sequence[Json]) -> Iterator[Json]:
    """Yield the mappers for the paths of Anthropic's API, the last one for all other errors."""
    path = _path_filter(f"{ANTHROPIC_PATH}([/?].*)?")
    for mapper in mappers:
        error = _openai_error(mapper)
        status = PAYMENT if error["code"] == QUOTA_FORM.code else mapper["status_code"]
        condition = {"and_filter": {"filters": [path, mapper["filter"]]}}
        yield mapper | _anthropic_reply(condition, error["message"], status)
    yield _anthropic_reply(path, INTERNAL_ERROR, 500)


def _anthropic_reply(condition: Json, message: str, status: int) -> Json:
    sent_status, kind = ANTHROPIC_FORMS.get(status, (status, errors.HTTP[errors.InvalidRequest].type))
    error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "%REQ(X-REQUEST-ID)%"}
    return {"filter": condition, "status_code": sent_status, "body_format_override": {"json_format": error}}


def _openai_error(mapper: Json) -> Json:
    error: Json = mapper["body_format_override"]["json_format"]["error"]
    return error


def _path_filter(pattern: str) -> Json:
    regex = {"google_re2": {}, "regex": pattern}
    return {"header_filter": {"header": {"name": ":path", "string_match": {"safe_regex": regex}}}}


def _reply(
    condition: Json, message: str, status: int, retry_after: str = "", *, form: errors.HttpError | None = None
) -> Json:
    form = form or next(f for f in errors.HTTP.values() if f.status == status)
    reply = {"filter": condition, "status_code": status, "body_format_override": _format(message, form)}
    return reply | ({"headers_to_add": [header("retry-after", retry_after)]} if retry_after else {})


def _format(message: str, form: errors.HttpError) -> Json:
    return {"json_format": {"error": {"message": message, "type": form.type, "param": None, "code": form.code}}}


def _status(code: int) -> Json:
    value = {"default_value": code, "runtime_key": f"drw.reply.{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _flags(*flags: str) -> Json:
    return {"response_flag_filter": {"flags": list(flags)}}


def _rejected_for(reason: str) -> Json:
    by_deny_list = f"response.code_details == 'rbac_access_denied_matched_policy[{reason}]'"
    return _cel(f"{by_deny_list} || response.code_details.contains('{native_filter.REJECTED_PREFIX}{reason}')")


def _details(text: str) -> Json:
    return _cel(f"response.code_details == '{text}'")


def _cel(expression: str) -> Json:
    message = typed("envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=expression)
    return {"extension_filter": extension("envoy.access_loggers.extension_filters.cel", message)}
