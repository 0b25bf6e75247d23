-- Who calls where no key of our own says so: by the token of an issuer, or by the certificate of the connection.
-- The tables `issuers`, `desks`, `certificates` and `said` stand above; identity.py writes them.

local TOKENS = "envoy.filters.http.jwt_authn"
local MOST_WORDS = 100
local MOST_SUBJECT = 128
local SHOWN = 80

local function refuse(handle, message)
  handle:streamInfo():dynamicMetadata():set("drw.identity", "refusal", message)
  handle:respond({ [":status"] = "401" }, "")
end

-- A claim by its own name, or by a path into nested ones.
local function claim(claims, name)
  local found = claims[name]
  if found ~= nil then
    return found
  end
  found = claims
  for part in string.gmatch(name, "[^.]+") do
    if type(found) ~= "table" then
      return nil
    end
    found = found[part]
  end
  return found
end

-- One text, also as the only one of a list.
local function text(value)
  if type(value) == "table" and #value == 1 then
    value = value[1]
  end
  return type(value) == "string" and value or nil
end

-- Texts: a list of them, or words with spaces between.
local function words(value)
  local found = {}
  if type(value) == "string" then
    for word in string.gmatch(value, "%S+") do
      found[#found + 1] = word
      if #found == MOST_WORDS then
        break
      end
    end
  elseif type(value) == "table" then
    for number = 1, math.min(#value, MOST_WORDS) do
      if type(value[number]) == "string" then
        found[#found + 1] = value[number]
      end
    end
  end
  return found
end

local function joined(set)
  local found = {}
  for one in pairs(set) do
    found[#found + 1] = one
  end
  table.sort(found)
  return table.concat(found, " ")
end

-- Two subjects never become one: what may not stand in an id is written as %XX, and nothing is cut off.
local function subject(value)
  if type(value) ~= "string" or value == "" then
    return nil
  end
  local written = string.gsub(value, "[^%w._@|-]", function(c)
    return string.format("%%%02X", string.byte(c))
  end)
  return #written <= MOST_SUBJECT and written or nil
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
  local who = subject(claims["sub"])
  if who == nil then
    return refuse(handle, said.subject)
  end
  if issuer.claims.org ~= "" and text(claim(claims, issuer.claims.org)) ~= issuer.org then
    return refuse(handle, said.org)
  end
  local named = issuer.claims.desk ~= "" and claim(claims, issuer.claims.desk) or nil
  local desk = named == nil and issuer.default_desk or text(named)
  local bounds = desk ~= nil and desks[issuer.org] ~= nil and desks[issuer.org][desk] or nil
  if bounds == nil then
    return refuse(handle, said.desk .. string.sub(desk or "", 1, SHOWN) .. "'")
  end
  local scopes, walls = {}, {}
  for _, role in ipairs(words(claim(claims, issuer.claims.roles))) do
    for _, scope in ipairs(issuer.roles[role] or {}) do
      if bounds.scopes[scope] then
        scopes[scope] = true
      end
    end
  end
  if issuer.claims.walls ~= "" then
    for _, wall in ipairs(words(claim(claims, issuer.claims.walls))) do
      if bounds.walls[wall] then
        walls[wall] = true
      end
    end
  end
  identify(handle, "oidc:" .. name .. ":" .. who, issuer.org, desk, joined(scopes), joined(walls))
end

local function by_certificate(handle, ssl)
  local found
  for _, san in ipairs(ssl:uriSanPeerCertificate()) do
    local one = certificates[san]
    if one ~= nil and found ~= nil and found ~= one then
      return refuse(handle, said.several)
    end
    found = one or found
  end
  for _, san in ipairs(ssl:dnsSansPeerCertificate()) do
    local one = certificates[string.lower(san)]
    if one ~= nil and found ~= nil and found ~= one then
      return refuse(handle, said.several)
    end
    found = one or found
  end
  if found == nil then
    return refuse(handle, said.certificate)
  end
  identify(handle, found.key, found.org, found.desk, found.scopes, found.walls)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get("x-drw-key") ~= nil or said.alive[string.match(headers:get(":path"), "^[^?]*")] then
    return
  end
  local tokens = handle:streamInfo():dynamicMetadata():get(TOKENS)
  for name, issuer in pairs(tokens ~= nil and issuers or {}) do
    local claims = tokens["drw.issuer." .. name]
    if claims ~= nil then
      return by_token(handle, name, issuer, claims)
    end
  end
  -- A bearer decides: one that counts for nothing is not made up for by a certificate.
  if headers:get("authorization") ~= nil then
    return refuse(handle, said.not_valid)
  end
  local ssl = handle:streamInfo():downstreamSslConnection()
  if ssl ~= nil and ssl:peerCertificatePresented() and ssl:peerCertificateValidated() then
    return by_certificate(handle, ssl)
  end
  refuse(handle, said.missing)
end
