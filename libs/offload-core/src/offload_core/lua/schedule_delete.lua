--- @include offload_core/lua/states.lua
-- Deletes a schedule; its tasks stay.
-- ARGV: the request as JSON: prefix, owner, name. Returns 1, or 0 when there is none.
local request = cjson.decode(ARGV[1])
local prefix, owner, name = request.prefix, request.owner, request.name
for _, one in ipairs({'', owner}) do
  redis.call('ZREM', schedules_of_key(prefix, one), owner .. ':' .. name)
end
look_at(prefix, owner, name, nil)
return redis.call('DEL', schedule_key(prefix, owner, name))
