/* Limits the connections of each client of Envoy: a network filter, as a module of the Proxy-Wasm ABI 0.2.1.
 *
 * A client is an IPv4 address, or the first 64 bits of an IPv6 address, which one host may own as a whole.
 * The counts are shared by all workers of an Envoy. A connection over the limit is closed before TLS and before any of
 * its bytes are read. The configuration is the limit, in decimal digits.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define IMPORT(name) __attribute__((import_module("env"), import_name(#name))) u32 name
#define EXPORT(name) __attribute__((export_name(#name))) name

IMPORT(proxy_get_property)(const char *path, u32 path_size, u8 **value, u32 *size);
IMPORT(proxy_get_buffer_bytes)(u32 buffer, u32 start, u32 size_limit, u8 **data, u32 *size);
IMPORT(proxy_get_shared_data)(const void *key, u32 key_size, u8 **value, u32 *size, u32 *version);
IMPORT(proxy_set_shared_data)(const void *key, u32 key_size, const void *value, u32 size, u32 version);
IMPORT(proxy_get_current_time_nanoseconds)(u64 *now);
IMPORT(proxy_define_metric)(u32 kind, const char *name, u32 size, u32 *metric);
IMPORT(proxy_increment_metric)(u32 metric, long long by);
IMPORT(proxy_close_stream)(u32 stream);

enum { CONTINUE = 0, STOP = 1, OK = 0, CAS_MISMATCH = 8, DOWNSTREAM = 2, CONFIGURATION = 7, COUNTER = 0 };
enum { NO_VERSION = -1 }; /* only if the key is absent */
enum { SPREAD = 1 << 20, BUCKETS = 4096, PAGE = 65536, PREFIX_GROUPS = 4, GROUPS = 8, TRIES = 1000 };

#define REFUSED "drw_connections_refused"
#define SOURCE "source\0address"

/* A counted connection. */
typedef struct Connection {
  struct Connection *next;
  u32 id;
  u32 client;
} Connection;

static u8 scratch[4096];
static u32 scratch_used;
static Connection *buckets[BUCKETS];
static Connection *free_list;
static u32 max_connections;
static u32 rejected;
static u64 seed;

/* Memory that the host fills. Memory of earlier calls is reused. */
u8 *EXPORT(proxy_on_memory_allocate)(u32 size) {
  if (size > sizeof scratch - scratch_used)
    return 0;
  u8 *start = scratch + scratch_used;
  scratch_used += (size + 7) & ~7u;
  return start;
}

static u64 fnv1a(u64 hash, const u8 *data, u32 size) {
  for (u32 i = 0; i < size; i++)
    hash = (hash ^ data[i]) * 1099511628211ull;
  return hash;
}

static u32 digit(u8 c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 16;
}

/* Read the first 64 bits of "[ADDRESS]:PORT"; return whether it is IPv6 without dots. */
static u32 prefix(const u8 *text, u32 size, u8 *prefix_bytes) {
  u32 groups[GROUPS + 1] = {0}, count = 0, gap = GROUPS, at = 1;
  while (at < size && text[at] != ']') {
    if (text[at] == ':') {
      if (++at < size && text[at] == ':') {
        gap = count;
        at++;
      }
      continue;
    }
    u32 value = 0;
    for (; at < size && digit(text[at]) < 16; at++)
      value = value << 4 | digit(text[at]);
    if (count == GROUPS || at == size || (text[at] != ':' && text[at] != ']'))
      return 0;
    groups[count++] = value;
  }
  for (u32 i = 0; i < PREFIX_GROUPS; i++) { /* "::" stands for zeros between the groups around it */
    u32 zeros = GROUPS - count, group = i < gap ? groups[i] : i < gap + zeros ? 0 : groups[i - zeros];
    prefix_bytes[2 * i] = group >> 8;
    prefix_bytes[2 * i + 1] = group;
  }
  return 1;
}

/* The hash of a client. Its limited range limits the memory of the counts. The random seed prevents that a client
 * chooses to share the count of another one. */
static u32 client(const u8 *text, u32 size) {
  u8 prefix_bytes[2 * PREFIX_GROUPS];
  u64 hash = 14695981039346656037ull ^ seed;
  if (size && text[0] == '[' && prefix(text, size, prefix_bytes))
    hash = fnv1a(hash, prefix_bytes, sizeof prefix_bytes);
  else {
    while (size && text[size - 1] != ':')
      size--;
    hash = fnv1a(hash, text, size);
  }
  return (hash ^ hash >> 32) % SPREAD;
}

/* Change the count of a client, and return the new count. */
static u32 change_count(u32 key, int by) {
  for (u32 i = 0; i < TRIES; i++) {
    u8 *value = 0;
    u32 size = 0, version = 0, count = 0;
    scratch_used = 0;
    if (proxy_get_shared_data(&key, sizeof key, &value, &size, &version) == OK && size == sizeof count)
      __builtin_memcpy(&count, value, sizeof count);
    count = by > 0 ? count + 1 : count ? count - 1 : 0;
    if (proxy_set_shared_data(&key, sizeof key, &count, sizeof count, version) != CAS_MISMATCH)
      return count;
  }
  return 0;
}

static Connection *allocate_page(void) {
  u8 *page = (u8 *)(__builtin_wasm_memory_grow(0, 1) * (unsigned long)PAGE);
  if (page == (u8 *)(-1ul * PAGE))
    return 0;
  for (u32 at = 0; at + sizeof(Connection) <= PAGE; at += sizeof(Connection)) {
    Connection *connection = (Connection *)(page + at);
    connection->next = free_list;
    free_list = connection;
  }
  return free_list;
}

u32 EXPORT(proxy_on_vm_start)(u32 root, u32 size) { return 1; }

u32 EXPORT(proxy_on_configure)(u32 root, u32 size) {
  u8 *text = 0;
  u32 length = 0, limit = 0, version = 0;
  u64 *shared = 0;
  scratch_used = 0;
  if (proxy_get_buffer_bytes(CONFIGURATION, 0, size, &text, &length) != OK)
    return 0;
  for (u32 i = 0; i < length; i++)
    limit = limit * 10 + digit(text[i]);
  max_connections = limit;
  proxy_get_current_time_nanoseconds(&seed);
  proxy_set_shared_data("seed", 4, &seed, sizeof seed, NO_VERSION); /* only the first worker sets it */
  if (proxy_get_shared_data("seed", 4, (u8 **)&shared, &length, &version) == OK && length == sizeof seed)
    seed = *shared;
  proxy_define_metric(COUNTER, REFUSED, sizeof REFUSED - 1, &rejected);
  return 1;
}

void EXPORT(proxy_on_context_create)(u32 id, u32 parent) {}

u32 EXPORT(proxy_on_new_connection)(u32 id) {
  u8 *address = 0;
  u32 size = 0;
  scratch_used = 0;
  if (proxy_get_property(SOURCE, sizeof SOURCE - 1, &address, &size) != OK)
    return CONTINUE;
  u32 key = client(address, size);
  Connection *connection = free_list ? free_list : allocate_page();
  if (!connection)
    return CONTINUE;
  if (change_count(key, 1) > max_connections) {
    change_count(key, -1);
    proxy_increment_metric(rejected, 1);
    proxy_close_stream(DOWNSTREAM);
    return STOP;
  }
  free_list = connection->next;
  connection->id = id;
  connection->client = key;
  connection->next = buckets[id % BUCKETS];
  buckets[id % BUCKETS] = connection;
  return CONTINUE;
}

u32 EXPORT(proxy_on_done)(u32 id) { return 1; }

void EXPORT(proxy_on_delete)(u32 id) {
  for (Connection **at = &buckets[id % BUCKETS]; *at; at = &(*at)->next)
    if ((*at)->id == id) {
      Connection *connection = *at;
      *at = connection->next;
      connection->next = free_list;
      free_list = connection;
      change_count(connection->client, -1);
      return;
    }
}

void EXPORT(proxy_abi_version_0_2_1)(void) {}
