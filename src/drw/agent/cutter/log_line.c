/* What the access log says of a request that its caller chose, and who that is: noted as one text of JSON members. */

#include "limiter.h"
#include "parts.h"

#define CALLER TEXT("drw.caller")

enum { MAX_SHOWN = 512, NOTED = 7 };

/* What is written down of a path: its beginning, no query, and no path in which somebody put a key, whose second part
 * begins with ".eyJ". */
static Bytes shown(Bytes path) {
  static const Bytes KEY_INSIDE = {(const u8 *)".eyJ", 4};
  for (size i = 0; i < path.size; i++)
    if (begins((Bytes){path.data + i, path.size - i}, KEY_INSIDE))
      return TEXT("(a key)");
  return (Bytes){path.data, path.size < MAX_SHOWN ? path.size : MAX_SHOWN};
}

typedef struct Line {
  u8 text[NOTED * 6 * MAX_SHOWN + 512]; /* of each text a byte may become six; and the names of them */
  u32 size;
} Line;

static void put(Line *line, Bytes text) {
  for (size i = 0; i < text.size && line->size < sizeof line->text; i++)
    line->text[line->size++] = text.data[i];
}

/* A member of a JSON object, of at most MAX_SHOWN bytes of a value; what is not plain ASCII is escaped by the byte. */
static void put_member(Line *line, Bytes name, Bytes value) {
  put(line, name);
  for (size i = 0; i < value.size && i < MAX_SHOWN; i++) {
    u8 c = value.data[i];
    const u8 escaped[] = {'\\', 'u', '0', '0', (u8)"0123456789abcdef"[c >> 4], (u8)"0123456789abcdef"[c & 15]};
    put(line, c < ' ' || c > '~' || c == '"' || c == '\\' ? (Bytes){escaped, sizeof escaped} : (Bytes){&c, 1});
  }
  put(line, TEXT("\","));
}

/* Notes for the log who calls and all that callers choose, in the form in which the log takes it: an upstream that is
 * not ours does not get these headers, and one text is cheaper for Envoy to keep and to write than its parts. */
void note(Filter filter, Bytes org, Bytes desk, Bytes key, Bytes path) {
  u8 digits[10];
  for (size i = 0; i < path.size; i++)
    if (path.data[i] == '?')
      path.size = i;
  Line line;
  line.size = 0;
  put_member(&line, TEXT("\"request_id\":\""), header(filter, REQUEST_HEADERS, TEXT("x-request-id")));
  put_member(&line, TEXT("\"method\":\""), header(filter, REQUEST_HEADERS, TEXT(":method")));
  put_member(&line, TEXT("\"org\":\""), org);
  put_member(&line, TEXT("\"desk\":\""), desk);
  put_member(&line, TEXT("\"key\":\""), key);
  put_member(&line, TEXT("\"path\":\""), shown(path));
  put_member(&line, TEXT("\"path_length\":\""), (Bytes){digits, (size)(decimal(digits, (u32)path.size) - digits)});
  line.size--; /* the comma behind the last */
  HOST(http_set_dynamic_metadata_string)(filter, CALLER, TEXT("line"), (Bytes){line.text, line.size});
}
