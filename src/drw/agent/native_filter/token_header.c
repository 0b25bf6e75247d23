/* Checks the JOSE header of a verified token. Envoy itself checks only `alg` and `kid`.
 *
 * Rejected are members that change the meaning of a token: critical extensions (RFC 7515, 4.1.11), unencoded payloads
 * (RFC 7797), nested tokens, encryption, compression; and types other than a JWT or an access token (RFC 8725, 3.11).
 * Tokens of the platform and of supported issuers have none of them. Rejected is also a header that is not strict JSON,
 * and a request with more than one token: Envoy's parser accepts more than JSON, and both must read the same header.
 */

#include "components.h"

enum { MAX_HEADER = 1 << 14, DOTS = 2 };

static const Bytes REJECTED_MEMBERS[] = {{(const u8 *)"crit", 4}, {(const u8 *)"b64", 3}, {(const u8 *)"cty", 3},
                                         {(const u8 *)"enc", 3}, {(const u8 *)"zip", 3}};
static const Bytes ACCEPTED_TYPES[] = {{(const u8 *)"jwt", 3}, {(const u8 *)"at+jwt", 6}};

static int base64url_digit(u8 c) {
  return c >= 'A' && c <= 'Z'   ? c - 'A'
         : c >= 'a' && c <= 'z' ? c - 'a' + 26
         : c >= '0' && c <= '9' ? c - '0' + 52
         : c == '-'             ? 62
         : c == '_'             ? 63
                                : -1;
}

static u32 equal(Bytes one, Bytes other) { return one.size == other.size && starts_with(one, other); }

static u32 contains(Bytes text, u8 c) {
  for (size i = 0; i < text.size; i++)
    if (text.data[i] == c)
      return 1;
  return 0;
}

Bytes bearer_token(Bytes authorization) {
  if (!starts_with(authorization, TEXT("Bearer ")) && !starts_with(authorization, TEXT("bearer ")))
    return (Bytes){0};
  size from = 7;
  while (from < authorization.size && authorization.data[from] == ' ')
    from++;
  return (Bytes){authorization.data + from, authorization.size - from};
}

/* The encoded JOSE header of a token; of size 0: the text is not a single token. */
static Bytes header_part(Bytes token) {
  size dots = 0, end = 0;
  for (size i = 0; i < token.size; i++)
    if (token.data[i] == '.')
      end = dots++ ? end : i;
    else if (base64url_digit(token.data[i]) < 0)
      return (Bytes){0};
  return dots == DOTS ? (Bytes){token.data, end} : (Bytes){0};
}

/* Returns the number of decoded bytes. */
static size base64url_decode(u8 *to, Bytes text) {
  u32 bits = 0, buffer = 0;
  size count = 0;
  for (size i = 0; i < text.size; i++) {
    buffer = buffer << 6 | (u32)base64url_digit(text.data[i]), bits += 6;
    if (bits >= 8)
      bits -= 8, to[count++] = (u8)(buffer >> bits);
  }
  return count;
}

typedef struct Reader {
  const u8 *next, *end;
} Reader;

/* The next byte that is not white space; 0: the end. */
static u8 peek(Reader *reader) {
  while (reader->next < reader->end && contains(TEXT(" \t\n\r"), *reader->next))
    reader->next++;
  return reader->next < reader->end ? *reader->next : 0;
}

static u32 consume(Reader *reader, u8 expected) {
  u32 matches = peek(reader) == expected;
  reader->next += matches;
  return matches;
}

/* The raw text of a string, without its quotes; data 0: there is no string. */
static Bytes read_string(Reader *reader) {
  if (!consume(reader, '"'))
    return (Bytes){0};
  const u8 *from = reader->next;
  for (; reader->next < reader->end && *reader->next >= ' '; reader->next++) {
    if (*reader->next == '"')
      return (Bytes){from, (size)(reader->next++ - from)};
    if (*reader->next == '\\' && ++reader->next == reader->end)
      break;
  }
  return (Bytes){0};
}

/* Skips a value, up to the comma or brace after it. Returns 0 if it is malformed. */
static u32 skip_value(Reader *reader) {
  u32 depth = 0;
  for (u8 c; (c = peek(reader));) {
    if (!depth && (c == ',' || c == '}'))
      return 1;
    if (c == '"') {
      if (!read_string(reader).data)
        return 0;
      continue;
    }
    if (!contains(TEXT("{}[]:,+-.0123456789Eaeflnrstu"), c) || (c == ':' && !depth))
      return 0;
    depth += c == '{' || c == '[';
    if (c == '}' || c == ']') {
      if (!depth)
        return 0;
      depth--;
    }
    reader->next++;
  }
  return 0;
}

static u32 is_accepted_type(Bytes raw) {
  u8 text[32]; /* lower case, and "\/" as "/" */
  size count = 0;
  for (size i = 0; i < raw.size; i++) {
    u8 c = raw.data[i];
    if (c == '\\') {
      if (++i == raw.size || (c = raw.data[i]) != '/')
        return 0;
    }
    if (count == sizeof text)
      return 0;
    text[count++] = c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
  }
  Bytes type = {text, count};
  if (starts_with(type, TEXT("application/")))
    type = (Bytes){text + 12, count - 12};
  return equal(type, ACCEPTED_TYPES[0]) || equal(type, ACCEPTED_TYPES[1]);
}

static u32 is_allowed_member(Reader *reader) {
  Bytes name = read_string(reader);
  if (!name.data || contains(name, '\\') || !consume(reader, ':'))
    return 0;
  for (u32 r = 0; r < sizeof REJECTED_MEMBERS / sizeof *REJECTED_MEMBERS; r++)
    if (equal(name, REJECTED_MEMBERS[r]))
      return 0;
  if (!equal(name, TEXT("typ")))
    return skip_value(reader);
  Bytes type = read_string(reader);
  return type.data && is_accepted_type(type);
}

u32 token_header_is_allowed(Bytes token) {
  u8 text[MAX_HEADER];
  Bytes encoded = header_part(token);
  if (!encoded.size || encoded.size > MAX_HEADER)
    return 0;
  Reader reader = {text, text + base64url_decode(text, encoded)};
  if (!consume(&reader, '{'))
    return 0;
  do
    if (!is_allowed_member(&reader))
      return 0;
  while (consume(&reader, ','));
  return consume(&reader, '}') && !peek(&reader) && reader.next == reader.end;
}
