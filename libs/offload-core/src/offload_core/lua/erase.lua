--- @include offload_core/lua/states.lua
--- @include celery_leases/scripts/discard.lua
-- Erases what a task was given and what it gave, and keeps what happened to it.
-- ARGV: the request as JSON: prefix, broker_prefix, task_id.
-- Returns 'erased', 'record.missing' or 'task.not_finished'. Events: none.
local request = cjson.decode(ARGV[1])
local prefix, broker, task_id = request.prefix, request.broker_prefix, request.task_id
local key = record_key(prefix, task_id)
local record = redis.call('HMGET', key, 'state', 'steps')
if not record[1] then
  return 'record.missing'
end
if not TERMINAL[record[1]] then
  return 'task.not_finished'
end
for n, step in ipairs(cjson.decode(record[2])) do
  local found = redis.call('HMGET', key, n .. ':error', n .. ':attempt')
  if found[1] then
    -- A message of somebody's own code may hold anything.
    local error = {code = cjson.decode(found[1]).code, message = 'erased'}
    redis.call('HSET', key, n .. ':error', cjson.encode(error))
  end
  redis.call('HDEL', key, n .. ':message', n .. ':result', n .. ':progress')
  -- Its dead letter holds the input.
  leases_discard(broker, step.queue, step.id .. ':' .. (found[2] or 0) .. ':0')
end
redis.call('HDEL', key, 'user_id', 'notify', 'metadata', 'subscriptions', 'headers', 'callback_url', 'upload', 'upload_sha256')
redis.call('HSET', key, 'erased_at', string.format('%.0f', now_ms()))
return 'erased'
