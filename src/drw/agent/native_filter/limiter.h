/* Limits of requests a minute; see limiter.c. */
#pragma once

#include "envoy.h"

/* Hash table of the limits by subject. */
typedef struct Limits {
  u64 *subjects; /* open addressing; 0: free */
  u64 *counters; /* hash of the counter, which subjects may share */
  u32 *per_minute;
  u32 mask;
  u32 default_per_minute; /* for keys without a limit; 0: none */
} Limits;

/* Status of the tightest limit of a request; a limit of 0: no limit applies. */
typedef struct LimitStatus {
  u32 limit;
  u32 remaining;
  u32 reset_seconds; /* until more requests are free, or, after a rejection, until the next one may pass */
  u32 rejected;
} LimitStatus;

/* Rate limit headers of a response, with storage for their values. */
enum { MAX_LIMIT_HEADERS = 9, MAX_VALUE = 64 };
typedef struct LimitHeaders {
  Header headers[MAX_LIMIT_HEADERS];
  u8 append[MAX_LIMIT_HEADERS]; /* added to headers of the same name, not replacing them */
  u32 count;
  u8 text[MAX_LIMIT_HEADERS][MAX_VALUE];
} LimitHeaders;

/* Counts a request of a key, a desk and an org, unless a limit rejects it. */
LimitStatus limits_count(const Limits *limits, u64 key, u64 desk, u64 org);

/* Writes the headers of a status. */
void limits_write(const LimitStatus *status, LimitHeaders *limits);

/* Adds the headers of a status to the response. */
void limits_add_headers(Filter filter, const LimitStatus *status);

/* Writes a number of up to ten digits, and returns the end. */
u8 *decimal(u8 *to, u32 value);
