/* The part of the access log line that the native filter writes: the caller and the fields that callers choose, as JSON
 * members. */

#include "components.h"
#include "limiter.h"

#define CALLER_METADATA TEXT("drw.caller")

enum { MAX_LENGTH = 512, MEMBERS = 7 };

/* The logged path: truncated, and omitted if it contains an API key, whose second part starts with ".eyJ". */
static Bytes logged_path(Bytes path) {
  static const Bytes KEY_MARKER = {(const u8 *)".eyJ", 4};
  for (size i = 0; i < path.size; i++)
    if (starts_with((Bytes){path.data + i, path.size - i}, KEY_MARKER))
      return TEXT("(a key)");
  return (Bytes){path.data, path.size < MAX_LENGTH ? path.size : MAX_LENGTH};
}

typedef struct Line {
  u8 text[MEMBERS * 6 * MAX_LENGTH + 512]; /* six bytes for each escaped byte, and the names */
  u32 size;
} Line;

static void append(Line *line, Bytes text) {
  for (size i = 0; i < text.size && line->size < sizeof line->text; i++)
    line->text[line->size++] = text.data[i];
}

/* Appends a JSON member with at most MAX_LENGTH bytes of its value. Bytes outside printable ASCII are escaped. */
static void append_member(Line *line, Bytes name, Bytes value) {
  append(line, name);
  for (size i = 0; i < value.size && i < MAX_LENGTH; i++) {
    u8 c = value.data[i];
    const u8 escaped[] = {'\\', 'u', '0', '0', (u8)"0123456789abcdef"[c >> 4], (u8)"0123456789abcdef"[c & 15]};
    append(line, c < ' ' || c > '~' || c == '"' || c == '\\' ? (Bytes){escaped, sizeof escaped} : (Bytes){&c, 1});
  }
  append(line, TEXT("\","));
}

/* Third-party upstreams do not receive these headers, so the log cannot read them when a request ends. One string is
 * cheaper for Envoy to store and to write than seven. */
void write_log_line(Filter filter, Bytes org, Bytes desk, Bytes key, Bytes path) {
  u8 digits[10];
  for (size i = 0; i < path.size; i++)
    if (path.data[i] == '?')
      path.size = i;
  Line line;
  line.size = 0;
  append_member(&line, TEXT("\"request_id\":\""), header(filter, REQUEST_HEADERS, TEXT("x-request-id")));
  append_member(&line, TEXT("\"method\":\""), header(filter, REQUEST_HEADERS, TEXT(":method")));
  append_member(&line, TEXT("\"org\":\""), org);
  append_member(&line, TEXT("\"desk\":\""), desk);
  append_member(&line, TEXT("\"key\":\""), key);
  append_member(&line, TEXT("\"path\":\""), logged_path(path));
  append_member(&line, TEXT("\"path_length\":\""), (Bytes){digits, (size)(decimal(digits, (u32)path.size) - digits)});
  line.size--; /* the comma after the last member */
  HOST(http_set_dynamic_metadata_string)(filter, CALLER_METADATA, TEXT("line"), (Bytes){line.text, line.size});
}
