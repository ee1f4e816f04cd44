--- @include offload_core/lua/states.lua
-- Closes a batch, and has what is open of it cancelled, piece by piece (`batch_attend.lua`).
-- ARGV: the request as JSON: prefix, batch. Returns 'missing', 'finished' or 'cancelled'.
local request = cjson.decode(ARGV[1])
local prefix, batch = request.prefix, request.batch
local key = batch_key(prefix, batch)
local found = redis.call('HMGET', key, 'owner', 'completed_at', 'sealed_at')
if not found[1] then
  return 'missing'
end
if found[2] then
  return 'finished'
end
local now = string.format('%.0f', now_ms())
redis.call('HSET', key, 'sealed_at', found[3] or now, 'outcome', 'cancelled', 'action', 'cancel', 'place', 0)
redis.call('ZADD', attended_key(prefix), now, batch)
complete_batch(prefix, batch)
return 'cancelled'
