-- Identifies callers without an API key of the platform: by an issuer token or by a client certificate.
-- identity.py writes the tables `issuers`, `desks`, `certificates` and `messages` before this code.

local TOKENS = "envoy.filters.http.jwt_authn"
local MAX_ITEMS = 100
local MAX_SUBJECT = 128
local MAX_SHOWN = 80

local function reject(handle, message)
  handle:streamInfo():dynamicMetadata():set("drw.identity", "rejection", message)
  handle:respond({ [":status"] = "401" }, "")
end

-- Return a claim by name, or by a dotted path into nested claims.
local function claim(claims, name)
  local value = claims[name]
  if value ~= nil then
    return value
  end
  value = claims
  for part in string.gmatch(name, "[^.]+") do
    if type(value) ~= "table" then
      return nil
    end
    value = value[part]
  end
  return value
end

-- Return a string, also as the only item of a list.
local function text(value)
  if type(value) == "table" and #value == 1 then
    value = value[1]
  end
  return type(value) == "string" and value or nil
end

-- Return the strings of a list, or of a string separated by spaces.
local function items(value)
  local result = {}
  if type(value) == "string" then
    for word in string.gmatch(value, "%S+") do
      result[#result + 1] = word
      if #result == MAX_ITEMS then
        break
      end
    end
  elseif type(value) == "table" then
    for number = 1, math.min(#value, MAX_ITEMS) do
      if type(value[number]) == "string" then
        result[#result + 1] = value[number]
      end
    end
  end
  return result
end

local function sorted_list(set)
  local result = {}
  for entry in pairs(set) do
    result[#result + 1] = entry
  end
  table.sort(result)
  return table.concat(result, " ")
end

-- Encode a subject as part of a key id. The encoding is injective: other characters become %XX, nothing is truncated.
local function subject(value)
  if type(value) ~= "string" or value == "" then
    return nil
  end
  local encoded = string.gsub(value, "[^%w._@|-]", function(c)
    return string.format("%%%02X", string.byte(c))
  end)
  return #encoded <= MAX_SUBJECT and encoded or nil
end

local function identify(handle, key, org, desk, scopes, walls)
  local headers = handle:headers()
  headers:replace("x-drw-key", key)
  headers:replace("x-drw-org", org)
  headers:replace("x-drw-desk", desk)
  headers:replace("x-drw-scopes", scopes)
  if walls ~= "" then
    headers:replace("x-drw-walls", walls)
  end
end

local function by_token(handle, name, issuer, claims)
  local subject_id = subject(claims["sub"])
  if subject_id == nil then
    return reject(handle, messages.subject)
  end
  if issuer.claims.org ~= "" and text(claim(claims, issuer.claims.org)) ~= issuer.org then
    return reject(handle, messages.org)
  end
  local desk_claim = issuer.claims.desk ~= "" and claim(claims, issuer.claims.desk) or nil
  local desk = desk_claim == nil and issuer.default_desk or text(desk_claim)
  local allowed = desk ~= nil and desks[issuer.org] ~= nil and desks[issuer.org][desk] or nil
  if allowed == nil then
    return reject(handle, messages.desk .. string.sub(desk or "", 1, MAX_SHOWN) .. "'")
  end
  local scopes, walls = {}, {}
  for _, role in ipairs(items(claim(claims, issuer.claims.roles))) do
    for _, scope in ipairs(issuer.roles[role] or {}) do
      if allowed.scopes[scope] then
        scopes[scope] = true
      end
    end
  end
  if issuer.claims.walls ~= "" then
    for _, wall in ipairs(items(claim(claims, issuer.claims.walls))) do
      if allowed.walls[wall] then
        walls[wall] = true
      end
    end
  end
  identify(handle, "oidc:" .. name .. ":" .. subject_id, issuer.org, desk, sorted_list(scopes), sorted_list(walls))
end

local function by_certificate(handle, ssl)
  local principal
  for _, san in ipairs(ssl:uriSanPeerCertificate()) do
    local candidate = certificates[san]
    if candidate ~= nil and principal ~= nil and principal ~= candidate then
      return reject(handle, messages.several)
    end
    principal = candidate or principal
  end
  for _, san in ipairs(ssl:dnsSansPeerCertificate()) do
    local candidate = certificates[string.lower(san)]
    if candidate ~= nil and principal ~= nil and principal ~= candidate then
      return reject(handle, messages.several)
    end
    principal = candidate or principal
  end
  if principal == nil then
    return reject(handle, messages.certificate)
  end
  identify(handle, principal.key, principal.org, principal.desk, principal.scopes, principal.walls)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get("x-drw-key") ~= nil or messages.alive[string.match(headers:get(":path"), "^[^?]*")] then
    return
  end
  local tokens = handle:streamInfo():dynamicMetadata():get(TOKENS)
  for name, issuer in pairs(tokens ~= nil and issuers or {}) do
    local claims = tokens["drw.issuer." .. name]
    if claims ~= nil then
      return by_token(handle, name, issuer, claims)
    end
  end
  -- A bearer token takes precedence: with an invalid one, a certificate does not help.
  if headers:get("authorization") ~= nil or headers:get("x-api-key") ~= nil then
    return reject(handle, messages.not_valid)
  end
  local ssl = handle:streamInfo():downstreamSslConnection()
  if ssl ~= nil and ssl:peerCertificatePresented() and ssl:peerCertificateValidated() then
    return by_certificate(handle, ssl)
  end
  reject(handle, messages.missing)
end
