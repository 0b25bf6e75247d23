/* Takes headers off what goes to an upstream of others, and off what comes back: a filter of the cluster.
 *
 * Its configuration has two lines, of a request and of an answer: names with a space between, of which one that ends in
 * '-' stands for all that begin so (drw.agent.xds.http_filters.boundary). Envoy's names are of small letters.
 */

#include "parts.h"

enum { MOST_HEADERS = 1024, ROOM = 1 << 16 };

typedef struct Names {
  u8 first[256]; /* whether any name begins with this byte */
  Bytes text;
} Names;

struct Boundary {
  Names request, answer;
  u8 text[];
};

static void read_names(Names *names, Bytes text) {
  names->text = text;
  for (size i = 0; i < text.size; i++)
    if (!i || text.data[i - 1] == ' ')
      names->first[text.data[i]] = 1;
}

Boundary *boundary_new(Bytes text) {
  size middle = 0;
  while (middle < text.size && text.data[middle] != '\n')
    middle++;
  Boundary *made = middle < text.size ? calloc(1, sizeof *made + text.size) : 0;
  if (!made)
    return 0;
  for (size i = 0; i < text.size; i++)
    made->text[i] = text.data[i];
  read_names(&made->request, (Bytes){made->text, middle});
  read_names(&made->answer, (Bytes){made->text + middle + 1, text.size - middle - 1});
  return made;
}

static u32 listed(const Names *names, Bytes header) {
  if (!header.size || !names->first[header.data[0]])
    return 0;
  Bytes left = names->text;
  while (left.size) {
    size end = 0;
    while (end < left.size && left.data[end] != ' ')
      end++;
    u32 prefix = end && left.data[end - 1] == '-';
    if (end && begins(header, (Bytes){left.data, end}) && (prefix || header.size == end))
      return 1;
    end += end < left.size;
    left = (Bytes){left.data + end, left.size - end};
  }
  return 0;
}

u32 boundary_apply(const Boundary *boundary, Filter filter, int map) {
  const Names *names = map == REQUEST_HEADERS ? &boundary->request : &boundary->answer;
  Pair headers[MOST_HEADERS];
  u8 room[ROOM];
  Bytes found[MOST_HEADERS];
  size count = HOST(http_get_headers_size)(filter, map), used = 0, taken = 0;
  if (count > MOST_HEADERS || !HOST(http_get_headers)(filter, map, headers))
    return 0;
  for (size h = 0; h < count; h++)
    if (listed(names, headers[h].name)) { /* a copy, since what is removed may be what a name points to */
      Bytes name = headers[h].name;
      if (used + name.size > ROOM)
        return 0;
      for (size i = 0; i < name.size; i++)
        room[used + i] = name.data[i];
      found[taken++] = (Bytes){room + used, name.size};
      used += name.size;
    }
  for (size i = 0; i < taken; i++)
    HOST(http_set_header)(filter, map, found[i], (Bytes){0});
  return 1;
}
