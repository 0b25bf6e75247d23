/* Routes, the boundary, token headers and log lines: the components that filter.c uses. */
#pragma once

#include "envoy.h"

/* Requirements of a route: scopes and maximum body size (route.c). */
typedef struct Route Route;

/* Whether a caller may use the route. Without a configuration nobody may. */
u32 route_admits(const Route *route, Bytes key, Bytes scopes);

/* The maximum size of a body in bytes. */
u64 route_max_body(const Route *route);

/* Headers at the boundary to third parties (boundary.c). */
typedef struct Boundary Boundary;

/* Returns 0 if the text is malformed or memory is exhausted. */
Boundary *boundary_new(Bytes text);

/* Strips the headers of a request or response. Returns 0 if they cannot be read; then they must not be forwarded. */
u32 boundary_apply(const Boundary *boundary, Filter filter, int map);

/* The token in the value of `authorization`; of size 0: it has another scheme (token_header.c). */
Bytes bearer_token(Bytes authorization);

/* Whether the JOSE header of a verified token is acceptable (token_header.c). */
u32 token_header_is_allowed(Bytes token);

/* Writes the caller and the fields that callers choose to the metadata of the access log (log_line.c). */
void write_log_line(Filter filter, Bytes org, Bytes desk, Bytes key, Bytes path);
