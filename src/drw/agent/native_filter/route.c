/* Requirements of a route. The agent writes them as text (drw.agent.native_filter): a letter, the maximum body size in
 * 16 hexadecimal digits, and the scopes, of which a caller must have one, each after a newline.
 */

#include "components.h"

enum { PUBLIC = 'a', ANY_KEY = 'k', ANY_SCOPE = 's', LETTER = 1, DIGITS = 16 };

struct Route {
  u64 max_body;
  u32 access;
  size size;
  u8 scopes[]; /* each after a newline */
};

static u32 is_hex(const u8 *text) {
  for (u32 i = 0; i < DIGITS; i++)
    if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
      return 0;
  return 1;
}

/* Returns 0 if the text is malformed; then Envoy rejects the configuration. */
const void *EXPORT(http_filter_per_route_config_new)(Bytes name, Bytes text) {
  (void)name;
  if (text.size < LETTER + DIGITS || !is_hex(text.data + LETTER))
    return 0;
  size scopes_size = text.size - LETTER - DIGITS;
  u8 access = text.data[0], separator = scopes_size ? text.data[LETTER + DIGITS] : 0;
  if (access == ANY_SCOPE ? separator != '\n' : scopes_size || (access != PUBLIC && access != ANY_KEY))
    return 0;
  Route *route = calloc(1, sizeof *route + scopes_size);
  if (!route)
    return 0;
  route->access = access, route->size = scopes_size, route->max_body = parse_hex(text.data + LETTER, DIGITS);
  for (size i = 0; i < scopes_size; i++)
    route->scopes[i] = text.data[LETTER + DIGITS + i];
  return route;
}

void EXPORT(http_filter_per_route_config_destroy)(void *route) { free(route); }

/* Whether a list of scopes, separated by spaces, has a scope. */
static u32 has_scope(Bytes scopes, Bytes scope) {
  for (size at = 0; at + scope.size <= scopes.size; at++) {
    size end = at + scope.size;
    if ((!at || scopes.data[at - 1] == ' ') && (end == scopes.size || scopes.data[end] == ' ') &&
        starts_with((Bytes){scopes.data + at, scope.size}, scope))
      return 1;
  }
  return 0;
}

u32 route_admits(const Route *route, Bytes key, Bytes scopes) {
  if (!route || route->access == PUBLIC || !key.size)
    return route && route->access == PUBLIC;
  if (route->access == ANY_KEY)
    return 1;
  for (size from = 0; from < route->size;) {
    size to = ++from; /* after the newline */
    while (to < route->size && route->scopes[to] != '\n')
      to++;
    if (to > from && has_scope(scopes, (Bytes){route->scopes + from, to - from}))
      return 1;
    from = to;
  }
  return 0;
}

u64 route_max_body(const Route *route) { return route ? route->max_body : 0; }
