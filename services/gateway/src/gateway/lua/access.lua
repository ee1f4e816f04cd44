-- Changes a tenant or an API key, unless it has changed since it was read.
-- ARGV: the request as JSON: prefix, kind ('tenants' or 'api-keys'), id, before (the record as it was read, false for
--       none), after (the record that is to be, false to delete it), tenant (of an API key that is to be).
-- Returns 'done', 'changed', 'no_tenant' (there is none of this name), or 'in_use' (the tenant has API keys).
local request = cjson.decode(ARGV[1])
local prefix, records = request.prefix, request.prefix .. request.kind
local found = redis.call('HGET', records, request.id)
if found ~= request.before then
  return 'changed'
end
if request.kind == 'tenants' and not request.after then
  for _, text in ipairs(redis.call('HVALS', prefix .. 'api-keys')) do
    if cjson.decode(text).tenant == request.id then
      return 'in_use'
    end
  end
end
if request.kind == 'api-keys' and request.after and redis.call('HEXISTS', prefix .. 'tenants', request.tenant) == 0 then
  return 'no_tenant'
end
if request.after then
  redis.call('HSET', records, request.id, request.after)
else
  redis.call('HDEL', records, request.id)
  redis.call('HDEL', prefix .. 'api-keys-used', request.id)
end
redis.call('INCR', prefix .. 'access-version')
return 'done'
