/* A double of Envoy for the native filter: worker threads send requests and response chunks while lists are replaced.
 *
 * test_native_filter.py builds it with checks for undefined behaviour. To check memory and threads by hand:
 * cc -g -std=gnu11 -fsanitize=address,undefined -Isrc/drw/agent/native_filter tests/agent/limits/double_envoy.c
 * src/drw/agent/native_filter/?*.c -lpthread, and once more with -fsanitize=thread.
 */

#include "envoy.h"

int printf(const char *format, ...);
int snprintf(char *to, size limit, const char *format, ...);
void *memcpy(void *to, const void *from, size bytes);
size strlen(const char *text);
int strcmp(const char *one, const char *other);
void abort(void);
int pthread_join(void *thread, void **result);

#define MODULE(name) envoy_dynamic_module_on_##name
#define CHECK(what) ((what) ? (void)0 : (printf("line %d: %s\n", __LINE__, #what), abort()))

enum { WORKERS = 4, ROUNDS = 3000, MOST_SIGNALS = 64, BODY = 1 << 12 };

typedef struct Request {
  u32 worker;
  const char *key, *path, *type, *scopes, *length, *token, *api_key;
  const void *route;
  const char **names; /* of headers, for the boundary; ends with 0 */
  u8 body[BODY];
  size body_size, split;
  u32 status, was_reset, headers_set, headers_added, log_lines, headers_removed;
  u64 signals[MOST_SIGNALS];
  u32 count;
  Lock lock; /* guards the signals, which any thread may send */
} Request;

const char *MODULE(program_init)(void);
const void *MODULE(http_filter_config_new)(Handle, Bytes, Bytes);
void MODULE(http_filter_config_destroy)(const void *);
void *MODULE(http_filter_new)(const void *, Filter);
void MODULE(http_filter_destroy)(void *);
const void *MODULE(http_filter_per_route_config_new)(Bytes, Bytes);
void MODULE(http_filter_per_route_config_destroy)(const void *);
int MODULE(http_filter_request_headers)(Filter, void *, _Bool);
int MODULE(http_filter_request_body)(Filter, void *, _Bool);
int MODULE(http_filter_response_headers)(Filter, void *, _Bool);
int MODULE(http_filter_response_body)(Filter, void *, _Bool);
void MODULE(http_filter_scheduled)(Filter, void *, u64);

static u32 equals(Bytes one, const char *other) {
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
    *count = equals(name, "x-api-key") ? request->api_key != 0 : request->token ? 1 + (*request->token == '2') : 0;
  if (map == RESPONSE_HEADERS)
    found = equals(name, "content-type") ? request->type : 0;
  else
    found = equals(name, "x-drw-key") ? request->key : equals(name, ":path") ? request->path
            : equals(name, "x-drw-scopes") ? request->scopes : equals(name, "content-length") ? request->length
            : equals(name, "authorization") ? request->token
            : equals(name, "x-api-key") ? request->api_key
            : equals(name, "x-drw-org") || equals(name, "x-drw-desk") || equals(name, "x-model") ? "here" : 0;
  if (found)
    *value = (Bytes){(const u8 *)found, strlen(found)};
  return found != 0;
}
_Bool HOST(http_set_header)(Filter filter, int map, Bytes name, Bytes value) {
  (void)map;
  CHECK(value.data || (name.size && name.data));
  if (!value.data)
    ((Request *)filter)->headers_removed++;
  else
    ((Request *)filter)->headers_set++;
  return 1;
}
_Bool HOST(http_add_header)(Filter filter, int map, Bytes name, Bytes value) {
  ((Request *)filter)->headers_added++;
  return HOST(http_set_header)(filter, map, name, value);
}
size HOST(http_get_headers_size)(Filter filter, int map) {
  size count = 0;
  (void)map;
  while (((Request *)filter)->names && ((Request *)filter)->names[count])
    count++;
  return count;
}
_Bool HOST(http_get_headers)(Filter filter, int map, Header *headers) {
  size count = HOST(http_get_headers_size)(filter, map);
  for (size i = 0; i < count; i++) {
    const char *name = ((Request *)filter)->names[i];
    headers[i] = (Header){{(const u8 *)name, strlen(name)}, TEXT("value")};
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
  ((Request *)filter)->log_lines++;
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
void HOST(http_send_response)(Filter filter, u32 status, Header *headers, size count, Bytes body, Bytes details) {
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

/* Runs the scheduled events of a stream. */
static void run_events(Request *request, void *stream) {
  for (;;) {
    lock(&request->lock);
    u32 pending = request->count > 0;
    u64 event = pending ? request->signals[--request->count] : 0;
    unlock(&request->lock);
    if (!pending)
      return;
    MODULE(http_filter_scheduled)(request, stream, event);
  }
}

static const char EMPTY_LISTS[] = "00000000000000000000000000000000" "00000000" "00000000\n";
/* Written by test_native_filter.py with a seed of zeros: the key "bad" is killed, the key "few" may send two requests. */
static Bytes kill_list, limit_list;
static const void *configuration, *open_route;

static void apply_lists(Bytes text) {
  const void *next = MODULE(http_filter_config_new)(0, TEXT("drw.native_filter"), text);
  CHECK(next != 0);
  if (configuration)
    MODULE(http_filter_config_destroy)(configuration);
  configuration = next;
}

static void *start_stream(Request *request, const void *with) {
  void *stream = MODULE(http_filter_new)(with, request);
  CHECK(stream != 0);
  MODULE(http_filter_request_headers)(request, stream, 1);
  return stream;
}

static Request request_of(const char *key) {
  return (Request){.key = key, .route = open_route, .path = "/v1/chat/completions?x=1", .type = "text/event-stream; charset=utf-8"};
}

static void chunk(Request *request, void *stream, const char *text, size split) {
  request->body_size = strlen(text), request->split = split;
  memcpy(request->body, text, request->body_size);
  MODULE(http_filter_response_body)(request, stream, 0);
}

static void malformed_lists_are_rejected(void) {
  CHECK(!MODULE(http_filter_config_new)(0, TEXT(""), (Bytes){0}));
  for (size length = 0; length < kill_list.size; length++) {
    u8 *copy = calloc(length + 1, 1); /* an exact copy, so that a sanitizer sees an overread */
    memcpy(copy, kill_list.data, length);
    const void *found = MODULE(http_filter_config_new)(0, TEXT(""), (Bytes){copy, length});
    CHECK(!found == (length != sizeof EMPTY_LISTS - 1));
    if (found)
      MODULE(http_filter_config_destroy)(found);
    free(copy);
  }
}

static void limits_are_enforced(void) {
  apply_lists(limit_list);
  for (u32 i = 0; i < 3; i++) {
    Request request = request_of("few");
    void *stream = start_stream(&request, configuration);
    CHECK(request.status == (i < 2 ? 0 : 429) && request.log_lines == 1);
    MODULE(http_filter_response_headers)(&request, stream, 0);
    CHECK(request.headers_set == (i < 2 ? 8 : 0) && request.headers_added == request.headers_set);
    MODULE(http_filter_destroy)(stream);
  }
}

static void limit_headers_of_services_are_replaced(void) {
  const char *names[] = {":status", "x-ratelimit-limit", 0};
  Request request = request_of("others");
  request.names = names;
  apply_lists(limit_list);
  void *stream = start_stream(&request, configuration);
  MODULE(http_filter_response_headers)(&request, stream, 0);
  CHECK(request.headers_set == 8 && request.headers_added == 2);
  MODULE(http_filter_destroy)(stream);
}

static void streams_of_killed_keys_are_cut(void) {
  static const char *const EVENTS[] = {"data: 1\n\ndata: 2", "data: 1\r\n\r\ndata: 2"};
  for (u32 w = 0; w < 2; w++)
    for (size split = 0; split < strlen(EVENTS[w]); split++) {
      apply_lists(TEXT(EMPTY_LISTS));
      Request request = request_of("bad");
      void *stream = start_stream(&request, configuration);
      MODULE(http_filter_response_headers)(&request, stream, 0);
      apply_lists(kill_list);
      run_events(&request, stream);
      CHECK(!request.status && !request.was_reset);
      chunk(&request, stream, "data: 0", 0);
      CHECK(request.body_size == 7);
      chunk(&request, stream, EVENTS[w], split);
      size kept = strlen(EVENTS[w]) - 7;
      CHECK(request.body[kept - 1] == '\n' && request.body[kept] == 'e' && request.body_size > kept + 100);
      chunk(&request, stream, "data: 3\n\n", 0);
      CHECK(request.body_size == 0);
      while (!request.was_reset)
        run_events(&request, stream);
      MODULE(http_filter_destroy)(stream);
    }
  Request waiting = request_of("bad");
  apply_lists(TEXT(EMPTY_LISTS));
  void *stream = start_stream(&waiting, configuration);
  apply_lists(kill_list);
  run_events(&waiting, stream);
  CHECK(waiting.status == 403);
  MODULE(http_filter_destroy)(stream);
  Request late = request_of("bad");
  stream = start_stream(&late, configuration);
  CHECK(late.status == 403);
  MODULE(http_filter_destroy)(stream);
  Request nobody = request_of(0);
  stream = start_stream(&nobody, configuration);
  CHECK(!nobody.status && !nobody.log_lines);
  MODULE(http_filter_destroy)(stream);
}

#define NO_BYTES "0000000000000000"
#define EIGHT_BYTES "0000000000000008"

static u32 status_of(Bytes route, const char *key, const char *scopes, const char *length) {
  Request request = request_of(key);
  request.route = route.size ? MODULE(http_filter_per_route_config_new)(TEXT("drw.native_filter"), route) : 0;
  CHECK(!route.size == !request.route);
  request.scopes = scopes, request.length = length;
  MODULE(http_filter_destroy)(start_stream(&request, configuration));
  if (request.route)
    MODULE(http_filter_per_route_config_destroy)(request.route);
  return request.status;
}

static void scopes_and_sizes_of_routes_are_enforced(void) {
  static const char *const BROKEN[] = {"", "a", "a000000000000000", "a000000000000000G", "x" NO_BYTES, "s" NO_BYTES,
                                       "s" NO_BYTES " a", "a" NO_BYTES "\na", "k" NO_BYTES "\na"};
  for (u32 b = 0; b < sizeof BROKEN / sizeof *BROKEN; b++)
    CHECK(!MODULE(http_filter_per_route_config_new)(TEXT(""), (Bytes){(const u8 *)BROKEN[b], strlen(BROKEN[b])}));
  Bytes scoped = TEXT("s" EIGHT_BYTES "\na:b\nc:d");
  apply_lists(TEXT(EMPTY_LISTS));
  CHECK(status_of((Bytes){0}, "good", "a:b", 0) == 403); /* a route without configuration */
  CHECK(status_of(TEXT("a" EIGHT_BYTES), 0, 0, 0) == 0 && status_of(TEXT("a" EIGHT_BYTES), 0, 0, "9") == 413);
  CHECK(status_of(TEXT("k" EIGHT_BYTES), "good", 0, 0) == 0 && status_of(TEXT("k" EIGHT_BYTES), 0, "a:b", 0) == 403);
  CHECK(status_of(TEXT("s" EIGHT_BYTES "\n"), "good", "", 0) == 403);
  static const char *const ACCEPTED[] = {"a:b", "c:d", "x a:b", "a:b x", "x c:d y", "xa:b a:b"};
  static const char *const REJECTED[] = {"", "a", "a:", "a:bc", "xa:b", "x:a:b", "a:b,c:d", "a:b\nc:d", "A:B"};
  for (u32 i = 0; i < sizeof ACCEPTED / sizeof *ACCEPTED; i++)
    CHECK(status_of(scoped, "good", ACCEPTED[i], "8") == 0 && status_of(scoped, 0, ACCEPTED[i], 0) == 403);
  for (u32 i = 0; i < sizeof REJECTED / sizeof *REJECTED; i++)
    CHECK(status_of(scoped, "good", REJECTED[i], 0) == 403);
  CHECK(status_of(scoped, "good", 0, 0) == 403 && status_of(scoped, "good", "a:b", "9") == 413);
  CHECK(status_of(scoped, "good", "a:b", "18446744073709551617") == 413); /* 1 if truncated to 64 bits */
}

static void bodies_are_limited_while_they_arrive(void) {
  Request request = request_of("good");
  request.route = MODULE(http_filter_per_route_config_new)(TEXT(""), TEXT("a" EIGHT_BYTES));
  void *stream = start_stream(&request, configuration);
  request.body_size = 4;
  CHECK(MODULE(http_filter_request_body)(&request, stream, 0) == CONTINUE);
  CHECK(MODULE(http_filter_request_body)(&request, stream, 0) == CONTINUE && !request.status);
  request.body_size = 1;
  CHECK(MODULE(http_filter_request_body)(&request, stream, 1) == STOP_BODY && request.status == 413);
  MODULE(http_filter_destroy)(stream);
  MODULE(http_filter_per_route_config_destroy)(request.route);
}

static u32 headers_removed(const void *boundary, const char *name, u32 answer) {
  const char *names[] = {"x-kept", name, "accept", 0};
  Request request = {.names = names};
  void *stream = MODULE(http_filter_new)(boundary, &request);
  if (answer)
    MODULE(http_filter_response_headers)(&request, stream, 0);
  else
    MODULE(http_filter_request_headers)(&request, stream, 0);
  MODULE(http_filter_request_body)(&request, stream, 0);
  MODULE(http_filter_response_body)(&request, stream, 0);
  MODULE(http_filter_destroy)(stream);
  CHECK(!request.was_reset);
  return request.headers_removed;
}

static void headers_are_stripped_at_the_boundary(void) {
  Bytes name = TEXT("drw.boundary");
  CHECK(!MODULE(http_filter_config_new)(0, name, TEXT("one-line")));
  const void *boundary = MODULE(http_filter_config_new)(0, name, TEXT("cookie x-drw-\nset-cookie ratelimit-"));
  CHECK(boundary);
  CHECK(headers_removed(boundary, "cookie", 0) == 1 && headers_removed(boundary, "x-drw-key", 0) == 1);
  CHECK(headers_removed(boundary, "x-drw-", 0) == 1 && headers_removed(boundary, "x-drw", 0) == 0 && headers_removed(boundary, "cook", 0) == 0);
  CHECK(headers_removed(boundary, "cookie2", 0) == 0 && headers_removed(boundary, "set-cookie", 0) == 0);
  CHECK(headers_removed(boundary, "set-cookie", 1) == 1 && headers_removed(boundary, "ratelimit-policy", 1) == 1);
  CHECK(headers_removed(boundary, "cookie", 1) == 0 && headers_removed(boundary, "ratelimit", 1) == 0);
  static const char *many[1026];
  for (u32 i = 0; i < 1025; i++)
    many[i] = "cookie";
  Request request = {.names = many};
  void *stream = MODULE(http_filter_new)(boundary, &request);
  CHECK(MODULE(http_filter_request_headers)(&request, stream, 0) == STOP && request.was_reset);
  MODULE(http_filter_destroy)(stream);
  MODULE(http_filter_config_destroy)(boundary);
}

static u32 status_with(const char *token, const char *key, u32 *tokens_removed) {
  Request request = request_of(key);
  request.token = token;
  MODULE(http_filter_destroy)(start_stream(&request, configuration));
  *tokens_removed = request.headers_removed;
  CHECK(!request.status || !request.log_lines);
  return request.status;
}

static u32 status_of_header(const char *json) {
  static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  char *token = calloc(40 + 2 * strlen(json), 1), *at = token;
  u32 buffer = 0, bits = 0, tokens_removed = 0;
  memcpy(at, "Bearer ", 7), at += 7;
  for (const char *c = json; *c; c++)
    for (buffer = buffer << 8 | (u8)*c, bits += 8; bits >= 6; bits -= 6)
      *at++ = DIGITS[buffer >> (bits - 6) & 63];
  if (bits)
    *at++ = DIGITS[buffer << (6 - bits) & 63];
  memcpy(at, ".e30.AAAA", 9);
  u32 status = status_with(token, "good", &tokens_removed);
  free(token);
  CHECK(tokens_removed == 1);
  return status;
}

static void token_headers_are_checked(void) {
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
  u32 tokens_removed = 0;
  for (u32 i = 0; i < sizeof ODD / sizeof *ODD; i++)
    CHECK(status_with(ODD[i], "good", &tokens_removed) == 401 && tokens_removed == 1);
  CHECK(status_with("Bearer  eyJhIjoxfQ.e30.a", "good", &tokens_removed) == 0 && tokens_removed == 1);
  CHECK(status_with("bearer eyJhIjoxfQ.e30.a", "good", &tokens_removed) == 0 && tokens_removed == 1);
  CHECK(status_with("2 values", "good", &tokens_removed) == 401 && tokens_removed == 1);
  CHECK(status_with("Basic x", 0, &tokens_removed) == 0 && tokens_removed == 1); /* on a public route */
  static const struct {
    const char *token, *api_key;
    u32 status, removed;
  } API_KEYS[] = {{0, "eyJhIjoxfQ.e30.a", 0, 1},          {0, "Bearer eyJhIjoxfQ.e30.a", 401, 1},
                  {0, " eyJhIjoxfQ.e30.a", 401, 1},       {0, "eyJjcml0IjoxfQ.e30.a", 401, 1},
                  {0, "eyJhIjoxfQ.e30", 401, 1},          {0, "", 401, 1},
                  {"bearer eyJhIjoxfQ.e30.a", "eyJhIjoxfQ.e30.a", 401, 2}};
  for (u32 i = 0; i < sizeof API_KEYS / sizeof *API_KEYS; i++) {
    Request request = request_of("good");
    request.token = API_KEYS[i].token, request.api_key = API_KEYS[i].api_key;
    MODULE(http_filter_destroy)(start_stream(&request, configuration));
    CHECK(request.status == API_KEYS[i].status && request.headers_removed == API_KEYS[i].removed);
  }
}

static void *run_worker(void *with) {
  u32 worker = *(u32 *)with;
  for (u32 round = 0; round < ROUNDS; round++) {
    Request request = request_of(round % 3 ? "bad" : "good");
    request.worker = worker;
    request.path = round % 5 ? "/v1/\"\\\x01\xff.eyJ" : "/v1/\"\\\x01\xff";
    void *stream = start_stream(&request, configuration);
    if (!request.status)
      MODULE(http_filter_response_headers)(&request, stream, 0);
    run_events(&request, stream);
    if (!request.status && !request.was_reset)
      chunk(&request, stream, "data: 1\n\n", round % 8);
    run_events(&request, stream);
    MODULE(http_filter_destroy)(stream);
  }
  return 0;
}

static void lists_are_replaced_while_workers_run(void) {
  void *threads[WORKERS];
  u32 names[WORKERS];
  const void *kept[2] = {configuration, 0};
  for (u32 w = 0; w < WORKERS; w++) {
    names[w] = w;
    CHECK(pthread_create(&threads[w], 0, run_worker, &names[w]) == 0);
  }
  for (u32 i = 0; i < 200; i++) { /* the workers keep their configuration */
    kept[1] = MODULE(http_filter_config_new)(0, TEXT(""), i % 2 ? kill_list : TEXT(EMPTY_LISTS));
    CHECK(kept[1]);
    MODULE(http_filter_config_destroy)(kept[1]);
  }
  for (u32 w = 0; w < WORKERS; w++)
    CHECK(pthread_join(threads[w], 0) == 0);
}

int main(int count, char **arguments) {
  CHECK(count == 3 && !strcmp(MODULE(program_init)(), "v0.2.0"));
  kill_list = (Bytes){(const u8 *)arguments[1], strlen(arguments[1])};
  limit_list = (Bytes){(const u8 *)arguments[2], strlen(arguments[2])};
  open_route = MODULE(http_filter_per_route_config_new)(TEXT(""), TEXT("a0000000000010000"));
  CHECK(open_route);
  malformed_lists_are_rejected();
  scopes_and_sizes_of_routes_are_enforced();
  token_headers_are_checked();
  bodies_are_limited_while_they_arrive();
  headers_are_stripped_at_the_boundary();
  limits_are_enforced();
  limit_headers_of_services_are_replaced();
  streams_of_killed_keys_are_cut();
  lists_are_replaced_while_workers_run();
  return 0;
}
