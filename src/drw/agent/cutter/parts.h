/* The parts of the module beside its streams and limits. */
#pragma once

#include "envoy.h"

/* What a route asks of a request: a scope of its caller, and a bound of its body (route.c). */
typedef struct Route Route;

/* 0: nobody may take this route, which is also so where a route says nothing. */
u32 route_admits(const Route *route, Bytes key, Bytes scopes);

/* The most bytes of a body. */
u64 route_most(const Route *route);

/* Headers at the boundary to third parties (boundary.c). */
typedef struct Boundary Boundary;

/* 0: the text is no list of names, or there is no memory for it. */
Boundary *boundary_new(Bytes text);

/* Removes the headers of a request or of an answer; 0: they could not be read, and must go no further. */
u32 boundary_apply(const Boundary *boundary, Filter filter, int map);

/* Whether a verified token's own header says nothing that changes what the token means (token_header.c). `sent` is the
 * value of the header `authorization`. */
u32 token_header_is_good(Bytes sent);

/* Notes for the access log who calls, and what callers choose (log_line.c). */
void note(Filter filter, Bytes org, Bytes desk, Bytes key, Bytes path);
