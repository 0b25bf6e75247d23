/* What a route asks of a request, as the agent says it of each (drw.agent.xds.http_filters.filters): a letter, the most
 * bytes of a body in 16 hexadecimal digits, and the scopes of which a caller must hold one, each behind a new line.
 */

#include "parts.h"

enum { ANYBODY = 'a', ANY_KEY = 'k', ONE_OF = 's', LETTER = 1, DIGITS = 16 };

struct Route {
  u64 most;
  u32 who;
  size size;
  u8 scopes[]; /* a new line before each */
};

static u32 is_hexadecimal(const u8 *text) {
  for (u32 i = 0; i < DIGITS; i++)
    if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
      return 0;
  return 1;
}

/* 0: Envoy refuses the configuration. */
const void *EXPORT(http_filter_per_route_config_new)(Bytes name, Bytes text) {
  (void)name;
  if (text.size < LETTER + DIGITS || !is_hexadecimal(text.data + LETTER))
    return 0;
  size rest = text.size - LETTER - DIGITS;
  u8 who = text.data[0], separator = rest ? text.data[LETTER + DIGITS] : 0;
  if (who == ONE_OF ? separator != '\n' : rest || (who != ANYBODY && who != ANY_KEY))
    return 0;
  Route *made = calloc(1, sizeof *made + rest);
  if (!made)
    return 0;
  made->who = who, made->size = rest, made->most = hexadecimal(text.data + LETTER, DIGITS);
  for (size i = 0; i < rest; i++)
    made->scopes[i] = text.data[LETTER + DIGITS + i];
  return made;
}

void EXPORT(http_filter_per_route_config_destroy)(void *route) { free(route); }

/* Whether a scope is among words with a space between. */
static u32 holds(Bytes words, Bytes scope) {
  for (size at = 0; at + scope.size <= words.size; at++) {
    size end = at + scope.size;
    if ((!at || words.data[at - 1] == ' ') && (end == words.size || words.data[end] == ' ') &&
        begins((Bytes){words.data + at, scope.size}, scope))
      return 1;
  }
  return 0;
}

u32 route_admits(const Route *route, Bytes key, Bytes scopes) {
  if (!route || route->who == ANYBODY || !key.size)
    return route && route->who == ANYBODY;
  if (route->who == ANY_KEY)
    return 1;
  for (size from = 0; from < route->size;) {
    size to = ++from; /* behind the new line */
    while (to < route->size && route->scopes[to] != '\n')
      to++;
    if (to > from && holds(scopes, (Bytes){route->scopes + from, to - from}))
      return 1;
    from = to;
  }
  return 0;
}

u64 route_most(const Route *route) { return route ? route->most : 0; }
