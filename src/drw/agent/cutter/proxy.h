/* Types, and the functions of the host: Proxy-Wasm ABI 0.2.1 and WASI preview 1. */
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define IMPORT(name) __attribute__((import_module("env"), import_name(#name))) u32 name
#define EXPORT(name) __attribute__((export_name(#name))) name

IMPORT(proxy_set_tick_period_milliseconds)(u32 period);
IMPORT(proxy_get_header_map_value)(u32 map, const char *key, u32 key_size, u8 **value, u32 *size);
IMPORT(proxy_add_header_map_value)(u32 map, const char *key, u32 key_size, const char *value, u32 size);
IMPORT(proxy_replace_header_map_value)(u32 map, const char *key, u32 key_size, const char *value, u32 size);
IMPORT(proxy_get_property)(const char *path, u32 path_size, u8 **value, u32 *size);
IMPORT(proxy_get_buffer_bytes)(u32 buffer, u32 start, u32 most, u8 **data, u32 *size);
IMPORT(proxy_set_buffer_bytes)(u32 buffer, u32 start, u32 size, const u8 *data, u32 data_size);
IMPORT(proxy_get_shared_data)(const void *key, u32 key_size, u8 **value, u32 *size, u32 *cas);
IMPORT(proxy_set_shared_data)(const void *key, u32 key_size, const void *value, u32 size, u32 cas);
IMPORT(proxy_define_metric)(u32 kind, const char *name, u32 size, u32 *metric);
IMPORT(proxy_increment_metric)(u32 metric, u64 by);
IMPORT(proxy_set_effective_context)(u32 context);
IMPORT(proxy_close_stream)(u32 stream);
IMPORT(proxy_send_local_response)(u32 status, const char *details, u32 details_size, const char *body, u32 body_size,
                                  const u8 *headers, u32 headers_size, u32 grpc_status);
__attribute__((import_module("wasi_snapshot_preview1"), import_name("clock_time_get"))) u32 clock_time_get(
    u32 clock, u64 precision, u64 *nanoseconds);

enum { OK = 0, CAS_MISMATCH = 8 };
enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2, RESPONSE_BODY = 1, CONFIGURATION = 7 };
enum { MONOTONIC = 1, COUNTER = 0 };
enum { PAGE = 65536, SLOTS = 1 << 18, MOST = SLOTS / 2 }; /* lines of each kind in a configuration */

/* Forgets what the host has put into memory so far; what it puts there next begins at the address returned. */
u8 *scratch_reset(void);

/* Where a key is in a table of open addressing, or the free place (0) for it. */
static inline u32 place(const u64 *keys, u32 mask, u64 key) {
  u32 at = (u32)key & mask;
  while (keys[at] && keys[at] != key)
    at = (at + 1) & mask;
  return at;
}

/* The mask of a table with room for so many keys. */
static inline u32 mask_for(u32 count) {
  u32 room = 64;
  while (room < 2 * count)
    room *= 2;
  return room - 1;
}
