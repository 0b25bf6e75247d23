/* The JOSE header of a token that Envoy has verified, of which Envoy itself judges `alg` and `kid` alone.
 *
 * Refused are members that change what a token means: extensions that must be understood (RFC 7515, 4.1.11), another
 * payload (RFC 7797), a token in a token, encryption, compression; and types other than a JWT or an access token (RFC
 * 8725, 3.11). No token of ours or of an issuer has any. What is not plainly JSON, and one token alone, is refused too:
 * Envoy's parser takes more than JSON, and what it finds must be what is judged here.
 */

#include "parts.h"

enum { MOST_HEADER = 1 << 14, DOTS = 2 };

static const Bytes REFUSED[] = {{(const u8 *)"crit", 4}, {(const u8 *)"b64", 3}, {(const u8 *)"cty", 3},
                                {(const u8 *)"enc", 3}, {(const u8 *)"zip", 3}};
static const Bytes TYPES[] = {{(const u8 *)"jwt", 3}, {(const u8 *)"at+jwt", 6}};

static int digit(u8 c) {
  return c >= 'A' && c <= 'Z'   ? c - 'A'
         : c >= 'a' && c <= 'z' ? c - 'a' + 26
         : c >= '0' && c <= '9' ? c - '0' + 52
         : c == '-'             ? 62
         : c == '_'             ? 63
                                : -1;
}

static u32 same(Bytes one, Bytes other) { return one.size == other.size && begins(one, other); }

static u32 in(Bytes text, u8 c) {
  for (size i = 0; i < text.size; i++)
    if (text.data[i] == c)
      return 1;
  return 0;
}

/* The first part of the only token in the header; of size 0: it is not that alone. */
static Bytes first_part(Bytes sent) {
  if (!begins(sent, TEXT("Bearer ")) && !begins(sent, TEXT("bearer ")))
    return (Bytes){0};
  size from = 7, dots = 0, end = 0;
  while (from < sent.size && sent.data[from] == ' ')
    from++;
  for (size i = from; i < sent.size; i++)
    if (sent.data[i] == '.')
      end = dots++ ? end : i;
    else if (digit(sent.data[i]) < 0)
      return (Bytes){0};
  return dots == DOTS ? (Bytes){sent.data + from, end - from} : (Bytes){0};
}

/* Returns how many bytes base64url stands for. */
static size decoded(u8 *to, Bytes text) {
  u32 bits = 0, held = 0;
  size count = 0;
  for (size i = 0; i < text.size; i++) {
    held = held << 6 | (u32)digit(text.data[i]), bits += 6;
    if (bits >= 8)
      bits -= 8, to[count++] = (u8)(held >> bits);
  }
  return count;
}

typedef struct Reader {
  const u8 *at, *end;
} Reader;

/* The next byte that is not a space; 0: there is none. */
static u8 next(Reader *reader) {
  while (reader->at < reader->end && in(TEXT(" \t\n\r"), *reader->at))
    reader->at++;
  return reader->at < reader->end ? *reader->at : 0;
}

static u32 takes(Reader *reader, u8 wanted) {
  u32 found = next(reader) == wanted;
  reader->at += found;
  return found;
}

/* A string as it is written, without its quotes; data 0: there is none. */
static Bytes read_string(Reader *reader) {
  if (!takes(reader, '"'))
    return (Bytes){0};
  const u8 *from = reader->at;
  for (; reader->at < reader->end && *reader->at >= ' '; reader->at++) {
    if (*reader->at == '"')
      return (Bytes){from, (size)(reader->at++ - from)};
    if (*reader->at == '\\' && ++reader->at == reader->end)
      break;
  }
  return (Bytes){0};
}

/* Goes behind a value, up to the comma or brace that ends its member. */
static u32 skip_value(Reader *reader) {
  u32 depth = 0;
  for (u8 c; (c = next(reader));) {
    if (!depth && (c == ',' || c == '}'))
      return 1;
    if (c == '"') {
      if (!read_string(reader).data)
        return 0;
      continue;
    }
    if (!in(TEXT("{}[]:,+-.0123456789Eaeflnrstu"), c) || (c == ':' && !depth))
      return 0;
    depth += c == '{' || c == '[';
    if (c == '}' || c == ']') {
      if (!depth)
        return 0;
      depth--;
    }
    reader->at++;
  }
  return 0;
}

static u32 is_type_of_ours(Bytes written) {
  u8 text[32]; /* in small letters, and "\/" as "/" */
  size count = 0;
  for (size i = 0; i < written.size; i++) {
    u8 c = written.data[i];
    if (c == '\\') {
      if (++i == written.size || (c = written.data[i]) != '/')
        return 0;
    }
    if (count == sizeof text)
      return 0;
    text[count++] = c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
  }
  Bytes type = {text, count};
  if (begins(type, TEXT("application/")))
    type = (Bytes){text + 12, count - 12};
  return same(type, TYPES[0]) || same(type, TYPES[1]);
}

static u32 is_good_member(Reader *reader) {
  Bytes name = read_string(reader);
  if (!name.data || in(name, '\\') || !takes(reader, ':'))
    return 0;
  for (u32 r = 0; r < sizeof REFUSED / sizeof *REFUSED; r++)
    if (same(name, REFUSED[r]))
      return 0;
  if (!same(name, TEXT("typ")))
    return skip_value(reader);
  Bytes type = read_string(reader);
  return type.data && is_type_of_ours(type);
}

u32 token_header_is_good(Bytes sent) {
  u8 text[MOST_HEADER];
  Bytes part = first_part(sent);
  if (!part.size || part.size > MOST_HEADER)
    return 0;
  Reader reader = {text, text + decoded(text, part)};
  if (!takes(&reader, '{'))
    return 0;
  do
    if (!is_good_member(&reader))
      return 0;
  while (takes(&reader, ','));
  return takes(&reader, '}') && !next(&reader) && reader.at == reader.end;
}
