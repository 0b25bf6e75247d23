/* Declarations of Envoy's dynamic modules ABI v0.2.0 (Envoy 1.40) and of the C library, as far as the module uses them.
 * The module is linked with nothing: Envoy's process provides both. */
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long size;

typedef struct Bytes {
  const u8 *data;
  size size;
} Bytes;

typedef struct Header {
  Bytes name;
  Bytes value;
} Header;

#define TEXT(text) ((Bytes){(const u8 *)text, sizeof text - 1})
#define EXPORT(name) __attribute__((visibility("default"))) envoy_dynamic_module_on_##name
#define HOST(name) envoy_dynamic_module_callback_##name

typedef void *Filter; /* a request in Envoy */
typedef void *Handle; /* a configuration or a scheduler in Envoy */

enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2, DYNAMIC_METADATA = 0, LOCAL_RESET = 0 };
enum { REQUEST_BODY = 0, RESPONSE_BODY = 2 }; /* the bytes of this event, not the buffered body */
enum { CONTINUE = 0, STOP = 1, STOP_BODY = 3 };

_Bool HOST(http_get_header)(Filter, int map, Bytes name, Bytes *value, size index, size *count);
size HOST(http_get_headers_size)(Filter, int map);
_Bool HOST(http_get_headers)(Filter, int map, Header *headers);
_Bool HOST(http_set_header)(Filter, int map, Bytes name, Bytes value);
_Bool HOST(http_add_header)(Filter, int map, Bytes name, Bytes value);
_Bool HOST(http_get_metadata_string)(Filter, int source, Bytes space, Bytes name, Bytes *value);
void HOST(http_set_dynamic_metadata_string)(Filter, Bytes space, Bytes name, Bytes value);
size HOST(http_get_body_size)(Filter, int body);
size HOST(http_get_body_chunks_size)(Filter, int body);
_Bool HOST(http_get_body_chunks)(Filter, int body, Bytes *chunks);
_Bool HOST(http_append_body)(Filter, int body, Bytes data);
_Bool HOST(http_drain_body)(Filter, int body, size bytes);
void HOST(http_send_response)(Filter, u32 status, Header *headers, size count, Bytes body, Bytes details);
void HOST(http_filter_reset_stream)(Filter, int reason, Bytes details);
u32 HOST(http_filter_get_worker_index)(Filter);
const void *HOST(get_most_specific_route_config)(Filter);
Handle HOST(http_filter_scheduler_new)(Filter);
void HOST(http_filter_scheduler_commit)(Handle, u64 event);
void HOST(http_filter_scheduler_delete)(Handle);
int HOST(http_filter_config_define_counter)(Handle, Bytes name, Bytes *labels, size count, size *id);
int HOST(http_filter_config_increment_counter)(Handle, size id, Bytes *labels, size count, u64 by);
int HOST(http_filter_increment_counter)(Filter, size id, Bytes *labels, size count, u64 by);

void *calloc(size count, size bytes);
void free(void *);
int sched_yield(void);
struct timespec {
  long seconds, nanoseconds;
};
int clock_gettime(int clock, struct timespec *now);
int nanosleep(const struct timespec *time, struct timespec *left);
int pthread_create(void **thread, const void *attributes, void *(*run)(void *), void *argument);
int pthread_detach(void *thread);
#ifdef __APPLE__
enum { MONOTONIC = 6 };
#else
enum { MONOTONIC = 1 };
#endif

static inline Bytes header(Filter filter, int map, Bytes name) {
  Bytes value = {0};
  return HOST(http_get_header)(filter, map, name, &value, 0, 0) ? value : (Bytes){0};
}

/* A spin lock, held for less than a microsecond at a time. */
typedef u8 Lock;

static inline void lock(Lock *mutex) {
  while (__atomic_test_and_set(mutex, __ATOMIC_ACQUIRE))
    sched_yield();
}

static inline void unlock(Lock *mutex) { __atomic_clear(mutex, __ATOMIC_RELEASE); }

static inline u32 starts_with(Bytes text, Bytes prefix) {
  size same = 0;
  while (same < text.size && same < prefix.size && text.data[same] == prefix.data[same])
    same++;
  return same == prefix.size;
}

static inline u64 parse_hex(const u8 *text, u32 digits) {
  u64 value = 0;
  for (u32 i = 0; i < digits; i++)
    value = value << 4 | (text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10);
  return value;
}

/* The slot of a key in a hash table with open addressing, or the free slot (0) for it. */
static inline u32 slot(const u64 *keys, u32 mask, u64 key) {
  u32 at = (u32)key & mask;
  while (keys[at] && keys[at] != key)
    at = (at + 1) & mask;
  return at;
}

/* The mask of a hash table that is at most half full with this many keys. */
static inline u32 table_mask(u32 count) {
  u32 slots = 64;
  while (slots < 2 * count)
    slots *= 2;
  return slots - 1;
}
