/* Limits of requests a minute of keys, desks and orgs: sliding windows of 60 seconds that all workers share.
 *
 * No 60 seconds, wherever they begin, have more requests than the limit; all of them may come at once. A window counts
 * what passed in each of the last 61 seconds of the clock, so a request leaves it after 60 to 61 s. It holds counts,
 * not what is left: a limit that changes, or goes and comes back, applies to what has passed.
 *
 * The windows lie in the host's shared data, which outlive a new configuration, new routes and listeners, and this
 * machine's own end. Shared data cannot be deleted, so there is a fixed number of sets, and a set holds the windows of
 * the subjects of its hash that had a request in the last minute. Workers compare and swap whole sets.
 */

#include "limiter.h"

/* As Prometheus shows it. */
#define METRIC "envoy_requests_over_limit"
enum { WINDOW = 61, SETS = 8192, WAYS = 32, FULL_SECONDS = 1 }; /* WAYS: 262,144 subjects at once */

typedef struct Window {
  u64 counter;
  u32 newest; /* second of the clock */
  u32 seconds[WINDOW];
} Window;

static u64 limited[SLOTS]; /* open addressing; 0: free */
static u64 counters[SLOTS];
static u32 limits[SLOTS];
static u32 limits_mask;
static u32 limit_by_default; /* of a key without a limit of its own; 0: none */
static u32 refused_requests; /* metric */

/* Makes every set before a worker could, as two that make the same one would count past each other. */
void limits_create(void) {
  u8 *data;
  u32 size, cas, last = SETS - 1;
  proxy_define_metric(COUNTER, METRIC, sizeof METRIC - 1, &refused_requests);
  if (proxy_get_shared_data(&last, sizeof last, &data, &size, &cas) == OK)
    return;
  for (u32 set = 0; set < SETS; set++)
    proxy_set_shared_data(&set, sizeof set, "", 0, 0);
}

void limits_clear(u32 count, u32 by_default) {
  limits_mask = mask_for(count);
  for (u32 i = 0; i <= limits_mask; i++)
    limited[i] = 0;
  limit_by_default = by_default;
}

void limits_add(u64 subject, u32 per_minute, u64 counter) {
  u32 at = place(limited, limits_mask, subject);
  limited[at] = subject;
  limits[at] = per_minute;
  counters[at] = counter;
}

static u32 now_seconds(void) {
  u64 now = 0;
  clock_time_get(MONOTONIC, 1, &now);
  return (u32)(now / 1000000000) + WINDOW; /* no second of a window is before 0 */
}

/* Lets what is older than the window leave it; the clocks of two workers may be a moment apart. */
static void slide(Window *window, u32 now) {
  for (u32 past = 0; past < WINDOW && window->newest < now; past++)
    window->seconds[++window->newest % WINDOW] = 0;
  if (window->newest < now)
    window->newest = now;
}

static u32 counted(const Window *window) {
  u32 sum = 0;
  for (u32 i = 0; i < WINDOW; i++)
    sum += window->seconds[i];
  return sum;
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

typedef struct Set {
  u32 number;
  u32 cas;
  u32 count;
  Window *windows; /* with room for one more */
} Set;

static Set loaded(u64 counter) {
  Set set = {.number = (u32)(counter >> 32) % SETS};
  u8 *data;
  u32 size = 0;
  set.windows = (Window *)scratch_reset();
  if (proxy_get_shared_data(&set.number, sizeof set.number, &data, &size, &set.cas) == OK)
    set.count = size / sizeof(Window);
  return set;
}

/* Whether the set is what workers see from now on; if not, one of them was faster. */
static u32 stored(const Set *set) {
  return proxy_set_shared_data(&set->number, sizeof set->number, set->windows, set->count * sizeof(Window),
                               set->cas) != CAS_MISMATCH;
}

static u32 idle(const Window *window, u32 now) { return window->newest + WINDOW <= now; }

static Window *find(const Set *set, u64 counter) {
  for (u32 i = 0; i < set->count; i++)
    if (set->windows[i].counter == counter)
      return &set->windows[i];
  return 0;
}

/* Makes room of what is idle; 0: there is none. */
static Window *added(Set *set, u64 counter, u32 now) {
  u32 kept = 0;
  for (u32 i = 0; i < set->count; i++)
    if (!idle(&set->windows[i], now))
      set->windows[kept++] = set->windows[i];
  if ((set->count = kept) == WAYS)
    return 0;
  Window *window = &set->windows[set->count++];
  *window = (Window){.counter = counter, .newest = now};
  return window;
}

typedef struct Taken {
  u64 counter;
  u32 second;
} Taken;

static Standing take(Taken *taken, u32 limit, u32 now) {
  for (;;) {
    Set set = loaded(taken->counter);
    Window *window = find(&set, taken->counter);
    if (!window && !(window = added(&set, taken->counter, now)))
      return (Standing){.limit = limit, .resets = FULL_SECONDS, .refused = 1};
    slide(window, now);
    u32 used = counted(window);
    if (used >= limit)
      return (Standing){.limit = limit, .resets = until_gone(window, used - limit + 1), .refused = 1};
    taken->second = window->newest;
    window->seconds[window->newest % WINDOW]++;
    if (stored(&set))
      return (Standing){.limit = limit, .left = limit - used - 1, .resets = until_gone(window, 1)};
  }
}

static void give_back(const Taken *taken) {
  for (;;) {
    Set set = loaded(taken->counter);
    Window *window = find(&set, taken->counter);
    if (!window || idle(window, taken->second)) /* it has left by itself */
      return;
    u32 *count = &window->seconds[taken->second % WINDOW];
    if (!*count)
      return;
    --*count;
    if (stored(&set))
      return;
  }
}

Standing limits_take(u64 key, u64 desk, u64 org) {
  /* A key over its own limit must take nothing of what it shares, not even for a moment. */
  const u64 subjects[] = {key, desk, org};
  Standing tightest = {0};
  Taken taken[3];
  u32 count = 0, now = now_seconds();
  for (u32 s = 0; s < 3 && !tightest.refused; s++) {
    u32 at = place(limited, limits_mask, subjects[s]);
    u32 limit = limited[at] ? limits[at] : s == 0 ? limit_by_default : 0;
    if (!limit)
      continue;
    taken[count] = (Taken){.counter = limited[at] ? counters[at] : subjects[s]};
    Standing found = take(&taken[count++], limit, now);
    if (!tightest.limit || found.refused || found.left < tightest.left)
      tightest = found;
  }
  if (tightest.refused) {
    proxy_increment_metric(refused_requests, 1);
    for (u32 i = 0; i + 1 < count; i++)
      give_back(&taken[i]);
  }
  return tightest;
}

/* %l, %r and %t: the limit, the requests that remain and the seconds. Names: OpenAI's, and those of
 * draft-ietf-httpapi-ratelimit-headers, to which a service may have added what it counts. */
static const struct Header {
  const char *name;
  u32 size;
  const char *text;
  enum { REPLACE, ADD, REFUSED } how;
} HEADERS[] = {
#define TOLD(name, text, how) {name, sizeof name - 1, text, how}
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

static char *number(char *to, u32 value) {
  char digits[10];
  u32 count = 0;
  do
    digits[count++] = '0' + value % 10;
  while (value /= 10);
  while (count)
    *to++ = digits[--count];
  return to;
}

void limits_tell(const Standing *standing) {
  if (!standing->limit)
    return;
  for (const struct Header *header = HEADERS; header < HEADERS + sizeof HEADERS / sizeof *HEADERS; header++) {
    if (header->how == REFUSED && !standing->refused)
      continue;
    char text[64], *to = text;
    for (const char *from = header->text; *from; from++) {
      if (*from != '%')
        *to++ = *from;
      else
        to = number(to, *++from == 'l' ? standing->limit : *from == 'r' ? standing->left : standing->resets);
    }
    if (header->how == ADD)
      proxy_add_header_map_value(RESPONSE_HEADERS, header->name, header->size, text, to - text);
    else
      proxy_replace_header_map_value(RESPONSE_HEADERS, header->name, header->size, text, to - text);
  }
}
