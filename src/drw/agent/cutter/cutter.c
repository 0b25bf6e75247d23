/* Refuses whoever is blocked, over a limit of requests or without the scope of a route, and bodies that are too large;
 * cuts the streams of whoever is killed: an HTTP filter as a dynamic module inside Envoy. limiter.c counts requests,
 * route.c has what a route asks, token_header.c judges tokens, boundary.c is a filter of its own.
 *
 * The agent delivers two lists as the configuration of this filter, after a line with the seed of the hashes, the
 * limit of keys without one of their own and how many limits follow: a line for each limit, with the hash of its
 * subject, the requests a minute and the hash under which they are counted; and a line for each blocked subject, with
 * a letter for the reason and its hash (drw.agent.cutter has the words). The newest list is that of all workers, and
 * every stream under way meets it at once, also a silent one:
 *
 *   - an answer that has not begun becomes a 403 with the reason;
 *   - a stream of events ends with an event that says so, then its connection is closed;
 *   - anything else, and a stream that says nothing for GRACE_TICKS, is closed where it stands.
 *
 * Only what is killed is cut; who is revoked or over a limit finishes what is under way.
 *
 * Each worker has a shard of its own, whose lock is held for what others read: its streams, and the list itself. What
 * a stream is apart from that belongs to its worker. Envoy is never called with the lock held but to wake a stream.
 */

#include "limiter.h"
#include "parts.h"
#include "siphash.h"

enum { TICK_NANOSECONDS = 25000000, GRACE_TICKS = 20 };
enum { LETTER = 1, NUMBER = 8, HASH = 16, NEWLINE = 1 }; /* characters; numbers and hashes are hexadecimal */
enum { HEAD = 2 * HASH + 2 * NUMBER + NEWLINE, LIMIT_LINE = HASH + NUMBER + HASH + NEWLINE };
enum { BLOCK_LINE = LETTER + HASH + NEWLINE, KILLED = 'k', MOST = 1 << 17 }; /* MOST lines of each kind */
enum { SHARDS = 64 };
/* MODEL as asked for, ANSWERING as the answer says: each for every org, and next to it for the caller's own. */
enum { ORG, DESK, KEY, MODEL, ORGS_MODEL, ANSWERING, ORGS_ANSWERING, SUBJECTS };

#define ABI_VERSION "v0.2.0"
#define CUT TEXT("drw_cut")
#define OVER_LIMIT TEXT("drw_requests")
#define BAD_TOKEN TEXT("drw_refused_token_header")
#define LACKS_SCOPE TEXT("drw_lacks_scope")
#define TOO_LARGE TEXT("drw_too_large")
#define UNREADABLE TEXT("drw_headers")
/* Metrics; Prometheus shows them as envoy_drw_requests_over_limit and envoy_drw_requests_without_scope. */
#define METRIC_LIMIT TEXT("requests_over_limit")
#define METRIC_SCOPE TEXT("requests_without_scope")
#define EVENT TEXT("data: {\"error\": {\"message\": \"this was stopped by a kill switch: `drw kill list` says why\", " \
                   "\"type\": \"permission_error\", \"param\": null, \"code\": \"killed\"}}\n\n")

typedef enum { WAITING, EVENTS, OTHER } Kind;
typedef enum { LIVE, DOOMED, SAID, ENDED } State;
enum { MEET = ENDED + 1 }; /* events that wake a stream: this, or the state in which its time ran out */

/* A filter of the boundary keeps nothing of a stream: its configuration stands for each, known by `boundary`. */
typedef struct Configuration {
  Boundary *boundary; /* 0: this is the other filter */
  size over_limit, without_scope; /* metrics */
} Configuration;

typedef struct Stream {
  const Boundary *boundary; /* 0, as in a configuration */
  struct Stream *next, **at; /* in its shard; at 0: nobody is known to call, and it is not there */
  const Configuration *configuration;
  Handle scheduler;
  u64 subjects[SUBJECTS]; /* 0: none */
  u64 most, came; /* bytes of the body of the request */
  Standing standing;
  u32 shard;
  u32 ticks;
  Kind kind;
  State state;
} Stream;

/* From the gravest on: what a client is told who meets several. Local replies know the details. */
static const struct Reason {
  u8 letter;
  u32 status;
  Bytes details;
  u32 spent; /* whoever has spent all may still administer: raise a budget, or stop somebody */
} REASONS[] = {
#define REASON(letter, status, details, spent) {letter, status, {(const u8 *)details, sizeof details - 1}, spent}
    REASON('r', 401, "drw_refused_revoked", 0),
    REASON(KILLED, 403, "drw_refused_killed", 0),
    REASON('m', 429, "drw_refused_money", 1),
    REASON('t', 429, "drw_refused_tokens", 1),
};
enum { REASONS_COUNT = sizeof REASONS / sizeof *REASONS };

typedef struct Lists {
  u64 seed[2];
  Limits limits;
  u64 *blocked; /* open addressing; 0: free */
  u8 *reasons;
  u32 mask;
  u32 kills;
} Lists;

static Lists *lists; /* read with the lock of any shard, changed with those of all */

static struct Shard {
  _Alignas(64) Lock lock;
  Stream *streams;
} shards[SHARDS];

/* The subject "KIND\nORG\nNAME", as the agent writes it; 0 where it has no name, which is "none". */
static u64 subject(Bytes kind, Bytes org, Bytes name) {
  Sip made = sip(lists->seed);
  sip_add(&made, kind);
  sip_add(&made, TEXT("\n"));
  sip_add(&made, org);
  sip_add(&made, TEXT("\n"));
  sip_add(&made, name);
  u64 hash = sip_end(&made);
  return hash ? hash : 1;
}

/* Notes a model at `at`, and next to it that of the caller's org, which stands in it by its hash: the name of the org
 * is not kept for each stream. */
static void name_model(Stream *stream, u32 at, Bytes model) {
  u8 org[HASH];
  for (u32 i = 0; i < HASH; i++)
    org[i] = (u8)"0123456789abcdef"[stream->subjects[ORG] >> 4 * (HASH - 1 - i) & 15];
  stream->subjects[at] = model.size ? subject(TEXT("model"), (Bytes){0}, model) : 0;
  stream->subjects[at + 1] = model.size ? subject(TEXT("model"), (Bytes){org, HASH}, model) : 0;
}

/* The letter of the reason why a subject is blocked; 0: it is not. */
static u8 reason_of(u64 subject) {
  return subject ? lists->reasons[place(lists->blocked, lists->mask, subject)] : 0;
}

static u32 killed(const Stream *stream) {
  for (u32 s = 0; lists->kills && s < SUBJECTS; s++)
    if (reason_of(stream->subjects[s]) == KILLED)
      return 1;
  return 0;
}

/* Why a new request is refused; 0: it is not. */
static const struct Reason *refusal(const Stream *stream, u64 revocable, u32 administers) {
  for (u32 r = 0; r < REASONS_COUNT; r++) {
    u32 hit = reason_of(revocable) == REASONS[r].letter;
    for (u32 s = 0; s < SUBJECTS; s++)
      hit |= reason_of(stream->subjects[s]) == REASONS[r].letter;
    if (hit && !(REASONS[r].spent && administers))
      return &REASONS[r];
  }
  return 0;
}

/* ---- the lists ---- */

static void forget(Lists *old) {
  if (!old)
    return;
  free(old->limits.subjects), free(old->limits.counters), free(old->limits.per_minute);
  free(old->blocked), free(old->reasons), free(old);
}

static u32 allocated(Lists *made, u32 limits, u32 blocks) {
  made->limits.mask = mask_for(limits);
  made->mask = mask_for(blocks);
  size room = made->limits.mask + 1ul, rooms = made->mask + 1ul;
  made->limits.subjects = calloc(room, sizeof(u64));
  made->limits.counters = calloc(room, sizeof(u64));
  made->limits.per_minute = calloc(room, sizeof(u32));
  made->blocked = calloc(rooms, sizeof(u64));
  made->reasons = calloc(rooms, sizeof(u8));
  return made->limits.subjects && made->limits.counters && made->limits.per_minute && made->blocked && made->reasons;
}

static void add_limit(Limits *limits, const u8 *line) {
  u64 subject = hexadecimal(line, HASH);
  u32 at = place(limits->subjects, limits->mask, subject);
  limits->subjects[at] = subject;
  limits->per_minute[at] = (u32)hexadecimal(line + HASH, NUMBER);
  limits->counters[at] = hexadecimal(line + HASH + NUMBER, HASH);
}

static void add_block(Lists *made, const u8 *line) {
  u64 subject = hexadecimal(line + LETTER, HASH);
  u32 at = place(made->blocked, made->mask, subject);
  if (made->blocked[at]) /* the list has the gravest first */
    return;
  made->blocked[at] = subject;
  made->reasons[at] = line[0];
  made->kills |= line[0] == KILLED;
}

/* 0: this is not a list, or there is no memory for it. */
static Lists *read_lists(Bytes text) {
  if (text.size < HEAD)
    return 0;
  u64 limits = hexadecimal(text.data + 2 * HASH + NUMBER, NUMBER), rest = text.size - HEAD;
  if (limits > MOST || limits > rest / LIMIT_LINE)
    return 0;
  u64 blocks = (rest - limits * LIMIT_LINE) / BLOCK_LINE;
  if (blocks > MOST || limits * LIMIT_LINE + blocks * BLOCK_LINE != rest)
    return 0;
  Lists *made = calloc(1, sizeof *made);
  if (!made || !allocated(made, (u32)limits, (u32)blocks)) {
    forget(made);
    return 0;
  }
  made->seed[0] = hexadecimal(text.data, HASH), made->seed[1] = hexadecimal(text.data + HASH, HASH);
  made->limits.by_default = (u32)hexadecimal(text.data + 2 * HASH, NUMBER);
  const u8 *at = text.data + HEAD;
  for (; limits--; at += LIMIT_LINE)
    add_limit(&made->limits, at);
  for (; blocks--; at += BLOCK_LINE)
    add_block(made, at);
  return made;
}

/* Puts a list in force, and wakes whoever it may stop: the model of a request without an answer is read there. */
static void enforce(Lists *newest) {
  for (u32 s = 0; s < SHARDS; s++)
    lock(&shards[s].lock);
  Lists *old = lists;
  lists = newest;
  for (u32 s = 0; newest->kills && s < SHARDS; s++)
    for (const Stream *stream = shards[s].streams; stream; stream = stream->next)
      if (stream->kind == WAITING || killed(stream))
        HOST(http_filter_scheduler_commit)(stream->scheduler, MEET);
  for (u32 s = 0; s < SHARDS; s++)
    unlock(&shards[s].lock);
  forget(old);
}

/* ---- the end of streams ---- */

static struct {
  Lock lock;
  u32 doomed;
  u32 runs;
} ticker;

static void tick(struct Shard *shard) {
  lock(&shard->lock);
  for (Stream *stream = shard->streams; stream; stream = stream->next)
    if (stream->state == SAID ? stream->ticks++ > 0 : stream->state == DOOMED && stream->ticks++ >= GRACE_TICKS)
      HOST(http_filter_scheduler_commit)(stream->scheduler, stream->state);
  unlock(&shard->lock);
}

static void *run(void *with) {
  static const struct timespec TICK = {0, TICK_NANOSECONDS};
  for (;;) {
    nanosleep(&TICK, 0);
    for (u32 s = 0; s < SHARDS; s++)
      tick(&shards[s]);
    lock(&ticker.lock);
    u32 on = ticker.runs = ticker.doomed > 0;
    unlock(&ticker.lock);
    if (!on)
      return with;
  }
}

static void become(Stream *stream, State state) {
  lock(&shards[stream->shard].lock);
  stream->state = state;
  unlock(&shards[stream->shard].lock);
}

/* Has a stream of events watched until it has ended; returns 0 where there is no thread that could. */
static u32 doom(Stream *stream) {
  void *thread;
  lock(&ticker.lock);
  if (!ticker.runs && pthread_create(&thread, 0, run, 0) == 0) {
    pthread_detach(thread);
    ticker.runs = 1;
  }
  u32 runs = ticker.runs;
  ticker.doomed += runs;
  unlock(&ticker.lock);
  if (runs)
    become(stream, DOOMED);
  return runs;
}

static void leave(const Stream *stream) {
  if (stream->state != DOOMED && stream->state != SAID)
    return;
  lock(&ticker.lock);
  ticker.doomed--;
  unlock(&ticker.lock);
}

static void refuse(Filter filter, u32 status, Bytes details, Told *told) {
  HOST(http_send_response)(filter, status, told ? told->headers : 0, told ? told->count : 0, (Bytes){0}, details);
}

/* Whatever is told of the stream after this may be told of memory that is free. */
static void end(Filter filter, Stream *stream) {
  Kind kind = stream->kind;
  leave(stream);
  become(stream, ENDED);
  if (kind == WAITING)
    refuse(filter, 403, CUT, 0);
  else
    HOST(http_filter_reset_stream)(filter, LOCAL_RESET, CUT);
}

/* Which model the body asked for, once it has been read. */
static Bytes model_of_body(Filter filter) {
  Bytes model = {0};
  Bytes space = TEXT("drw.body");
  return HOST(http_get_metadata_string)(filter, DYNAMIC_METADATA, space, TEXT("model"), &model) ? model : (Bytes){0};
}

static void meet(Filter filter, Stream *stream) {
  Bytes model = stream->kind == WAITING ? model_of_body(filter) : (Bytes){0};
  lock(&shards[stream->shard].lock);
  if (model.size)
    name_model(stream, MODEL, model);
  u32 hit = killed(stream);
  unlock(&shards[stream->shard].lock);
  if (hit && stream->state == LIVE && !(stream->kind == EVENTS && doom(stream)))
    end(filter, stream);
}

/* ---- what Envoy calls ---- */

const char *EXPORT(program_init)(void) { return ABI_VERSION; }

static u32 define(Handle host, Bytes name, size *metric) {
  HOST(http_filter_config_define_counter)(host, name, 0, 0, metric);
  return HOST(http_filter_config_increment_counter)(host, *metric, 0, 0, 0); /* Envoy shows what was counted once */
}

const void *EXPORT(http_filter_config_new)(Handle host, Bytes name, Bytes text) {
  Configuration *made = calloc(1, sizeof *made);
  if (!made)
    return 0;
  Lists *newest = 0;
  if (begins(name, TEXT("drw.boundary")))
    made->boundary = boundary_new(text);
  else
    newest = read_lists(text);
  if (!made->boundary && !newest) {
    free(made);
    return 0;
  }
  if (newest) {
    define(host, METRIC_LIMIT, &made->over_limit);
    define(host, METRIC_SCOPE, &made->without_scope);
    enforce(newest);
  }
  return made;
}

void EXPORT(http_filter_config_destroy)(Configuration *configuration) {
  free(configuration->boundary);
  free(configuration);
}

const void *EXPORT(http_filter_new)(const Configuration *configuration, Filter filter) {
  if (configuration->boundary)
    return configuration;
  Stream *stream = calloc(1, sizeof *stream);
  if (!stream)
    return 0; /* Envoy ends the request */
  stream->configuration = configuration;
  stream->shard = HOST(http_filter_get_worker_index)(filter) % SHARDS;
  return stream;
}

void EXPORT(http_filter_destroy)(Stream *stream) {
  if (stream->boundary)
    return;
  if (stream->at) {
    struct Shard *shard = &shards[stream->shard];
    lock(&shard->lock);
    *stream->at = stream->next;
    if (stream->next)
      stream->next->at = stream->at;
    unlock(&shard->lock);
    HOST(http_filter_scheduler_delete)(stream->scheduler);
  }
  leave(stream);
  free(stream);
}

static void add(Stream *stream) {
  struct Shard *shard = &shards[stream->shard];
  stream->next = shard->streams;
  stream->at = &shard->streams;
  shard->streams = stream;
  if (stream->next)
    stream->next->at = &stream->next;
}

static int cross(Filter filter, const Boundary *boundary, int map) {
  if (boundary_apply(boundary, filter, map))
    return CONTINUE;
  HOST(http_filter_reset_stream)(filter, LOCAL_RESET, UNREADABLE);
  return STOP;
}

/* The length that a body says it has; 0: it says none. */
static u64 declared(Filter filter) {
  Bytes length = header(filter, REQUEST_HEADERS, TEXT("content-length"));
  u64 value = 0;
  for (size i = 0; i < length.size && value < 1ull << 56; i++)
    value = value * 10 + (length.data[i] - '0') % 10u;
  return value;
}

/* Whether the header of the token is good with which somebody calls; a token goes no further. */
static u32 takes_token(Filter filter, u32 called) {
  size count = 0;
  Bytes name = TEXT("authorization"), sent = {0};
  if (!HOST(http_get_header)(filter, REQUEST_HEADERS, name, &sent, 0, &count) || !count)
    return 1; /* a certificate */
  u32 good = !called || (count == 1 && token_header_is_good(sent));
  HOST(http_set_header)(filter, REQUEST_HEADERS, name, (Bytes){0});
  return good;
}

/* Who calls is known: whether they are blocked, and whether one more request may pass. */
static const struct Reason *admit(Stream *stream, Filter filter, Bytes org, Bytes key, Bytes path) {
  Bytes desk = header(filter, REQUEST_HEADERS, TEXT("x-drw-desk"));
  Bytes model = header(filter, REQUEST_HEADERS, TEXT("x-model"));
  note(filter, org, desk, key, path);
  stream->scheduler = HOST(http_filter_scheduler_new)(filter);
  struct Shard *shard = &shards[stream->shard];
  lock(&shard->lock);
  stream->subjects[ORG] = subject(TEXT("org"), org, (Bytes){0});
  stream->subjects[DESK] = subject(TEXT("desk"), org, desk);
  stream->subjects[KEY] = subject(TEXT("key"), org, key);
  name_model(stream, MODEL, model);
  u64 revocable = subject(TEXT("revoked"), (Bytes){0}, key);
  const struct Reason *reason = refusal(stream, revocable, begins(path, TEXT("/api/")));
  if (!reason)
    stream->standing =
        limits_take(&lists->limits, stream->subjects[KEY], stream->subjects[DESK], stream->subjects[ORG]);
  stream->state = reason ? ENDED : LIVE;
  add(stream);
  unlock(&shard->lock);
  return reason;
}

static int refuse_here(Filter filter, Stream *stream, u32 status, Bytes details, const size *metric) {
  Told told;
  limits_tell(&stream->standing, &told);
  if (metric)
    HOST(http_filter_increment_counter)(filter, *metric, 0, 0, 1);
  leave(stream);
  become(stream, ENDED);
  refuse(filter, status, details, &told);
  return STOP;
}

int EXPORT(http_filter_request_headers)(Filter filter, Stream *stream, _Bool ends) {
  (void)ends;
  if (stream->boundary)
    return cross(filter, stream->boundary, REQUEST_HEADERS);
  const Route *route = HOST(get_most_specific_route_config)(filter);
  Bytes key = header(filter, REQUEST_HEADERS, TEXT("x-drw-key"));
  if (!takes_token(filter, key.size != 0)) {
    refuse(filter, 401, BAD_TOKEN, 0);
    stream->state = ENDED; /* nobody else knows of it */
    return STOP;
  }
  if (key.size) {
    Bytes org = header(filter, REQUEST_HEADERS, TEXT("x-drw-org"));
    const struct Reason *reason = admit(stream, filter, org, key, header(filter, REQUEST_HEADERS, TEXT(":path")));
    if (reason) {
      refuse(filter, reason->status, reason->details, 0);
      return STOP;
    }
    if (stream->standing.refused)
      return refuse_here(filter, stream, 429, OVER_LIMIT, &stream->configuration->over_limit);
  }
  if (!route_admits(route, key, header(filter, REQUEST_HEADERS, TEXT("x-drw-scopes"))))
    return refuse_here(filter, stream, 403, LACKS_SCOPE, &stream->configuration->without_scope);
  stream->most = route_most(route);
  return declared(filter) > stream->most ? refuse_here(filter, stream, 413, TOO_LARGE, 0) : CONTINUE;
}

int EXPORT(http_filter_request_body)(Filter filter, Stream *stream, _Bool ends) {
  (void)ends;
  if (stream->boundary || stream->state == ENDED)
    return CONTINUE;
  stream->came += HOST(http_get_body_size)(filter, REQUEST_BODY);
  if (stream->came <= stream->most)
    return CONTINUE;
  refuse_here(filter, stream, 413, TOO_LARGE, 0);
  return STOP_BODY;
}

int EXPORT(http_filter_response_headers)(Filter filter, Stream *stream, _Bool ends) {
  (void)ends;
  if (stream->boundary)
    return cross(filter, stream->boundary, RESPONSE_HEADERS);
  if (!stream->at || stream->state == ENDED)
    return CONTINUE;
  Bytes type = header(filter, RESPONSE_HEADERS, TEXT("content-type"));
  Bytes answering = header(filter, RESPONSE_HEADERS, TEXT("x-drw-model"));
  Bytes asked = model_of_body(filter);
  lock(&shards[stream->shard].lock);
  stream->kind = begins(type, TEXT("text/event-stream")) ? EVENTS : OTHER;
  if (answering.size)
    name_model(stream, ANSWERING, answering);
  if (asked.size)
    name_model(stream, MODEL, asked);
  u32 hit = killed(stream);
  unlock(&shards[stream->shard].lock);
  limits_add(filter, &stream->standing);
  if (!hit || (stream->kind == EVENTS && doom(stream)))
    return CONTINUE;
  become(stream, ENDED);
  refuse(filter, 403, CUT, 0); /* the whole answer may come before anything else happens */
  return STOP;
}

/* Where the event ends that is under way: the bytes up to there; 0: not in this chunk. */
static size boundary(const Bytes *chunks, size count) {
  u8 last[3] = {0};
  size at = 0;
  for (size c = 0; c < count; c++)
    for (size i = 0; i < chunks[c].size; i++, at++) {
      u8 now = chunks[c].data[i];
      if (now == '\n' && (last[2] == '\n' || (last[2] == '\r' && last[1] == '\n')))
        return at + 1;
      last[0] = last[1], last[1] = last[2], last[2] = now;
    }
  return 0;
}

/* Puts the last event behind the one that is under way, in place of all that follows; returns whether it could. */
static u32 said(Filter filter) {
  size count = HOST(http_get_body_chunks_size)(filter, RESPONSE_BODY), all = 0, copied = 0;
  Bytes *chunks = count ? calloc(count, sizeof *chunks) : 0;
  if (!chunks || !HOST(http_get_body_chunks)(filter, RESPONSE_BODY, chunks)) {
    free(chunks);
    return 0;
  }
  for (size c = 0; c < count; c++)
    all += chunks[c].size;
  size kept = boundary(chunks, count);
  u8 *copy = kept ? calloc(kept, 1) : 0;
  for (size c = 0; copy && c < count; c++)
    for (size i = 0; i < chunks[c].size && copied < kept; i++)
      copy[copied++] = chunks[c].data[i];
  free(chunks);
  if (!copy)
    return 0;
  HOST(http_drain_body)(filter, RESPONSE_BODY, all);
  HOST(http_append_body)(filter, RESPONSE_BODY, (Bytes){copy, kept});
  HOST(http_append_body)(filter, RESPONSE_BODY, EVENT);
  free(copy);
  return 1;
}

int EXPORT(http_filter_response_body)(Filter filter, Stream *stream, _Bool ends) {
  (void)ends;
  if (stream->boundary)
    return CONTINUE;
  if (stream->state == DOOMED && said(filter))
    become(stream, SAID);
  else if (stream->state == SAID)
    HOST(http_drain_body)(filter, RESPONSE_BODY, (size)-1);
  return CONTINUE;
}

void EXPORT(http_filter_scheduled)(Filter filter, Stream *stream, u64 event) {
  if (event == MEET)
    meet(filter, stream);
  else if (stream->state == event)
    end(filter, stream);
}

int EXPORT(http_filter_request_trailers)(void) { return CONTINUE; }
int EXPORT(http_filter_response_trailers)(void) { return CONTINUE; }

/* Envoy looks for these, too; nothing of the kind happens here. */
#define UNUSED(name) \
  void EXPORT(http_filter_##name)(void) {}
UNUSED(stream_complete)
UNUSED(http_callout_done)
UNUSED(http_stream_headers)
UNUSED(http_stream_data)
UNUSED(http_stream_trailers)
UNUSED(http_stream_complete)
UNUSED(http_stream_reset)
UNUSED(downstream_above_write_buffer_high_watermark)
UNUSED(downstream_below_write_buffer_low_watermark)
