--- @include offload_core/lua/states.lua
-- Notes a batch whose items come later. One that is there already, from an earlier try of the same request, stays.
-- ARGV: the request as JSON: prefix, batch, fields (name to text), closes_at (ms): until then all its items must come.
local request = cjson.decode(ARGV[1])
local key = batch_key(request.prefix, request.batch)
if redis.call('EXISTS', key) == 0 then
  for name, value in pairs(request.fields) do
    redis.call('HSET', key, name, value)
  end
  redis.call('ZADD', attended_key(request.prefix), string.format('%.0f', request.closes_at), request.batch)
end
