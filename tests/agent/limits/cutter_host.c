/* A double of Envoy for the cutter: workers that send requests and chunks of answers while lists come and go.
 *
 * test_cutter.py builds it with the checks of undefined behaviour. By hand, with those of memory and of threads:
 * cc -g -std=gnu11 -fsanitize=address,undefined -Isrc/drw/agent/cutter tests/agent/limits/cutter_host.c
 * src/drw/agent/cutter/?*.c -lpthread, and once more with -fsanitize=thread.
 */

#include "envoy.h"

int printf(const char *format, ...);
int snprintf(char *to, size most, const char *format, ...);
void *memcpy(void *to, const void *from, size bytes);
size strlen(const char *text);
int strcmp(const char *one, const char *other);
void abort(void);
int pthread_join(void *thread, void **result);

#define CUTTER(name) envoy_dynamic_module_on_##name
#define CHECK(what) ((what) ? (void)0 : (printf("line %d: %s\n", __LINE__, #what), abort()))

enum { WORKERS = 4, ROUNDS = 3000, MOST_SIGNALS = 64, BODY = 1 << 12 };

typedef struct Request {
  u32 worker;
  const char *key, *path, *type, *scopes, *length, *token;
  const void *route;
  const char **names; /* of headers, for the boundary; 0: the end */
  u8 body[BODY];
  size body_size, split;
  u32 status, was_reset, told, added, noted, removed;
  u64 signals[MOST_SIGNALS];
  u32 count;
  Lock lock; /* of the signals, which any thread sends */
} Request;

const char *CUTTER(program_init)(void);
const void *CUTTER(http_filter_config_new)(Handle, Bytes, Bytes);
void CUTTER(http_filter_config_destroy)(const void *);
void *CUTTER(http_filter_new)(const void *, Filter);
void CUTTER(http_filter_destroy)(void *);
const void *CUTTER(http_filter_per_route_config_new)(Bytes, Bytes);
void CUTTER(http_filter_per_route_config_destroy)(const void *);
int CUTTER(http_filter_request_headers)(Filter, void *, _Bool);
int CUTTER(http_filter_request_body)(Filter, void *, _Bool);
int CUTTER(http_filter_response_headers)(Filter, void *, _Bool);
int CUTTER(http_filter_response_body)(Filter, void *, _Bool);
void CUTTER(http_filter_scheduled)(Filter, void *, u64);

static u32 same(Bytes one, const char *other) {
  for (size i = 0; i < one.size; i++)
    if (one.data[i] != (u8)other[i])
      return 0;
  return !other[one.size];
}

_Bool HOST(http_get_header)(Filter filter, int map, Bytes name, Bytes *value, size index, size *count) {
  const Request *request = filter;
  const char *found = 0;
  (void)index;
  if (count)
    *count = request->token ? 1 + (*request->token == '2') : 0;
  if (map == RESPONSE_HEADERS)
    found = same(name, "content-type") ? request->type : 0;
  else
    found = same(name, "x-drw-key") ? request->key : same(name, ":path") ? request->path
            : same(name, "x-drw-scopes") ? request->scopes : same(name, "content-length") ? request->length
            : same(name, "authorization") ? request->token
            : same(name, "x-drw-org") || same(name, "x-drw-desk") || same(name, "x-model") ? "here" : 0;
  if (found)
    *value = (Bytes){(const u8 *)found, strlen(found)};
  return found != 0;
}
_Bool HOST(http_set_header)(Filter filter, int map, Bytes name, Bytes value) {
  (void)map;
  CHECK(value.data || (name.size && name.data));
  if (!value.data)
    ((Request *)filter)->removed++;
  else
    ((Request *)filter)->told++;
  return 1;
}
_Bool HOST(http_add_header)(Filter filter, int map, Bytes name, Bytes value) {
  ((Request *)filter)->added++;
  return HOST(http_set_header)(filter, map, name, value);
}
size HOST(http_get_headers_size)(Filter filter, int map) {
  size count = 0;
  (void)map;
  while (((Request *)filter)->names && ((Request *)filter)->names[count])
    count++;
  return count;
}
_Bool HOST(http_get_headers)(Filter filter, int map, Pair *headers) {
  size count = HOST(http_get_headers_size)(filter, map);
  for (size i = 0; i < count; i++) {
    const char *name = ((Request *)filter)->names[i];
    headers[i] = (Pair){{(const u8 *)name, strlen(name)}, TEXT("value")};
  }
  return 1;
}
const void *HOST(get_most_specific_route_config)(Filter filter) { return ((Request *)filter)->route; }
size HOST(http_get_body_size)(Filter filter, int body) {
  CHECK(body == REQUEST_BODY);
  return ((Request *)filter)->body_size;
}
_Bool HOST(http_get_metadata_string)(Filter filter, int source, Bytes space, Bytes name, Bytes *value) {
  (void)filter, (void)source, (void)space, (void)name, (void)value;
  return 0;
}
void HOST(http_set_dynamic_metadata_string)(Filter filter, Bytes space, Bytes name, Bytes value) {
  (void)space, (void)name;
  for (size i = 0; i < value.size; i++)
    CHECK(value.data[i] >= ' ' && value.data[i] <= '~');
  ((Request *)filter)->noted++;
}
size HOST(http_get_body_chunks_size)(Filter filter, int body) {
  const Request *request = filter;
  (void)body;
  return !request->body_size ? 0 : request->split ? 2 : 1;
}
_Bool HOST(http_get_body_chunks)(Filter filter, int body, Bytes *chunks) {
  Request *request = filter;
  (void)body;
  chunks[0] = (Bytes){request->body, request->split ? request->split : request->body_size};
  if (request->split)
    chunks[1] = (Bytes){request->body + request->split, request->body_size - request->split};
  return 1;
}
_Bool HOST(http_append_body)(Filter filter, int body, Bytes data) {
  Request *request = filter;
  (void)body;
  CHECK(request->body_size + data.size <= BODY);
  memcpy(request->body + request->body_size, data.data, data.size);
  request->body_size += data.size;
  return 1;
}
_Bool HOST(http_drain_body)(Filter filter, int body, size bytes) {
  Request *request = filter;
  (void)body;
  CHECK(bytes >= request->body_size);
  request->body_size = 0;
  return 1;
}
void HOST(http_send_response)(Filter filter, u32 status, Pair *headers, size count, Bytes body, Bytes details) {
  (void)headers, (void)count, (void)body;
  CHECK(details.size);
  ((Request *)filter)->status = status;
}
void HOST(http_filter_reset_stream)(Filter filter, int reason, Bytes details) {
  (void)reason, (void)details;
  ((Request *)filter)->was_reset = 1;
}
u32 HOST(http_filter_get_worker_index)(Filter filter) { return ((Request *)filter)->worker; }
Handle HOST(http_filter_scheduler_new)(Filter filter) { return filter; }
void HOST(http_filter_scheduler_delete)(Handle scheduler) { CHECK(scheduler != 0); }
void HOST(http_filter_scheduler_commit)(Handle scheduler, u64 event) {
  Request *request = scheduler;
  lock(&request->lock);
  if (request->count < MOST_SIGNALS)
    request->signals[request->count++] = event;
  unlock(&request->lock);
}
int HOST(http_filter_config_define_counter)(Handle host, Bytes name, Bytes *labels, size count, size *id) {
  (void)host, (void)name, (void)labels, (void)count;
  *id = 1;
  return 0;
}
int HOST(http_filter_config_increment_counter)(Handle host, size id, Bytes *labels, size count, u64 by) {
  (void)host, (void)labels, (void)count;
  CHECK(id == 1 && by == 0);
  return 0;
}
int HOST(http_filter_increment_counter)(Filter filter, size id, Bytes *labels, size count, u64 by) {
  (void)filter, (void)labels, (void)count;
  CHECK(id == 1 && by == 1);
  return 0;
}

/* What woke a stream since it was last asked. */
static void wake(Request *request, void *stream) {
  for (;;) {
    lock(&request->lock);
    u32 any = request->count > 0;
    u64 event = any ? request->signals[--request->count] : 0;
    unlock(&request->lock);
    if (!any)
      return;
    CUTTER(http_filter_scheduled)(request, stream, event);
  }
}

static const char NOBODY[] = "00000000000000000000000000000000" "00000000" "00000000\n";
/* The key "bad" of "here" under a seed of zeros is killed, the key "few" may ask twice: test_cutter.py writes both. */
static Bytes killing, limiting;
static const void *configuration, *open_route;

static void deliver(Bytes text) {
  const void *next = CUTTER(http_filter_config_new)(0, TEXT("drw.cutter"), text);
  CHECK(next != 0);
  if (configuration)
    CUTTER(http_filter_config_destroy)(configuration);
  configuration = next;
}

static void *opened(Request *request, const void *with) {
  void *stream = CUTTER(http_filter_new)(with, request);
  CHECK(stream != 0);
  CUTTER(http_filter_request_headers)(request, stream, 1);
  return stream;
}

static Request asking(const char *key) {
  return (Request){.key = key, .route = open_route, .path = "/v1/chat/completions?x=1", .type = "text/event-stream; charset=utf-8"};
}

static void chunk(Request *request, void *stream, const char *text, size split) {
  request->body_size = strlen(text), request->split = split;
  memcpy(request->body, text, request->body_size);
  CUTTER(http_filter_response_body)(request, stream, 0);
}

static void lists_are_checked(void) {
  CHECK(!CUTTER(http_filter_config_new)(0, TEXT(""), (Bytes){0}));
  for (size most = 0; most < killing.size; most++) {
    u8 *copy = calloc(most + 1, 1); /* of its own, so that a byte too far is seen */
    memcpy(copy, killing.data, most);
    const void *found = CUTTER(http_filter_config_new)(0, TEXT(""), (Bytes){copy, most});
    CHECK(!found == (most != sizeof NOBODY - 1));
    if (found)
      CUTTER(http_filter_config_destroy)(found);
    free(copy);
  }
}

static void limits_are_kept(void) {
  deliver(limiting);
  for (u32 i = 0; i < 3; i++) {
    Request request = asking("few");
    void *stream = opened(&request, configuration);
    CHECK(request.status == (i < 2 ? 0 : 429) && request.noted == 1);
    CUTTER(http_filter_response_headers)(&request, stream, 0);
    CHECK(request.told == (i < 2 ? 8 : 0) && request.added == request.told);
    CUTTER(http_filter_destroy)(stream);
  }
}

static void what_a_service_says_of_limits_is_replaced(void) {
  const char *names[] = {":status", "x-ratelimit-limit", 0};
  Request request = asking("others");
  request.names = names;
  deliver(limiting);
  void *stream = opened(&request, configuration);
  CUTTER(http_filter_response_headers)(&request, stream, 0);
  CHECK(request.told == 8 && request.added == 2);
  CUTTER(http_filter_destroy)(stream);
}

static void streams_are_cut(void) {
  static const char *const WHOLE[] = {"data: 1\n\ndata: 2", "data: 1\r\n\r\ndata: 2"};
  for (u32 w = 0; w < 2; w++)
    for (size split = 0; split < strlen(WHOLE[w]); split++) {
      deliver(TEXT(NOBODY));
      Request request = asking("bad");
      void *stream = opened(&request, configuration);
      CUTTER(http_filter_response_headers)(&request, stream, 0);
      deliver(killing);
      wake(&request, stream);
      CHECK(!request.status && !request.was_reset);
      chunk(&request, stream, "data: 0", 0);
      CHECK(request.body_size == 7);
      chunk(&request, stream, WHOLE[w], split);
      size kept = strlen(WHOLE[w]) - 7;
      CHECK(request.body[kept - 1] == '\n' && request.body[kept] == 'd' && request.body_size > kept + 100);
      chunk(&request, stream, "data: 3\n\n", 0);
      CHECK(request.body_size == 0);
      while (!request.was_reset)
        wake(&request, stream);
      CUTTER(http_filter_destroy)(stream);
    }
  Request waiting = asking("bad");
  deliver(TEXT(NOBODY));
  void *stream = opened(&waiting, configuration);
  deliver(killing);
  wake(&waiting, stream);
  CHECK(waiting.status == 403);
  CUTTER(http_filter_destroy)(stream);
  Request late = asking("bad");
  stream = opened(&late, configuration);
  CHECK(late.status == 403);
  CUTTER(http_filter_destroy)(stream);
  Request nobody = asking(0);
  stream = opened(&nobody, configuration);
  CHECK(!nobody.status && !nobody.noted);
  CUTTER(http_filter_destroy)(stream);
}

#define NO_BYTES "0000000000000000"
#define EIGHT_BYTES "0000000000000008"

static u32 status_of(Bytes route, const char *key, const char *scopes, const char *length) {
  Request request = asking(key);
  request.route = route.size ? CUTTER(http_filter_per_route_config_new)(TEXT("drw.cutter"), route) : 0;
  CHECK(!route.size == !request.route);
  request.scopes = scopes, request.length = length;
  CUTTER(http_filter_destroy)(opened(&request, configuration));
  if (request.route)
    CUTTER(http_filter_per_route_config_destroy)(request.route);
  return request.status;
}

static void routes_say_who_and_how_much(void) {
  static const char *const BROKEN[] = {"", "a", "a000000000000000", "a000000000000000G", "x" NO_BYTES, "s" NO_BYTES,
                                       "s" NO_BYTES " a", "a" NO_BYTES "\na", "k" NO_BYTES "\na"};
  for (u32 b = 0; b < sizeof BROKEN / sizeof *BROKEN; b++)
    CHECK(!CUTTER(http_filter_per_route_config_new)(TEXT(""), (Bytes){(const u8 *)BROKEN[b], strlen(BROKEN[b])}));
  Bytes scoped = TEXT("s" EIGHT_BYTES "\na:b\nc:d");
  deliver(TEXT(NOBODY));
  CHECK(status_of((Bytes){0}, "good", "a:b", 0) == 403); /* a route that says nothing */
  CHECK(status_of(TEXT("a" EIGHT_BYTES), 0, 0, 0) == 0 && status_of(TEXT("a" EIGHT_BYTES), 0, 0, "9") == 413);
  CHECK(status_of(TEXT("k" EIGHT_BYTES), "good", 0, 0) == 0 && status_of(TEXT("k" EIGHT_BYTES), 0, "a:b", 0) == 403);
  CHECK(status_of(TEXT("s" EIGHT_BYTES "\n"), "good", "", 0) == 403);
  static const char *const HOLD[] = {"a:b", "c:d", "x a:b", "a:b x", "x c:d y", "xa:b a:b"};
  static const char *const LACK[] = {"", "a", "a:", "a:bc", "xa:b", "x:a:b", "a:b,c:d", "a:b\nc:d", "A:B"};
  for (u32 i = 0; i < sizeof HOLD / sizeof *HOLD; i++)
    CHECK(status_of(scoped, "good", HOLD[i], "8") == 0 && status_of(scoped, 0, HOLD[i], 0) == 403);
  for (u32 i = 0; i < sizeof LACK / sizeof *LACK; i++)
    CHECK(status_of(scoped, "good", LACK[i], 0) == 403);
  CHECK(status_of(scoped, "good", 0, 0) == 403 && status_of(scoped, "good", "a:b", "9") == 413);
  CHECK(status_of(scoped, "good", "a:b", "18446744073709551617") == 413); /* 1, were it cut to 64 bits */
}

static void bodies_are_bounded_as_they_come(void) {
  Request request = asking("good");
  request.route = CUTTER(http_filter_per_route_config_new)(TEXT(""), TEXT("a" EIGHT_BYTES));
  void *stream = opened(&request, configuration);
  request.body_size = 4;
  CHECK(CUTTER(http_filter_request_body)(&request, stream, 0) == CONTINUE);
  CHECK(CUTTER(http_filter_request_body)(&request, stream, 0) == CONTINUE && !request.status);
  request.body_size = 1;
  CHECK(CUTTER(http_filter_request_body)(&request, stream, 1) == STOP_BODY && request.status == 413);
  CUTTER(http_filter_destroy)(stream);
  CUTTER(http_filter_per_route_config_destroy)(request.route);
}

static u32 removed(const void *boundary, const char *name, u32 answer) {
  const char *names[] = {"x-kept", name, "accept", 0};
  Request request = {.names = names};
  void *stream = CUTTER(http_filter_new)(boundary, &request);
  if (answer)
    CUTTER(http_filter_response_headers)(&request, stream, 0);
  else
    CUTTER(http_filter_request_headers)(&request, stream, 0);
  CUTTER(http_filter_request_body)(&request, stream, 0);
  CUTTER(http_filter_response_body)(&request, stream, 0);
  CUTTER(http_filter_destroy)(stream);
  CHECK(!request.was_reset);
  return request.removed;
}

static void headers_stay_at_the_boundary(void) {
  Bytes name = TEXT("drw.boundary");
  CHECK(!CUTTER(http_filter_config_new)(0, name, TEXT("one-line")));
  const void *boundary = CUTTER(http_filter_config_new)(0, name, TEXT("cookie x-drw-\nset-cookie ratelimit-"));
  CHECK(boundary);
  CHECK(removed(boundary, "cookie", 0) == 1 && removed(boundary, "x-drw-key", 0) == 1);
  CHECK(removed(boundary, "x-drw-", 0) == 1 && removed(boundary, "x-drw", 0) == 0 && removed(boundary, "cook", 0) == 0);
  CHECK(removed(boundary, "cookie2", 0) == 0 && removed(boundary, "set-cookie", 0) == 0);
  CHECK(removed(boundary, "set-cookie", 1) == 1 && removed(boundary, "ratelimit-policy", 1) == 1);
  CHECK(removed(boundary, "cookie", 1) == 0 && removed(boundary, "ratelimit", 1) == 0);
  static const char *many[1026];
  for (u32 i = 0; i < 1025; i++)
    many[i] = "cookie";
  Request request = {.names = many};
  void *stream = CUTTER(http_filter_new)(boundary, &request);
  CHECK(CUTTER(http_filter_request_headers)(&request, stream, 0) == STOP && request.was_reset);
  CUTTER(http_filter_destroy)(stream);
  CUTTER(http_filter_config_destroy)(boundary);
}

static u32 status_with(const char *token, const char *key, u32 *taken_off) {
  Request request = asking(key);
  request.token = token;
  CUTTER(http_filter_destroy)(opened(&request, configuration));
  *taken_off = request.removed;
  CHECK(!request.status || !request.noted);
  return request.status;
}

static u32 status_of_header(const char *json) {
  static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  char *token = calloc(40 + 2 * strlen(json), 1), *at = token;
  u32 held = 0, bits = 0, taken_off = 0;
  memcpy(at, "Bearer ", 7), at += 7;
  for (const char *c = json; *c; c++)
    for (held = held << 8 | (u8)*c, bits += 8; bits >= 6; bits -= 6)
      *at++ = DIGITS[held >> (bits - 6) & 63];
  if (bits)
    *at++ = DIGITS[held << (6 - bits) & 63];
  memcpy(at, ".e30.AAAA", 9);
  u32 status = status_with(token, "good", &taken_off);
  free(token);
  CHECK(taken_off == 1);
  return status;
}

static void tokens_say_nothing_else(void) {
  static const char *const GOOD[] = {
      "{\"alg\":\"ES256\"}", " { \"alg\" : \"ES256\" , \"kid\":\"a\\\"crit\" }\n", "{\"typ\":\"JWT\"}",
      "{\"typ\":\"application\\/at+Jwt\"}", "{\"x5c\":[\"}\",{\"crit\":1}],\"n\":-1.5E3,\"t\":true,\"typ\":\"at+jwt\"}"};
  static const char *const BAD[] = {
      "", "{", "{}", "[]", "\"x\"", "{\"alg\":\"a\"} x", "{\"alg\":\"a\",}", "{\"alg\"}", "{alg:\"a\"}", "{'crit':1}",
      "{\"crit\":null}", "{\"b64\":true}", "{\"cty\":\"JWT\"}", "{\"enc\":\"\"}", "{\"alg\":\"a\",\"zip\":\"DEF\"}",
      "{\"\\u0063rit\":1}", "{\"alg\":\"a\" \"crit\":1}", "{\"alg\":\"a\":1,\"k\":1}", "{\"a\":[1,\"crit\":1}", "{\"a\":1]}",
      "{\"a\":{\"b\":1},\"crit\":1}", "{\"a\":\"b\\", "{\"a\":\"\n\"}", "{\"typ\":7}", "{\"typ\":\"JWTx\"}", "{\"typ\":\"\"}",
      "{\"typ\":\"application\\u002fjwt\"}", "{\"typ\":\"jwt\",\"typ\":\"dpop+jwt\"}", "{\"typ\":\"JWT\" \"crit\":1}",
      "{\"a\":\vtrue}", "{\"a\":'}',\"crit\":1}"};
  for (u32 i = 0; i < sizeof GOOD / sizeof *GOOD; i++)
    CHECK(status_of_header(GOOD[i]) == 0);
  for (u32 i = 0; i < sizeof BAD / sizeof *BAD; i++)
    CHECK(status_of_header(BAD[i]) == 401);
  static const char *const ODD[] = {"Bearer e30", "Bearer eyJhIjoxfQ.e30", "Bearer eyJhIjoxfQ.e30.a.b", "Basic eyJhIjoxfQ.e30.a",
                                    "Bearer eyJhIjoxfQ.e30.a, Bearer eyJhIjoxfQ.e30.a", "Bearer", "Bearer eyJhIjoxfQ=.e30.a",
                                    "x Bearer eyJhIjoxfQ.e30.a"};
  u32 taken_off = 0;
  for (u32 i = 0; i < sizeof ODD / sizeof *ODD; i++)
    CHECK(status_with(ODD[i], "good", &taken_off) == 401 && taken_off == 1);
  CHECK(status_with("Bearer  eyJhIjoxfQ.e30.a", "good", &taken_off) == 0 && taken_off == 1);
  CHECK(status_with("bearer eyJhIjoxfQ.e30.a", "good", &taken_off) == 0 && taken_off == 1);
  CHECK(status_with("2 values", "good", &taken_off) == 401 && taken_off == 1);
  CHECK(status_with("Basic x", 0, &taken_off) == 0 && taken_off == 1); /* where nobody has to say who they are */
}

static void *work(void *with) {
  u32 worker = *(u32 *)with;
  for (u32 round = 0; round < ROUNDS; round++) {
    Request request = asking(round % 3 ? "bad" : "good");
    request.worker = worker;
    request.path = round % 5 ? "/v1/\"\\\x01\xff.eyJ" : "/v1/\"\\\x01\xff";
    void *stream = opened(&request, configuration);
    if (!request.status)
      CUTTER(http_filter_response_headers)(&request, stream, 0);
    wake(&request, stream);
    if (!request.status && !request.was_reset)
      chunk(&request, stream, "data: 1\n\n", round % 8);
    wake(&request, stream);
    CUTTER(http_filter_destroy)(stream);
  }
  return 0;
}

static void workers_and_lists_do_not_meet(void) {
  void *threads[WORKERS];
  u32 names[WORKERS];
  const void *kept[2] = {configuration, 0};
  for (u32 w = 0; w < WORKERS; w++) {
    names[w] = w;
    CHECK(pthread_create(&threads[w], 0, work, &names[w]) == 0);
  }
  for (u32 i = 0; i < 200; i++) { /* the workers go on with the configuration that they know */
    kept[1] = CUTTER(http_filter_config_new)(0, TEXT(""), i % 2 ? killing : TEXT(NOBODY));
    CHECK(kept[1]);
    CUTTER(http_filter_config_destroy)(kept[1]);
  }
  for (u32 w = 0; w < WORKERS; w++)
    CHECK(pthread_join(threads[w], 0) == 0);
}

int main(int count, char **texts) {
  CHECK(count == 3 && !strcmp(CUTTER(program_init)(), "v0.2.0"));
  killing = (Bytes){(const u8 *)texts[1], strlen(texts[1])};
  limiting = (Bytes){(const u8 *)texts[2], strlen(texts[2])};
  open_route = CUTTER(http_filter_per_route_config_new)(TEXT(""), TEXT("a0000000000010000"));
  CHECK(open_route);
  lists_are_checked();
  routes_say_who_and_how_much();
  tokens_say_nothing_else();
  bodies_are_bounded_as_they_come();
  headers_stay_at_the_boundary();
  limits_are_kept();
  what_a_service_says_of_limits_is_replaced();
  streams_are_cut();
  workers_and_lists_do_not_meet();
  return 0;
}
