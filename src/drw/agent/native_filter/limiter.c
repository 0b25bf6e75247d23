/* Request limits of keys, desks and orgs: sliding windows of 60 seconds, shared by all workers.
 *
 * No interval of 60 seconds has more requests than the limit; all of them may come at once. A window counts the
 * requests in each of the last 61 clock seconds, so a request leaves it after 60 to 61 s. It stores counts, not the
 * remaining requests: a limit that changes, or is removed and set again, applies to the requests already counted.
 *
 * The windows belong to the process, and survive new configurations, routes and listeners. There is a fixed number of
 * sets, each with a lock. A set holds the windows of its subjects that had a request in the last minute: memory grows
 * with the callers of the busiest minute, up to 262,144 windows, 70 MB.
 */

#include "limiter.h"

enum { WINDOW = 61, SETS = 8192, WAYS = 32, FULL_SECONDS = 1 };

typedef struct Window {
  u32 newest; /* second of the clock */
  u32 sum;
  u32 seconds[WINDOW];
} Window;

typedef struct Set {
  u64 counters[WAYS];
  Window *windows[WAYS];
  u32 count;
  Lock lock;
} Set;

static Set sets[SETS];

static u32 now_seconds(void) {
  struct timespec now = {0};
  clock_gettime(MONOTONIC, &now);
  return (u32)now.seconds + WINDOW; /* so that no second of a window is negative */
}

/* Removes counts that are older than the window. The clocks of two workers may differ slightly. */
static void slide(Window *window, u32 now) {
  for (u32 past = 0; past < WINDOW && window->newest < now; past++) {
    u32 *leaving = &window->seconds[++window->newest % WINDOW];
    window->sum -= *leaving;
    *leaving = 0;
  }
  if (window->newest < now)
    window->newest = now;
}

/* The seconds until this many requests have left the window. */
static u32 seconds_until_free(const Window *window, u32 requests) {
  u32 total = 0;
  for (u32 age = WINDOW; age-- > 0;) {
    total += window->seconds[(window->newest - age) % WINDOW];
    if (total >= requests)
      return WINDOW - age;
  }
  return WINDOW;
}

static Set *set_of(u64 counter) { return &sets[(u32)(counter >> 32) % SETS]; }

static Window *find_window(const Set *set, u64 counter) {
  for (u32 i = 0; i < set->count; i++)
    if (set->counters[i] == counter)
      return set->windows[i];
  return 0;
}

/* Reuses an idle window before it allocates one. Returns 0 if the set is full or memory is exhausted. */
static Window *add_window(Set *set, u64 counter, u32 now) {
  u32 index = 0;
  while (index < set->count && set->windows[index]->newest + WINDOW > now)
    index++;
  if (index == WAYS)
    return 0;
  Window *window = index < set->count ? set->windows[index] : calloc(1, sizeof *window);
  if (!window)
    return 0;
  if (index == set->count)
    set->windows[set->count++] = window;
  set->counters[index] = counter;
  *window = (Window){.newest = now};
  return window;
}

typedef struct Increment {
  u64 counter;
  u32 second;
} Increment;

static LimitStatus increment_window(Set *set, Increment *increment, u32 limit, u32 now) {
  Window *window = find_window(set, increment->counter);
  if (!window && !(window = add_window(set, increment->counter, now)))
    return (LimitStatus){.limit = limit, .reset_seconds = FULL_SECONDS, .rejected = 1};
  slide(window, now);
  if (window->sum >= limit) {
    u32 reset_seconds = seconds_until_free(window, window->sum - limit + 1);
    return (LimitStatus){.limit = limit, .reset_seconds = reset_seconds, .rejected = 1};
  }
  increment->second = window->newest;
  window->seconds[window->newest % WINDOW]++;
  window->sum++;
  u32 reset_seconds = seconds_until_free(window, 1);
  return (LimitStatus){.limit = limit, .remaining = limit - window->sum, .reset_seconds = reset_seconds};
}

static LimitStatus increment_counter(Increment *increment, u32 limit, u32 now) {
  Set *set = set_of(increment->counter);
  lock(&set->lock);
  LimitStatus status = increment_window(set, increment, limit, now);
  unlock(&set->lock);
  return status;
}

static void decrement_counter(const Increment *increment) {
  Set *set = set_of(increment->counter);
  lock(&set->lock);
  Window *window = find_window(set, increment->counter);
  if (window && window->newest < increment->second + WINDOW && window->seconds[increment->second % WINDOW]) {
    window->seconds[increment->second % WINDOW]--;
    window->sum--;
  }
  unlock(&set->lock);
}

LimitStatus limits_count(const Limits *limits, u64 key, u64 desk, u64 org) {
  /* The key first: over its own limit it must not use up the shared limits, not even for a moment. */
  const u64 subjects[] = {key, desk, org};
  LimitStatus tightest = {0};
  Increment increments[3];
  u32 count = 0, now = now_seconds();
  for (u32 s = 0; s < 3 && !tightest.rejected; s++) {
    u32 index = slot(limits->subjects, limits->mask, subjects[s]), has_limit = limits->subjects[index] != 0;
    u32 limit = has_limit ? limits->per_minute[index] : s == 0 ? limits->default_per_minute : 0;
    if (!limit)
      continue;
    increments[count] = (Increment){.counter = has_limit ? limits->counters[index] : subjects[s]};
    LimitStatus status = increment_counter(&increments[count++], limit, now);
    if (!tightest.limit || status.rejected || status.remaining < tightest.remaining)
      tightest = status;
  }
  for (u32 i = 0; tightest.rejected && i + 1 < count; i++)
    decrement_counter(&increments[i]);
  return tightest;
}

/* %l, %r and %t: the limit, the remaining requests and the seconds. The names are OpenAI's, and those of
 * draft-ietf-httpapi-ratelimit-headers, to which a service may have added its own limits. */
static const struct HeaderTemplate {
  Bytes name;
  const char *text;
  enum { REPLACE, ADD, ON_REJECTION } mode;
} HEADERS[MAX_LIMIT_HEADERS] = {
#define HEADER(name, text, mode) {{(const u8 *)name, sizeof name - 1}, text, mode}
    HEADER("x-ratelimit-limit", "%l", REPLACE),
    HEADER("x-ratelimit-remaining", "%r", REPLACE),
    HEADER("x-ratelimit-reset", "%t", REPLACE),
    HEADER("x-ratelimit-limit-requests", "%l", REPLACE),
    HEADER("x-ratelimit-remaining-requests", "%r", REPLACE),
    HEADER("x-ratelimit-reset-requests", "%ts", REPLACE),
    HEADER("ratelimit-policy", "\"requests\";q=%l;w=60", ADD),
    HEADER("ratelimit", "\"requests\";r=%r;t=%t", ADD),
    HEADER("retry-after", "%t", ON_REJECTION),
};

u8 *decimal(u8 *to, u32 value) {
  u8 digits[10];
  u32 count = 0;
  do
    digits[count++] = (u8)('0' + value % 10);
  while (value /= 10);
  while (count)
    *to++ = digits[--count];
  return to;
}

void limits_write(const LimitStatus *status, LimitHeaders *limits) {
  limits->count = 0;
  for (u32 h = 0; status->limit && h < MAX_LIMIT_HEADERS; h++) {
    const struct HeaderTemplate *header = &HEADERS[h];
    if (header->mode == ON_REJECTION && !status->rejected)
      continue;
    u8 *text = limits->text[limits->count], *to = text; /* the longest has 46 characters */
    for (const char *from = header->text; *from; from++) {
      if (*from != '%')
        *to++ = (u8)*from;
      else
        to = decimal(to, *++from == 'l' ? status->limit : *from == 'r' ? status->remaining : status->reset_seconds);
    }
    limits->append[limits->count] = header->mode == ADD;
    limits->headers[limits->count++] = (Header){header->name, {text, (size)(to - text)}};
  }
}

/* Whether a response may have such headers already. That is rare, and replacing a header costs more than adding one. */
static u32 has_limit_headers(Filter filter) {
  enum { MAX_HEADERS = 64 };
  Header headers[MAX_HEADERS];
  size count = HOST(http_get_headers_size)(filter, RESPONSE_HEADERS);
  if (count > MAX_HEADERS || !HOST(http_get_headers)(filter, RESPONSE_HEADERS, headers))
    return 1;
  for (size h = 0; h < count; h++)
    if (starts_with(headers[h].name, TEXT("x-ratelimit-")))
      return 1;
  return 0;
}

void limits_add_headers(Filter filter, const LimitStatus *status) {
  LimitHeaders limits;
  limits_write(status, &limits);
  u32 exists = limits.count && has_limit_headers(filter);
  for (u32 h = 0; h < limits.count; h++)
    if (limits.append[h] || !exists)
      HOST(http_add_header)(filter, RESPONSE_HEADERS, limits.headers[h].name, limits.headers[h].value);
    else
      HOST(http_set_header)(filter, RESPONSE_HEADERS, limits.headers[h].name, limits.headers[h].value);
}
