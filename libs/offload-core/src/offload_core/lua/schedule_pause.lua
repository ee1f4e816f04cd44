--- @include offload_core/lua/states.lua
-- Pauses a schedule, or lets it go on with what comes from now on.
-- ARGV: the request as JSON: prefix, owner, name, paused; to pause, note (or null); to go on, now and due
--       (or null).
-- Returns 1, or 0 when there is none.
local request = cjson.decode(ARGV[1])
local prefix, owner, name = request.prefix, request.owner, request.name
local key = schedule_key(prefix, owner, name)
local found = redis.call('HMGET', key, 'revision', 'paused')
if not found[1] then
  return 0
end
if request.paused then
  redis.call('HSET', key, 'paused', 1)
  redis.call('HDEL', key, 'note')
  if request.note ~= cjson.null then
    redis.call('HSET', key, 'note', request.note)
  end
  look_at(prefix, owner, name, nil)
elseif found[2] then
  redis.call('HDEL', key, 'paused', 'note')
  redis.call('HSET', key, 'since', string.format('%.0f', request.now))
  look_at(prefix, owner, name, request.due)
else
  return 1
end
redis.call('HINCRBY', key, 'revision', 1)
return 1
