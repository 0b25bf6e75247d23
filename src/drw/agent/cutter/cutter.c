/* Refuses whoever is blocked or over a limit of requests, and cuts the streams of whoever is killed, inside Envoy: a
 * module of the Proxy-Wasm ABI 0.2.1. limiter.c counts the requests.
 *
 * The agent delivers two lists as the configuration of this module, after a line with the seed of the hashes, the
 * limit of keys without one of their own and how many limits follow: a line for each limit, with the hash of its
 * subject, the requests a minute and the hash under which they are counted; and a line for each blocked subject, with
 * a letter for the reason and its hash (drw.agent.cutter has the words). Envoy hands a new configuration to the module
 * that already runs, so every stream under way meets it at the next tick, also a silent one:
 *
 *   - an answer that has not begun becomes a 403 with the reason;
 *   - a stream of events ends with an event that says so, then its connection is closed;
 *   - anything else, and a stream that says nothing for GRACE_TICKS, is closed where it stands.
 *
 * Only what is killed is cut; who is revoked or over a limit finishes what is under way. A chunk of an answer costs
 * one comparison while nobody is killed.
 */

#include "limiter.h"
#include "proxy.h"
#include "siphash.h"

enum { TICK_MILLISECONDS = 25, GRACE_TICKS = 20 };
enum { CONTINUE = 0, STOP = 1, RESPONSE_STREAM = 1, BUCKETS = 4096 };
enum { LETTER = 1, NUMBER = 8, HASH = 16, NEWLINE = 1 }; /* characters; numbers and hashes are hexadecimal */
enum { HEAD = 2 * HASH + 2 * NUMBER + NEWLINE, LIMIT_LINE = HASH + NUMBER + HASH + NEWLINE };
enum { BLOCK_LINE = LETTER + HASH + NEWLINE, KILLED = 'k' };
/* MODEL as asked for, ANSWERING as the answer says: each for every org, and next to it for the caller's own. */
enum { ORG, DESK, KEY, MODEL, ORGS_MODEL, ANSWERING, ORGS_ANSWERING, SUBJECTS };

/* Which model a body asked for, where the route has it read. */
#define BODY_MODEL "metadata\0filter_metadata\0drw.body\0model"
#define TOLD "drw_cut"
#define REQUESTS "drw_requests"
#define EVENT "data: {\"error\": {\"message\": \"this was stopped by a kill switch: `drw kill list` says why\", " \
              "\"type\": \"permission_error\", \"param\": null, \"code\": \"killed\"}}\n\n"

typedef enum { WAITING, EVENTS, OTHER } Kind;
typedef enum { LIVE, DOOMED, SAID } State;

typedef struct Stream {
  struct Stream *next;
  u64 subjects[SUBJECTS]; /* 0: none */
  Standing standing;
  u32 id;
  u32 ticks;
  Kind kind;
  State state;
} Stream;

/* From the gravest on: what a client is told who meets several. Local replies know the details. */
static const struct Reason {
  u8 letter;
  u32 status;
  const char *details;
  u32 size;
  u32 spent; /* whoever has spent all may still administer: raise a budget, or stop somebody */
} REASONS[] = {
#define REASON(letter, status, details, spent) {letter, status, details, sizeof details - 1, spent}
    REASON('r', 401, "drw_refused_revoked", 0),
    REASON(KILLED, 403, "drw_refused_killed", 0),
    REASON('m', 429, "drw_refused_money", 1),
    REASON('t', 429, "drw_refused_tokens", 1),
};
enum { REASONS_COUNT = sizeof REASONS / sizeof *REASONS };

static _Alignas(8) u8 scratch[HEAD + MOST * (BLOCK_LINE + LIMIT_LINE) + PAGE];
static u32 scratch_used;
static u64 seed[2];
static u64 blocked[SLOTS]; /* open addressing; 0: free */
static u8 reasons[SLOTS];
static u32 slots_mask;
static Stream *buckets[BUCKETS];
static Stream *spare;
static u32 doomed;
static u32 to_check;

u8 *scratch_reset(void) {
  scratch_used = 0;
  return scratch;
}

/* Memory that the host fills for us. */
u8 *EXPORT(proxy_on_memory_allocate)(u32 size) {
  if (size > sizeof scratch - scratch_used)
    return 0;
  u8 *found = scratch + scratch_used;
  scratch_used += (size + 7) & ~7u;
  return found;
}

static u32 header(u32 map, const char *name, u32 size, u8 **value) {
  u32 found = 0;
  *value = 0;
  return proxy_get_header_map_value(map, name, size, value, &found) == OK ? found : 0;
}

#define HEADER(map, name, value) header(map, name, sizeof name - 1, value)

typedef struct Text {
  u8 bytes[PAGE]; /* more than all headers of a request */
  u32 size;
} Text;

static void append(Text *text, const u8 *data, u32 size) {
  for (u32 i = 0; i < size && text->size < sizeof text->bytes; i++)
    text->bytes[text->size++] = data[i];
}

/* The subject "KIND\nORG\nNAME", as the agent writes it. */
static u64 subject(const char *kind, u32 kind_size, const u8 *org, u32 org_size, const u8 *name, u32 name_size) {
  static Text text;
  text.size = 0;
  append(&text, (const u8 *)kind, kind_size);
  append(&text, org, org_size);
  append(&text, (const u8 *)"\n", 1);
  append(&text, name, name_size);
  u64 hash = siphash(seed, text.bytes, text.size);
  return hash ? hash : 1; /* 0: none */
}

/* Notes a model at `at`, and next to it that of the caller's org, which stands in it by its hash: the name of the org
 * is not kept for each stream. */
static void name_model(Stream *stream, u32 at, const u8 *model, u32 size) {
  u8 org[HASH];
  for (u32 i = 0; i < HASH; i++)
    org[i] = (u8)"0123456789abcdef"[stream->subjects[ORG] >> 4 * (HASH - 1 - i) & 15];
  stream->subjects[at] = size ? subject("model\n", 6, 0, 0, model, size) : 0;
  stream->subjects[at + 1] = size ? subject("model\n", 6, org, HASH, model, size) : 0;
}

static Stream *more(void) {
  u8 *page = (u8 *)(__builtin_wasm_memory_grow(0, 1) * (unsigned long)PAGE);
  if (page == (u8 *)(-1ul * PAGE))
    return 0;
  for (u32 at = 0; at + sizeof(Stream) <= PAGE; at += sizeof(Stream)) {
    Stream *stream = (Stream *)(page + at);
    stream->next = spare;
    spare = stream;
  }
  return spare;
}

/* Where there is no memory left, the stream is not known, and will not be cut. */
static void add(const Stream *found) {
  Stream *stream = spare ? spare : more();
  if (!stream)
    return;
  spare = stream->next;
  *stream = *found;
  stream->next = buckets[found->id % BUCKETS];
  buckets[found->id % BUCKETS] = stream;
}

static Stream *find(u32 id) {
  Stream *stream = buckets[id % BUCKETS];
  while (stream && stream->id != id)
    stream = stream->next;
  return stream;
}

/* The letter of the reason why a subject is blocked; 0: it is not. */
static u8 reason_of(u64 subject) {
  if (!slots_mask || !subject)
    return 0;
  u32 at = place(blocked, slots_mask, subject);
  return blocked[at] ? reasons[at] : 0;
}

static void block(u64 subject, u8 letter) {
  u32 at = place(blocked, slots_mask, subject);
  if (!blocked[at]) { /* the list has the gravest first */
    blocked[at] = subject;
    reasons[at] = letter;
  }
}

static void check(Stream *stream) {
  for (u32 s = 0; s < SUBJECTS && stream->state == LIVE; s++)
    if (reason_of(stream->subjects[s]) == KILLED) {
      stream->state = DOOMED;
      doomed++;
    }
}

/* Which model the body asked for, once it has been read; the stream's own context must be the effective one. */
static void read_model(Stream *stream) {
  u8 *model;
  u32 size = 0;
  scratch_used = 0;
  if (proxy_get_property(BODY_MODEL, sizeof BODY_MODEL - 1, &model, &size) == OK && size)
    name_model(stream, MODEL, model, size);
}

static u32 begins(const u8 *data, u32 size, const char *with, u32 with_size) {
  u32 same = 0;
  while (same < size && same < with_size && data[same] == (u8)with[same])
    same++;
  return same == with_size;
}

static u32 administers(void) {
  u8 *path;
  u32 size = HEADER(REQUEST_HEADERS, ":path", &path);
  return begins(path, size, "/api/", 5);
}

/* Refuses a new request if it is to be; returns whether it was. */
static u32 refuse(const Stream *stream, u64 revocable) {
  if (!slots_mask)
    return 0;
  for (u32 r = 0; r < REASONS_COUNT; r++) {
    u32 hit = reason_of(revocable) == REASONS[r].letter;
    for (u32 s = 0; s < SUBJECTS; s++)
      hit |= reason_of(stream->subjects[s]) == REASONS[r].letter;
    if (hit && !(REASONS[r].spent && administers())) {
      proxy_send_local_response(REASONS[r].status, REASONS[r].details, REASONS[r].size, "", 0, 0, 0, (u32)-1);
      return 1;
    }
  }
  return 0;
}

u32 EXPORT(proxy_on_vm_start)(u32 root, u32 size) {
  limits_create();
  return 1;
}

static u64 hexadecimal(const u8 *text, u32 digits) {
  u64 value = 0;
  for (u32 i = 0; i < digits; i++)
    value = value << 4 | (text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10);
  return value;
}

static void configure_limits(const u8 *at, u32 count, u32 by_default) {
  limits_clear(count, by_default);
  for (; count--; at += LIMIT_LINE)
    limits_add(hexadecimal(at, HASH), (u32)hexadecimal(at + HASH, NUMBER), hexadecimal(at + HASH + NUMBER, HASH));
}

static void configure_blocks(const u8 *at, u32 count) {
  u32 mask = mask_for(count);
  slots_mask = count ? mask : 0;
  for (u32 i = 0; i <= mask; i++)
    blocked[i] = 0;
  for (; count--; at += BLOCK_LINE)
    block(hexadecimal(at + LETTER, HASH), at[0]);
}

/* A new list; the streams under way meet it at the next tick. */
u32 EXPORT(proxy_on_configure)(u32 root, u32 size) {
  u8 *text = 0;
  u32 got = 0;
  scratch_used = 0;
  if (size && proxy_get_buffer_bytes(CONFIGURATION, 0, size, &text, &got) != OK)
    return 0;
  if (got < HEAD)
    return 0;
  u32 limits = (u32)hexadecimal(text + 2 * HASH + NUMBER, NUMBER);
  if (limits > MOST || limits > (got - HEAD) / LIMIT_LINE)
    return 0;
  u32 blocks = (got - HEAD - limits * LIMIT_LINE) / BLOCK_LINE;
  seed[0] = hexadecimal(text, HASH), seed[1] = hexadecimal(text + HASH, HASH);
  configure_limits(text + HEAD, limits, (u32)hexadecimal(text + 2 * HASH, NUMBER));
  configure_blocks(text + HEAD + limits * LIMIT_LINE, blocks < MOST ? blocks : MOST);
  to_check = 1;
  proxy_set_tick_period_milliseconds(TICK_MILLISECONDS);
  return 1;
}

void EXPORT(proxy_on_context_create)(u32 id, u32 parent) {}

u32 EXPORT(proxy_on_request_headers)(u32 id, u32 count, u32 end) {
  u8 *org, *desk, *key, *model;
  scratch_used = 0;
  u32 key_size = HEADER(REQUEST_HEADERS, "x-drw-key", &key);
  if (!key_size)
    return CONTINUE;
  u32 org_size = HEADER(REQUEST_HEADERS, "x-drw-org", &org);
  u32 desk_size = HEADER(REQUEST_HEADERS, "x-drw-desk", &desk);
  u32 model_size = HEADER(REQUEST_HEADERS, "x-model", &model);
  Stream found = {.id = id, .kind = WAITING, .state = LIVE};
  found.subjects[ORG] = subject("org\n", 4, org, org_size, 0, 0);
  found.subjects[DESK] = subject("desk\n", 5, org, org_size, desk, desk_size);
  found.subjects[KEY] = subject("key\n", 4, org, org_size, key, key_size);
  name_model(&found, MODEL, model, model_size);
  if (refuse(&found, subject("revoked\n", 8, 0, 0, key, key_size)))
    return STOP;
  found.standing = limits_take(found.subjects[KEY], found.subjects[DESK], found.subjects[ORG]);
  add(&found);
  if (!found.standing.refused)
    return CONTINUE;
  proxy_send_local_response(429, REQUESTS, sizeof REQUESTS - 1, "", 0, 0, 0, (u32)-1);
  return STOP;
}

static void say(void) { proxy_send_local_response(403, TOLD, sizeof TOLD - 1, "", 0, 0, 0, (u32)-1); }

u32 EXPORT(proxy_on_response_headers)(u32 id, u32 count, u32 end) {
  static const char EVENT_STREAM[] = "text/event-stream";
  u8 *type, *model;
  Stream *stream = find(id);
  if (!stream)
    return CONTINUE;
  scratch_used = 0;
  u32 size = HEADER(RESPONSE_HEADERS, "content-type", &type);
  stream->kind = begins(type, size, EVENT_STREAM, sizeof EVENT_STREAM - 1) ? EVENTS : OTHER;
  if ((size = HEADER(RESPONSE_HEADERS, "x-drw-model", &model)))
    name_model(stream, ANSWERING, model, size);
  read_model(stream);
  limits_tell(&stream->standing);
  check(stream);
  if (stream->state == LIVE || stream->kind == EVENTS)
    return CONTINUE;
  say(); /* the whole answer may come before the next tick */
  return STOP;
}

/* Where the event ends that is under way: the bytes up to there; 0: not in this chunk. */
static u32 boundary(const u8 *data, u32 size) {
  for (u32 i = 1; i < size; i++)
    if (data[i] == '\n' && (data[i - 1] == '\n' || (i > 2 && data[i - 1] == '\r' && data[i - 2] == '\n')))
      return i + 1;
  return 0;
}

u32 EXPORT(proxy_on_response_body)(u32 id, u32 size, u32 end) {
  if (!doomed)
    return CONTINUE;
  Stream *stream = find(id);
  if (!stream || stream->state == LIVE)
    return CONTINUE;
  u8 *data = 0;
  u32 got = 0, kept = 0;
  scratch_used = 0;
  if (stream->state == DOOMED && stream->kind == EVENTS) {
    u32 most = size < sizeof scratch ? size : sizeof scratch - 8;
    if (proxy_get_buffer_bytes(RESPONSE_BODY, 0, most, &data, &got) == OK)
      kept = boundary(data, got);
    if (!kept)
      return CONTINUE;
    stream->state = SAID;
    proxy_set_buffer_bytes(RESPONSE_BODY, kept, size - kept, (const u8 *)EVENT, sizeof EVENT - 1);
  } else if (stream->state == SAID) {
    proxy_set_buffer_bytes(RESPONSE_BODY, 0, size, (const u8 *)"", 0);
  }
  return CONTINUE;
}

static void end(Stream *stream) {
  proxy_set_effective_context(stream->id);
  if (stream->kind == WAITING)
    say();
  else
    proxy_close_stream(RESPONSE_STREAM);
}

static void meet(Stream *stream) {
  if (stream->kind == WAITING) {
    proxy_set_effective_context(stream->id);
    read_model(stream);
  }
  check(stream);
}

void EXPORT(proxy_on_tick)(u32 root) {
  if (!to_check && !doomed)
    return;
  for (u32 b = 0; b < BUCKETS; b++)
    for (Stream *stream = buckets[b], *next; stream; stream = next) {
      next = stream->next; /* before it is ended, which may take it out of the table */
      if (to_check)
        meet(stream);
      if (stream->state == LIVE)
        continue;
      if (stream->state == SAID ? stream->ticks++ > 0 : stream->kind != EVENTS || stream->ticks++ >= GRACE_TICKS)
        end(stream);
    }
  proxy_set_effective_context(root);
  to_check = 0;
}

u32 EXPORT(proxy_on_done)(u32 id) { return 1; }

void EXPORT(proxy_on_delete)(u32 id) {
  for (Stream **at = &buckets[id % BUCKETS]; *at; at = &(*at)->next)
    if ((*at)->id == id) {
      Stream *stream = *at;
      *at = stream->next;
      if (stream->state != LIVE)
        doomed--;
      stream->next = spare;
      spare = stream;
      return;
    }
}

void EXPORT(proxy_abi_version_0_2_1)(void) {}
