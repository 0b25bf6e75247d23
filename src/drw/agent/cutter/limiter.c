/* Limits of requests a minute of keys, desks and orgs: sliding windows of 60 seconds that all workers share.
 *
 * No 60 seconds, wherever they begin, have more requests than the limit; all of them may come at once. A window counts
 * what passed in each of the last 61 seconds of the clock, so a request leaves it after 60 to 61 s. It holds counts,
 * not what is left: a limit that changes, or goes and comes back, applies to what has passed.
 *
 * The windows belong to the process, and outlive a new configuration, new routes and listeners. There is a fixed
 * number of sets with a lock each, and a set holds the windows of the subjects of its hash that had a request in the
 * last minute: memory grows with the callers of the busiest minute, up to 262,144 windows, 70 MB.
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
  return (u32)now.seconds + WINDOW; /* no second of a window is before 0 */
}

/* Lets what is older than the window leave it; the clocks of two workers may be a moment apart. */
static void slide(Window *window, u32 now) {
  for (u32 past = 0; past < WINDOW && window->newest < now; past++) {
    u32 *leaving = &window->seconds[++window->newest % WINDOW];
    window->sum -= *leaving;
    *leaving = 0;
  }
  if (window->newest < now)
    window->newest = now;
}

/* In how many seconds so many requests have left. */
static u32 until_gone(const Window *window, u32 requests) {
  u32 gone = 0;
  for (u32 age = WINDOW; age-- > 0;) {
    gone += window->seconds[(window->newest - age) % WINDOW];
    if (gone >= requests)
      return WINDOW - age;
  }
  return WINDOW;
}

static Set *set_of(u64 counter) { return &sets[(u32)(counter >> 32) % SETS]; }

static Window *find(const Set *set, u64 counter) {
  for (u32 i = 0; i < set->count; i++)
    if (set->counters[i] == counter)
      return set->windows[i];
  return 0;
}

/* Takes the place of what is idle before it asks for memory; 0: there is no room. */
static Window *added(Set *set, u64 counter, u32 now) {
  u32 at = 0;
  while (at < set->count && set->windows[at]->newest + WINDOW > now)
    at++;
  if (at == WAYS)
    return 0;
  Window *window = at < set->count ? set->windows[at] : calloc(1, sizeof *window);
  if (!window)
    return 0;
  if (at == set->count)
    set->windows[set->count++] = window;
  set->counters[at] = counter;
  *window = (Window){.newest = now};
  return window;
}

typedef struct Taken {
  u64 counter;
  u32 second;
} Taken;

static Standing take_from(Set *set, Taken *taken, u32 limit, u32 now) {
  Window *window = find(set, taken->counter);
  if (!window && !(window = added(set, taken->counter, now)))
    return (Standing){.limit = limit, .resets = FULL_SECONDS, .refused = 1};
  slide(window, now);
  if (window->sum >= limit)
    return (Standing){.limit = limit, .resets = until_gone(window, window->sum - limit + 1), .refused = 1};
  taken->second = window->newest;
  window->seconds[window->newest % WINDOW]++;
  window->sum++;
  return (Standing){.limit = limit, .left = limit - window->sum, .resets = until_gone(window, 1)};
}

static Standing take(Taken *taken, u32 limit, u32 now) {
  Set *set = set_of(taken->counter);
  lock(&set->lock);
  Standing found = take_from(set, taken, limit, now);
  unlock(&set->lock);
  return found;
}

static void give_back(const Taken *taken) {
  Set *set = set_of(taken->counter);
  lock(&set->lock);
  Window *window = find(set, taken->counter);
  if (window && window->newest < taken->second + WINDOW && window->seconds[taken->second % WINDOW]) {
    window->seconds[taken->second % WINDOW]--;
    window->sum--;
  }
  unlock(&set->lock);
}

Standing limits_take(const Limits *limits, u64 key, u64 desk, u64 org) {
  /* A key over its own limit must take nothing of what it shares, not even for a moment. */
  const u64 subjects[] = {key, desk, org};
  Standing tightest = {0};
  Taken taken[3];
  u32 count = 0, now = now_seconds();
  for (u32 s = 0; s < 3 && !tightest.refused; s++) {
    u32 at = place(limits->subjects, limits->mask, subjects[s]), own = limits->subjects[at] != 0;
    u32 limit = own ? limits->per_minute[at] : s == 0 ? limits->by_default : 0;
    if (!limit)
      continue;
    taken[count] = (Taken){.counter = own ? limits->counters[at] : subjects[s]};
    Standing found = take(&taken[count++], limit, now);
    if (!tightest.limit || found.refused || found.left < tightest.left)
      tightest = found;
  }
  for (u32 i = 0; tightest.refused && i + 1 < count; i++)
    give_back(&taken[i]);
  return tightest;
}

/* %l, %r and %t: the limit, the requests that remain and the seconds. Names: OpenAI's, and those of
 * draft-ietf-httpapi-ratelimit-headers, to which a service may have added what it counts. */
static const struct Header {
  Bytes name;
  const char *text;
  enum { REPLACE, ADD, REFUSED } how;
} HEADERS[MOST_TOLD] = {
#define TOLD(name, text, how) {{(const u8 *)name, sizeof name - 1}, text, how}
    TOLD("x-ratelimit-limit", "%l", REPLACE),
    TOLD("x-ratelimit-remaining", "%r", REPLACE),
    TOLD("x-ratelimit-reset", "%t", REPLACE),
    TOLD("x-ratelimit-limit-requests", "%l", REPLACE),
    TOLD("x-ratelimit-remaining-requests", "%r", REPLACE),
    TOLD("x-ratelimit-reset-requests", "%ts", REPLACE),
    TOLD("ratelimit-policy", "\"requests\";q=%l;w=60", ADD),
    TOLD("ratelimit", "\"requests\";r=%r;t=%t", ADD),
    TOLD("retry-after", "%t", REFUSED),
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

void limits_tell(const Standing *standing, Told *told) {
  told->count = 0;
  for (u32 h = 0; standing->limit && h < MOST_TOLD; h++) {
    const struct Header *header = &HEADERS[h];
    if (header->how == REFUSED && !standing->refused)
      continue;
    u8 *text = told->text[told->count], *to = text; /* the longest has 46 characters */
    for (const char *from = header->text; *from; from++) {
      if (*from != '%')
        *to++ = (u8)*from;
      else
        to = decimal(to, *++from == 'l' ? standing->limit : *from == 'r' ? standing->left : standing->resets);
    }
    told->adds[told->count] = header->how == ADD;
    told->headers[told->count++] = (Pair){header->name, {text, (size)(to - text)}};
  }
}

/* Whether an answer may have such headers already, which is seldom so; to put one in place of another costs more. */
static u32 has_limits(Filter filter) {
  enum { FEW = 64 };
  Pair headers[FEW];
  size count = HOST(http_get_headers_size)(filter, RESPONSE_HEADERS);
  if (count > FEW || !HOST(http_get_headers)(filter, RESPONSE_HEADERS, headers))
    return 1;
  for (size h = 0; h < count; h++)
    if (begins(headers[h].name, TEXT("x-ratelimit-")))
      return 1;
  return 0;
}

void limits_add(Filter filter, const Standing *standing) {
  Told told;
  limits_tell(standing, &told);
  u32 others = told.count && has_limits(filter);
  for (u32 h = 0; h < told.count; h++)
    if (told.adds[h] || !others)
      HOST(http_add_header)(filter, RESPONSE_HEADERS, told.headers[h].name, told.headers[h].value);
    else
      HOST(http_set_header)(filter, RESPONSE_HEADERS, told.headers[h].name, told.headers[h].value);
}
