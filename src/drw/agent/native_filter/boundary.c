/* Boundary filter of a cluster: strips headers from requests to a third party, and from its responses.
 *
 * Its configuration has two lines, for requests and for responses: names separated by spaces. A name that ends in '-'
 * is a prefix (drw.agent.xds.http_filters.boundary). Envoy's header names are in lower case.
 */

#include "components.h"

enum { MAX_HEADERS = 1024, STORAGE = 1 << 16 };

typedef struct Names {
  u8 first_bytes[256]; /* whether any name starts with this byte */
  Bytes text;
} Names;

struct Boundary {
  Names request, response;
  u8 text[];
};

static void parse_names(Names *names, Bytes text) {
  names->text = text;
  for (size i = 0; i < text.size; i++)
    if (!i || text.data[i - 1] == ' ')
      names->first_bytes[text.data[i]] = 1;
}

Boundary *boundary_new(Bytes text) {
  size separator = 0;
  while (separator < text.size && text.data[separator] != '\n')
    separator++;
  Boundary *boundary = separator < text.size ? calloc(1, sizeof *boundary + text.size) : 0;
  if (!boundary)
    return 0;
  for (size i = 0; i < text.size; i++)
    boundary->text[i] = text.data[i];
  parse_names(&boundary->request, (Bytes){boundary->text, separator});
  parse_names(&boundary->response, (Bytes){boundary->text + separator + 1, text.size - separator - 1});
  return boundary;
}

static u32 is_listed(const Names *names, Bytes header) {
  if (!header.size || !names->first_bytes[header.data[0]])
    return 0;
  Bytes rest = names->text;
  while (rest.size) {
    size end = 0;
    while (end < rest.size && rest.data[end] != ' ')
      end++;
    u32 prefix = end && rest.data[end - 1] == '-';
    if (end && starts_with(header, (Bytes){rest.data, end}) && (prefix || header.size == end))
      return 1;
    end += end < rest.size;
    rest = (Bytes){rest.data + end, rest.size - end};
  }
  return 0;
}

u32 boundary_apply(const Boundary *boundary, Filter filter, int map) {
  const Names *names = map == REQUEST_HEADERS ? &boundary->request : &boundary->response;
  Header headers[MAX_HEADERS];
  u8 storage[STORAGE];
  Bytes removals[MAX_HEADERS];
  size count = HOST(http_get_headers_size)(filter, map), used = 0, removal_count = 0;
  if (count > MAX_HEADERS || !HOST(http_get_headers)(filter, map, headers))
    return 0;
  for (size h = 0; h < count; h++)
    if (is_listed(names, headers[h].name)) { /* a copy, because a removal may free the name */
      Bytes name = headers[h].name;
      if (used + name.size > STORAGE)
        return 0;
      for (size i = 0; i < name.size; i++)
        storage[used + i] = name.data[i];
      removals[removal_count++] = (Bytes){storage + used, name.size};
      used += name.size;
    }
  for (size i = 0; i < removal_count; i++)
    HOST(http_set_header)(filter, map, removals[i], (Bytes){0});
  return 1;
}
