/* HTTP filter of Envoy as a dynamic module: rejects blocked subjects, requests over a limit, missing scopes and
 * bodies that are too large, and cuts the streams of killed subjects. limiter.c counts requests, route.c parses the
 * requirements of a route, token_header.c checks tokens, boundary.c is a second filter that strips headers.
 *
 * The agent delivers the configuration as text (drw.agent.native_filter). The first line has the hash seed, the default
 * limit of keys and the number of limits. Then comes one line for each limit (hash of the subject, requests a minute,
 * hash of the counter) and one for each blocked subject (letter of the reason, hash). All workers share the newest
 * lists. A new list is applied to live streams at once, also to silent ones:
 *
 *   - a response that has not started becomes a 403 with the reason;
 *   - an event stream ends with an error event, then its connection is closed;
 *   - any other response, and an event stream that is silent for GRACE_TICKS, is reset.
 *
 * Only a kill cuts live streams. Streams of revoked keys and of subjects over a limit run to their end.
 *
 * Each worker has a shard. Its lock guards its list of streams, and the fields of a stream that other threads read.
 * All other fields belong to the worker. With a lock held, Envoy is called only to schedule an event.
 */

#include "components.h"
#include "limiter.h"
#include "siphash.h"

enum { TICK_NANOSECONDS = 25000000, GRACE_TICKS = 20 };
enum { LETTER = 1, NUMBER = 8, HASH = 16, NEWLINE = 1 }; /* characters; numbers and hashes are hexadecimal */
enum { HEAD = 2 * HASH + 2 * NUMBER + NEWLINE, LIMIT_LINE = HASH + NUMBER + HASH + NEWLINE };
enum { BLOCK_LINE = LETTER + HASH + NEWLINE, KILLED = 'k', MAX_LINES = 1 << 17 }; /* lines of each kind */
enum { SHARDS = 64 };
/* Subjects of a stream. A model occurs twice: in the deny list of all orgs, and in that of the caller's org. */
enum { ORG, DESK, KEY, REQUEST_MODEL, ORG_REQUEST_MODEL, RESPONSE_MODEL, ORG_RESPONSE_MODEL, SUBJECTS };

#define ABI_VERSION "v0.2.0"
#define CUT TEXT("drw_cut")
#define OVER_LIMIT TEXT("drw_requests")
#define BAD_TOKEN TEXT("drw_refused_token_header")
#define SEVERAL_TOKENS TEXT("drw_refused_several_tokens")
#define LACKS_SCOPE TEXT("drw_lacks_scope")
#define TOO_LARGE TEXT("drw_too_large")
#define UNREADABLE_HEADERS TEXT("drw_headers")
/* Metrics; Prometheus shows them as envoy_drw_requests_over_limit and envoy_drw_requests_without_scope. */
#define METRIC_LIMIT TEXT("requests_over_limit")
#define METRIC_SCOPE TEXT("requests_without_scope")
#define KILL_MESSAGE "\"this was stopped by a kill switch: `drw kill list` says why\""
/* Clients of chats read `error`, those of OpenAI's responses the fields beside it, and Anthropic's the event's name. */
#define KILL_EVENT                                                                                                \
  TEXT("event: error\ndata: {\"type\": \"error\", \"code\": \"killed\", \"message\": " KILL_MESSAGE                   \
       ", \"param\": null, \"error\": {\"message\": " KILL_MESSAGE                                                  \
       ", \"type\": \"permission_error\", \"param\": null, \"code\": \"killed\"}}\n\n")

typedef enum { PENDING, EVENT_STREAM, OTHER } ResponseKind;
typedef enum { LIVE, CUTTING, EVENT_SENT, ENDED } State;
enum { CHECK_KILLS = ENDED + 1 }; /* scheduled events: this, or the state whose time ran out */

/* The boundary filter has no state for each stream: its configuration serves as its stream. */
typedef struct Configuration {
  Boundary *boundary; /* 0: not the boundary filter */
  size over_limit, without_scope; /* metrics */
} Configuration;

typedef struct Stream {
  const Boundary *boundary; /* must be the first member, as in Configuration */
  struct Stream *next, **link; /* list of the shard; link 0: no verified caller, not in the list */
  const Configuration *configuration;
  Handle scheduler;
  u64 subjects[SUBJECTS]; /* 0: none */
  u64 max_body, received; /* bytes of the body of the request */
  LimitStatus limit_status;
  u32 shard;
  u32 ticks;
  ResponseKind kind;
  State state;
} Stream;

/* Reasons of a rejection, the most severe first. Local replies match on the details. */
static const struct Reason {
  u8 letter;
  u32 status;
  Bytes details;
  u32 allows_administration; /* administrative endpoints stay usable, to raise a budget or kill a subject */
} REASONS[] = {
#define REASON(letter, status, details, administration) \
  {letter, status, {(const u8 *)details, sizeof details - 1}, administration}
    REASON('r', 401, "drw_refused_revoked", 0),
    REASON(KILLED, 403, "drw_refused_killed", 0),
    REASON('m', 429, "drw_refused_money", 1),
    REASON('t', 429, "drw_refused_tokens", 1),
};
enum { REASONS_COUNT = sizeof REASONS / sizeof *REASONS };

typedef struct Lists {
  u64 seed[2];
  Limits limits;
  u64 *blocked; /* hash table with open addressing; 0: free */
  u8 *reasons;
  u32 blocked_mask;
  u32 has_kills;
} Lists;

static Lists *active_lists; /* read with the lock of any shard, replaced with the locks of all */

static struct Shard {
  _Alignas(64) Lock lock;
  Stream *streams;
} shards[SHARDS];

/* Hash of "KIND\nORG\nNAME", as in drw.agent.native_filter. Never 0, which means "no subject". */
static u64 subject(Bytes kind, Bytes org, Bytes name) {
  Sip hash_state = sip_start(active_lists->seed);
  sip_add(&hash_state, kind);
  sip_add(&hash_state, TEXT("\n"));
  sip_add(&hash_state, org);
  sip_add(&hash_state, TEXT("\n"));
  sip_add(&hash_state, name);
  u64 hash = sip_finish(&hash_state);
  return hash ? hash : 1;
}

/* Sets the subjects of a model: for all orgs, and for the caller's org, which is hashed as a part of the name. */
static void set_model(Stream *stream, u32 index, Bytes model) {
  u8 org[HASH];
  for (u32 i = 0; i < HASH; i++)
    org[i] = (u8)"0123456789abcdef"[stream->subjects[ORG] >> 4 * (HASH - 1 - i) & 15];
  stream->subjects[index] = model.size ? subject(TEXT("model"), (Bytes){0}, model) : 0;
  stream->subjects[index + 1] = model.size ? subject(TEXT("model"), (Bytes){org, HASH}, model) : 0;
}

/* The letter of the reason; 0: the subject is not blocked. */
static u8 block_reason(u64 subject) {
  return subject ? active_lists->reasons[slot(active_lists->blocked, active_lists->blocked_mask, subject)] : 0;
}

static u32 is_killed(const Stream *stream) {
  for (u32 s = 0; active_lists->has_kills && s < SUBJECTS; s++)
    if (block_reason(stream->subjects[s]) == KILLED)
      return 1;
  return 0;
}

/* The most severe reason to reject a new request; 0: none. */
static const struct Reason *rejection(const Stream *stream, u64 revocable, u32 administers) {
  for (u32 r = 0; r < REASONS_COUNT; r++) {
    u32 matches = block_reason(revocable) == REASONS[r].letter;
    for (u32 s = 0; s < SUBJECTS; s++)
      matches |= block_reason(stream->subjects[s]) == REASONS[r].letter;
    if (matches && !(REASONS[r].allows_administration && administers))
      return &REASONS[r];
  }
  return 0;
}

/* ---- limits and deny list ---- */

static void free_lists(Lists *old) {
  if (!old)
    return;
  free(old->limits.subjects), free(old->limits.counters), free(old->limits.per_minute);
  free(old->blocked), free(old->reasons), free(old);
}

static u32 allocate_tables(Lists *lists, u32 limits, u32 blocks) {
  lists->limits.mask = table_mask(limits);
  lists->blocked_mask = table_mask(blocks);
  size limit_slots = lists->limits.mask + 1ul, block_slots = lists->blocked_mask + 1ul;
  lists->limits.subjects = calloc(limit_slots, sizeof(u64));
  lists->limits.counters = calloc(limit_slots, sizeof(u64));
  lists->limits.per_minute = calloc(limit_slots, sizeof(u32));
  lists->blocked = calloc(block_slots, sizeof(u64));
  lists->reasons = calloc(block_slots, sizeof(u8));
  return lists->limits.subjects && lists->limits.counters && lists->limits.per_minute && lists->blocked &&
         lists->reasons;
}

static void add_limit(Limits *limits, const u8 *line) {
  u64 subject = parse_hex(line, HASH);
  u32 index = slot(limits->subjects, limits->mask, subject);
  limits->subjects[index] = subject;
  limits->per_minute[index] = (u32)parse_hex(line + HASH, NUMBER);
  limits->counters[index] = parse_hex(line + HASH + NUMBER, HASH);
}

static void add_block(Lists *lists, const u8 *line) {
  u64 subject = parse_hex(line + LETTER, HASH);
  u32 index = slot(lists->blocked, lists->blocked_mask, subject);
  if (lists->blocked[index]) /* the most severe reason comes first */
    return;
  lists->blocked[index] = subject;
  lists->reasons[index] = line[0];
  lists->has_kills |= line[0] == KILLED;
}

/* Returns 0 if the text is malformed or memory is exhausted. */
static Lists *parse_lists(Bytes text) {
  if (text.size < HEAD)
    return 0;
  u64 limits = parse_hex(text.data + 2 * HASH + NUMBER, NUMBER), remaining = text.size - HEAD;
  if (limits > MAX_LINES || limits > remaining / LIMIT_LINE)
    return 0;
  u64 blocks = (remaining - limits * LIMIT_LINE) / BLOCK_LINE;
  if (blocks > MAX_LINES || limits * LIMIT_LINE + blocks * BLOCK_LINE != remaining)
    return 0;
  Lists *lists = calloc(1, sizeof *lists);
  if (!lists || !allocate_tables(lists, (u32)limits, (u32)blocks)) {
    free_lists(lists);
    return 0;
  }
  lists->seed[0] = parse_hex(text.data, HASH), lists->seed[1] = parse_hex(text.data + HASH, HASH);
  lists->limits.default_per_minute = (u32)parse_hex(text.data + 2 * HASH, NUMBER);
  const u8 *line = text.data + HEAD;
  for (; limits--; line += LIMIT_LINE)
    add_limit(&lists->limits, line);
  for (; blocks--; line += BLOCK_LINE)
    add_block(lists, line);
  return lists;
}

/* Activates new lists, and schedules a check of the streams that they may cut. Streams without a response are always
 * checked, because the worker reads their model from the body. */
static void replace_lists(Lists *new_lists) {
  for (u32 s = 0; s < SHARDS; s++)
    lock(&shards[s].lock);
  Lists *old = active_lists;
  active_lists = new_lists;
  for (u32 s = 0; new_lists->has_kills && s < SHARDS; s++)
    for (const Stream *stream = shards[s].streams; stream; stream = stream->next)
      if (stream->kind == PENDING || is_killed(stream))
        HOST(http_filter_scheduler_commit)(stream->scheduler, CHECK_KILLS);
  for (u32 s = 0; s < SHARDS; s++)
    unlock(&shards[s].lock);
  free_lists(old);
}

/* ---- cutting of streams ---- */

static struct {
  Lock lock;
  u32 cutting;
  u32 running;
} ticker;

static void tick(struct Shard *shard) {
  lock(&shard->lock);
  for (Stream *stream = shard->streams; stream; stream = stream->next)
    if (stream->state == EVENT_SENT ? stream->ticks++ > 0 : stream->state == CUTTING && stream->ticks++ >= GRACE_TICKS)
      HOST(http_filter_scheduler_commit)(stream->scheduler, stream->state);
  unlock(&shard->lock);
}

static void *run_ticker(void *argument) {
  static const struct timespec TICK = {0, TICK_NANOSECONDS};
  for (;;) {
    nanosleep(&TICK, 0);
    for (u32 s = 0; s < SHARDS; s++)
      tick(&shards[s]);
    lock(&ticker.lock);
    u32 running = ticker.running = ticker.cutting > 0;
    unlock(&ticker.lock);
    if (!running)
      return argument;
  }
}

static void set_state(Stream *stream, State state) {
  lock(&shards[stream->shard].lock);
  stream->state = state;
  unlock(&shards[stream->shard].lock);
}

/* Lets the ticker watch an event stream until it has ended. Returns 0 if no thread can be started. */
static u32 start_cutting(Stream *stream) {
  void *thread;
  lock(&ticker.lock);
  if (!ticker.running && pthread_create(&thread, 0, run_ticker, 0) == 0) {
    pthread_detach(thread);
    ticker.running = 1;
  }
  u32 running = ticker.running;
  ticker.cutting += running;
  unlock(&ticker.lock);
  if (running)
    set_state(stream, CUTTING);
  return running;
}

static void stop_cutting(const Stream *stream) {
  if (stream->state != CUTTING && stream->state != EVENT_SENT)
    return;
  lock(&ticker.lock);
  ticker.cutting--;
  unlock(&ticker.lock);
}

static void send_reply(Filter filter, u32 status, Bytes details, LimitHeaders *limits) {
  size count = limits ? limits->count : 0;
  HOST(http_send_response)(filter, status, limits ? limits->headers : 0, count, (Bytes){0}, details);
}

/* Envoy may free the stream in these calls: do not use it afterwards. */
static void end_stream(Filter filter, Stream *stream) {
  ResponseKind kind = stream->kind;
  stop_cutting(stream);
  set_state(stream, ENDED);
  if (kind == PENDING)
    send_reply(filter, 403, CUT, 0);
  else
    HOST(http_filter_reset_stream)(filter, LOCAL_RESET, CUT);
}

/* The model in the request body, once it was read. */
static Bytes body_model(Filter filter) {
  Bytes model = {0};
  Bytes space = TEXT("drw.body");
  return HOST(http_get_metadata_string)(filter, DYNAMIC_METADATA, space, TEXT("model"), &model) ? model : (Bytes){0};
}

static void check_kills(Filter filter, Stream *stream) {
  Bytes model = stream->kind == PENDING ? body_model(filter) : (Bytes){0};
  lock(&shards[stream->shard].lock);
  if (model.size)
    set_model(stream, REQUEST_MODEL, model);
  u32 killed = is_killed(stream);
  unlock(&shards[stream->shard].lock);
  if (killed && stream->state == LIVE && !(stream->kind == EVENT_STREAM && start_cutting(stream)))
    end_stream(filter, stream);
}

/* ---- callbacks of Envoy ---- */

const char *EXPORT(program_init)(void) { return ABI_VERSION; }

static u32 define_counter(Handle host, Bytes name, size *metric) {
  HOST(http_filter_config_define_counter)(host, name, 0, 0, metric);
  /* Envoy exports a counter only after its first use. */
  return HOST(http_filter_config_increment_counter)(host, *metric, 0, 0, 0);
}

const void *EXPORT(http_filter_config_new)(Handle host, Bytes name, Bytes text) {
  Configuration *configuration = calloc(1, sizeof *configuration);
  if (!configuration)
    return 0;
  Lists *new_lists = 0;
  if (starts_with(name, TEXT("drw.boundary")))
    configuration->boundary = boundary_new(text);
  else
    new_lists = parse_lists(text);
  if (!configuration->boundary && !new_lists) {
    free(configuration);
    return 0;
  }
  if (new_lists) {
    define_counter(host, METRIC_LIMIT, &configuration->over_limit);
    define_counter(host, METRIC_SCOPE, &configuration->without_scope);
    replace_lists(new_lists);
  }
  return configuration;
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
  if (stream->link) {
    struct Shard *shard = &shards[stream->shard];
    lock(&shard->lock);
    *stream->link = stream->next;
    if (stream->next)
      stream->next->link = stream->link;
    unlock(&shard->lock);
    HOST(http_filter_scheduler_delete)(stream->scheduler);
  }
  stop_cutting(stream);
  free(stream);
}

static void track(Stream *stream) {
  struct Shard *shard = &shards[stream->shard];
  stream->next = shard->streams;
  stream->link = &shard->streams;
  shard->streams = stream;
  if (stream->next)
    stream->next->link = &stream->next;
}

static int strip_headers(Filter filter, const Boundary *boundary, int map) {
  if (boundary_apply(boundary, filter, map))
    return CONTINUE;
  HOST(http_filter_reset_stream)(filter, LOCAL_RESET, UNREADABLE_HEADERS);
  return STOP;
}

/* The declared length of the body; 0: none. */
static u64 content_length(Filter filter) {
  Bytes length = header(filter, REQUEST_HEADERS, TEXT("content-length"));
  u64 value = 0;
  for (size i = 0; i < length.size && value < 1ull << 56; i++)
    value = value * 10 + (length.data[i] - '0') % 10u;
  return value;
}

/* Removes a header with a token from the request, and checks the JOSE header of the token. Returns the number of values;
 * `allowed` is set to 0 if there is not one acceptable token. */
static size take_token(Filter filter, Bytes name, u32 has_scheme, u32 *allowed) {
  size count = 0;
  Bytes value = {0};
  if (!HOST(http_get_header)(filter, REQUEST_HEADERS, name, &value, 0, &count) || !count)
    return 0;
  if (count > 1 || !token_header_is_allowed(has_scheme ? bearer_token(value) : value))
    *allowed = 0;
  HOST(http_set_header)(filter, REQUEST_HEADERS, name, (Bytes){0});
  return count;
}

/* Checks the token of a verified caller, and removes it from the request. Returns the reason of a rejection, or of size
 * 0. A caller without a token has a client certificate. */
static Bytes check_token(Filter filter, u32 identified) {
  u32 allowed = 1;
  size bearer = take_token(filter, TEXT("authorization"), 1, &allowed);
  size api_key = take_token(filter, TEXT("x-api-key"), 0, &allowed);
  if (!identified)
    return (Bytes){0};
  return bearer && api_key ? SEVERAL_TOKENS : allowed ? (Bytes){0} : BAD_TOKEN;
}

/* Checks a verified caller against the deny list, and counts the request. Returns the reason of a rejection, or 0. */
static const struct Reason *admit(Stream *stream, Filter filter, Bytes org, Bytes key, Bytes path) {
  Bytes desk = header(filter, REQUEST_HEADERS, TEXT("x-drw-desk"));
  Bytes model = header(filter, REQUEST_HEADERS, TEXT("x-model"));
  write_log_line(filter, org, desk, key, path);
  stream->scheduler = HOST(http_filter_scheduler_new)(filter);
  struct Shard *shard = &shards[stream->shard];
  lock(&shard->lock);
  stream->subjects[ORG] = subject(TEXT("org"), org, (Bytes){0});
  stream->subjects[DESK] = subject(TEXT("desk"), org, desk);
  stream->subjects[KEY] = subject(TEXT("key"), org, key);
  set_model(stream, REQUEST_MODEL, model);
  u64 revocable = subject(TEXT("revoked"), (Bytes){0}, key);
  const struct Reason *reason = rejection(stream, revocable, starts_with(path, TEXT("/api/")));
  if (!reason)
    stream->limit_status =
        limits_count(&active_lists->limits, stream->subjects[KEY], stream->subjects[DESK], stream->subjects[ORG]);
  stream->state = reason ? ENDED : LIVE;
  track(stream);
  unlock(&shard->lock);
  return reason;
}

static int reject(Filter filter, Stream *stream, u32 status, Bytes details, const size *metric) {
  LimitHeaders headers;
  limits_write(&stream->limit_status, &headers);
  if (metric)
    HOST(http_filter_increment_counter)(filter, *metric, 0, 0, 1);
  stop_cutting(stream);
  set_state(stream, ENDED);
  send_reply(filter, status, details, &headers);
  return STOP;
}

int EXPORT(http_filter_request_headers)(Filter filter, Stream *stream, _Bool ends) {
  (void)ends;
  if (stream->boundary)
    return strip_headers(filter, stream->boundary, REQUEST_HEADERS);
  const Route *route = HOST(get_most_specific_route_config)(filter);
  Bytes key = header(filter, REQUEST_HEADERS, TEXT("x-drw-key"));
  Bytes bad_token = check_token(filter, key.size != 0);
  if (bad_token.size) {
    send_reply(filter, 401, bad_token, 0);
    stream->state = ENDED; /* without a lock: the stream is in no list */
    return STOP;
  }
  if (key.size) {
    Bytes org = header(filter, REQUEST_HEADERS, TEXT("x-drw-org"));
    const struct Reason *reason = admit(stream, filter, org, key, header(filter, REQUEST_HEADERS, TEXT(":path")));
    if (reason) {
      send_reply(filter, reason->status, reason->details, 0);
      return STOP;
    }
    if (stream->limit_status.rejected)
      return reject(filter, stream, 429, OVER_LIMIT, &stream->configuration->over_limit);
  }
  if (!route_admits(route, key, header(filter, REQUEST_HEADERS, TEXT("x-drw-scopes"))))
    return reject(filter, stream, 403, LACKS_SCOPE, &stream->configuration->without_scope);
  stream->max_body = route_max_body(route);
  return content_length(filter) > stream->max_body ? reject(filter, stream, 413, TOO_LARGE, 0) : CONTINUE;
}

int EXPORT(http_filter_request_body)(Filter filter, Stream *stream, _Bool ends) {
  (void)ends;
  if (stream->boundary || stream->state == ENDED)
    return CONTINUE;
  stream->received += HOST(http_get_body_size)(filter, REQUEST_BODY);
  if (stream->received <= stream->max_body)
    return CONTINUE;
  reject(filter, stream, 413, TOO_LARGE, 0);
  return STOP_BODY;
}

int EXPORT(http_filter_response_headers)(Filter filter, Stream *stream, _Bool ends) {
  (void)ends;
  if (stream->boundary)
    return strip_headers(filter, stream->boundary, RESPONSE_HEADERS);
  if (!stream->link || stream->state == ENDED)
    return CONTINUE;
  Bytes type = header(filter, RESPONSE_HEADERS, TEXT("content-type"));
  Bytes response_model = header(filter, RESPONSE_HEADERS, TEXT("x-drw-model"));
  Bytes requested = body_model(filter);
  lock(&shards[stream->shard].lock);
  stream->kind = starts_with(type, TEXT("text/event-stream")) ? EVENT_STREAM : OTHER;
  if (response_model.size)
    set_model(stream, RESPONSE_MODEL, response_model);
  if (requested.size)
    set_model(stream, REQUEST_MODEL, requested);
  u32 killed = is_killed(stream);
  unlock(&shards[stream->shard].lock);
  limits_add_headers(filter, &stream->limit_status);
  if (!killed || (stream->kind == EVENT_STREAM && start_cutting(stream)))
    return CONTINUE;
  set_state(stream, ENDED);
  send_reply(filter, 403, CUT, 0); /* at once, because the whole response may be in the buffer */
  return STOP;
}

/* The number of bytes up to the end of the current event; 0: it does not end in these chunks. */
static size event_end(const Bytes *chunks, size count) {
  u8 last[3] = {0};
  size offset = 0;
  for (size c = 0; c < count; c++)
    for (size i = 0; i < chunks[c].size; i++, offset++) {
      u8 byte = chunks[c].data[i];
      if (byte == '\n' && (last[2] == '\n' || (last[2] == '\r' && last[1] == '\n')))
        return offset + 1;
      last[0] = last[1], last[1] = last[2], last[2] = byte;
    }
  return 0;
}

/* Replaces everything after the current event with the error event. Returns 0 if the event does not end here. */
static u32 append_kill_event(Filter filter) {
  size count = HOST(http_get_body_chunks_size)(filter, RESPONSE_BODY), total = 0, copied = 0;
  Bytes *chunks = count ? calloc(count, sizeof *chunks) : 0;
  if (!chunks || !HOST(http_get_body_chunks)(filter, RESPONSE_BODY, chunks)) {
    free(chunks);
    return 0;
  }
  for (size c = 0; c < count; c++)
    total += chunks[c].size;
  size event_size = event_end(chunks, count);
  u8 *copy = event_size ? calloc(event_size, 1) : 0;
  for (size c = 0; copy && c < count; c++)
    for (size i = 0; i < chunks[c].size && copied < event_size; i++)
      copy[copied++] = chunks[c].data[i];
  free(chunks);
  if (!copy)
    return 0;
  HOST(http_drain_body)(filter, RESPONSE_BODY, total);
  HOST(http_append_body)(filter, RESPONSE_BODY, (Bytes){copy, event_size});
  HOST(http_append_body)(filter, RESPONSE_BODY, KILL_EVENT);
  free(copy);
  return 1;
}

int EXPORT(http_filter_response_body)(Filter filter, Stream *stream, _Bool ends) {
  (void)ends;
  if (stream->boundary)
    return CONTINUE;
  if (stream->state == CUTTING && append_kill_event(filter))
    set_state(stream, EVENT_SENT);
  else if (stream->state == EVENT_SENT)
    HOST(http_drain_body)(filter, RESPONSE_BODY, (size)-1);
  return CONTINUE;
}

void EXPORT(http_filter_scheduled)(Filter filter, Stream *stream, u64 event) {
  if (event == CHECK_KILLS)
    check_kills(filter, stream);
  else if (stream->state == event)
    end_stream(filter, stream);
}

int EXPORT(http_filter_request_trailers)(void) { return CONTINUE; }
int EXPORT(http_filter_response_trailers)(void) { return CONTINUE; }

/* Envoy requires these symbols. */
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
