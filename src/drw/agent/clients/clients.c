/* Bounds the connections of each client of Envoy: a network filter, as a module of the Proxy-Wasm ABI 0.2.1.
 *
 * A client is an IPv4 address, or the first 64 bits of an IPv6 address, since whoever has one of those has all of the
 * rest. The counts are shared by all workers of an Envoy. A connection that comes on top is closed before TLS and
 * before a byte of it is read. The configuration is the bound, in decimal digits.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define IMPORT(name) __attribute__((import_module("env"), import_name(#name))) u32 name
#define EXPORT(name) __attribute__((export_name(#name))) name

IMPORT(proxy_get_property)(const char *path, u32 path_size, u8 **value, u32 *size);
IMPORT(proxy_get_buffer_bytes)(u32 buffer, u32 start, u32 most, u8 **data, u32 *size);
IMPORT(proxy_get_shared_data)(const void *key, u32 key_size, u8 **value, u32 *size, u32 *version);
IMPORT(proxy_set_shared_data)(const void *key, u32 key_size, const void *value, u32 size, u32 version);
IMPORT(proxy_get_current_time_nanoseconds)(u64 *now);
IMPORT(proxy_define_metric)(u32 kind, const char *name, u32 size, u32 *metric);
IMPORT(proxy_increment_metric)(u32 metric, long long by);
IMPORT(proxy_close_stream)(u32 stream);

enum { CONTINUE = 0, STOP = 1, OK = 0, CHANGED_MEANWHILE = 8, DOWNSTREAM = 2, CONFIGURATION = 7, COUNTER = 0 };
enum { NO_VERSION = -1 }; /* of what is there already */
enum { SPREAD = 1 << 20, BUCKETS = 4096, PAGE = 65536, PREFIX_GROUPS = 4, GROUPS = 8, TRIES = 1000 };

#define REFUSED "drw_connections_refused"
#define SOURCE "source\0address"

/* A connection that is counted. */
typedef struct Held {
  struct Held *next;
  u32 id;
  u32 client;
} Held;

static u8 scratch[4096];
static u32 scratch_used;
static Held *buckets[BUCKETS];
static Held *spare;
static u32 most;
static u32 refused;
static u64 seed;

/* Memory that the host fills for us; what an earlier call got is not needed any more. */
u8 *EXPORT(proxy_on_memory_allocate)(u32 size) {
  if (size > sizeof scratch - scratch_used)
    return 0;
  u8 *found = scratch + scratch_used;
  scratch_used += (size + 7) & ~7u;
  return found;
}

static u64 hashed(u64 hash, const u8 *data, u32 size) {
  for (u32 i = 0; i < size; i++)
    hash = (hash ^ data[i]) * 1099511628211ull;
  return hash;
}

static u32 digit(u8 c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 16;
}

/* Read the first 64 bits of "[ADDRESS]:PORT"; return whether it is IPv6 without dots. */
static u32 prefix(const u8 *text, u32 size, u8 *found) {
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
  for (u32 i = 0; i < PREFIX_GROUPS; i++) { /* what "::" stands for is between the groups before and after it */
    u32 zeros = GROUPS - count, group = i < gap ? groups[i] : i < gap + zeros ? 0 : groups[i - zeros];
    found[2 * i] = group >> 8;
    found[2 * i + 1] = group;
  }
  return 1;
}

/* Clients are counted by a hash of a bounded size with a seed of its own, so that neither their number takes up
 * memory without end nor anybody can choose whose count to share. */
static u32 client(const u8 *text, u32 size) {
  u8 found[2 * PREFIX_GROUPS];
  u64 hash = 14695981039346656037ull ^ seed;
  if (size && text[0] == '[' && prefix(text, size, found))
    hash = hashed(hash, found, sizeof found);
  else {
    while (size && text[size - 1] != ':')
      size--;
    hash = hashed(hash, text, size);
  }
  return (hash ^ hash >> 32) % SPREAD;
}

/* Add to the count of a client, and return what it is now. */
static u32 add(u32 key, int by) {
  for (u32 i = 0; i < TRIES; i++) {
    u8 *value = 0;
    u32 size = 0, version = 0, count = 0;
    scratch_used = 0;
    if (proxy_get_shared_data(&key, sizeof key, &value, &size, &version) == OK && size == sizeof count)
      __builtin_memcpy(&count, value, sizeof count);
    count = by > 0 ? count + 1 : count ? count - 1 : 0;
    if (proxy_set_shared_data(&key, sizeof key, &count, sizeof count, version) != CHANGED_MEANWHILE)
      return count;
  }
  return 0;
}

static Held *more(void) {
  u8 *page = (u8 *)(__builtin_wasm_memory_grow(0, 1) * (unsigned long)PAGE);
  if (page == (u8 *)(-1ul * PAGE))
    return 0;
  for (u32 at = 0; at + sizeof(Held) <= PAGE; at += sizeof(Held)) {
    Held *held = (Held *)(page + at);
    held->next = spare;
    spare = held;
  }
  return spare;
}

u32 EXPORT(proxy_on_vm_start)(u32 root, u32 size) { return 1; }

u32 EXPORT(proxy_on_configure)(u32 root, u32 size) {
  u8 *text = 0;
  u32 got = 0, bound = 0, version = 0;
  u64 *shared = 0;
  scratch_used = 0;
  if (proxy_get_buffer_bytes(CONFIGURATION, 0, size, &text, &got) != OK)
    return 0;
  for (u32 i = 0; i < got; i++)
    bound = bound * 10 + digit(text[i]);
  most = bound;
  proxy_get_current_time_nanoseconds(&seed);
  proxy_set_shared_data("seed", 4, &seed, sizeof seed, NO_VERSION); /* by the first worker alone */
  if (proxy_get_shared_data("seed", 4, (u8 **)&shared, &got, &version) == OK && got == sizeof seed)
    seed = *shared;
  proxy_define_metric(COUNTER, REFUSED, sizeof REFUSED - 1, &refused);
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
  Held *held = spare ? spare : more();
  if (!held)
    return CONTINUE;
  if (add(key, 1) > most) {
    add(key, -1);
    proxy_increment_metric(refused, 1);
    proxy_close_stream(DOWNSTREAM);
    return STOP;
  }
  spare = held->next;
  held->id = id;
  held->client = key;
  held->next = buckets[id % BUCKETS];
  buckets[id % BUCKETS] = held;
  return CONTINUE;
}

u32 EXPORT(proxy_on_done)(u32 id) { return 1; }

void EXPORT(proxy_on_delete)(u32 id) {
  for (Held **at = &buckets[id % BUCKETS]; *at; at = &(*at)->next)
    if ((*at)->id == id) {
      Held *held = *at;
      *at = held->next;
      held->next = spare;
      spare = held;
      add(held->client, -1);
      return;
    }
}

void EXPORT(proxy_abi_version_0_2_1)(void) {}
