--- @include offload_core/lua/states.lua
-- Puts right a part of a list: takes out the tasks whose records are gone, and moves those that are in another state.
-- That is what a worker of 0.2 leaves behind.
-- ARGV: the request as JSON: prefix, owner, state, task_ids.
-- Returns how many there were. Events: none.
local request = cjson.decode(ARGV[1])
local mended = 0
for _, task_id in ipairs(request.task_ids) do
  local found = redis.call('HMGET', record_key(request.prefix, task_id), 'state', 'created_at')
  if found[1] ~= request.state then
    redis.call('ZREM', list_key(request.prefix, request.owner, request.state), task_id)
    mended = mended + 1
    if found[1] then
      redis.call('ZADD', list_key(request.prefix, request.owner, found[1]), found[2], task_id)
    end
  end
end
return mended
