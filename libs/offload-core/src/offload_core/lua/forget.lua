--- @include offload_core/lua/states.lua
-- Takes tasks out of the lists whose records have expired.
-- ARGV: the request as JSON: prefix, limit.
-- Returns how many. Events: none.
local request = cjson.decode(ARGV[1])
local prefix = request.prefix
local due = redis.call('ZRANGEBYSCORE', prefix .. 'forgetting', 0, now_ms(), 'LIMIT', 0, request.limit)
for _, member in ipairs(due) do
  local owner, state, task_id = unpack(cjson.decode(member))
  redis.call('ZREM', list_key(prefix, '', state), task_id)
  redis.call('ZREM', list_key(prefix, owner, state), task_id)
  redis.call('ZREM', prefix .. 'forgetting', member)
end
return #due
