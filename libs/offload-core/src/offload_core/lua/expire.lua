--- @include offload_core/lua/stages.lua
-- Ends tasks that were not started in time, also when no worker runs that could find it out.
-- ARGV: the request as JSON: prefix, broker_prefix, keep_ms, limit.
-- Returns how many it has ended. Events: those of the tasks' ends.
local request = cjson.decode(ARGV[1])
local prefix, broker = request.prefix, request.broker_prefix
local now, ended = now_ms(), 0
local due = redis.call('ZRANGEBYSCORE', prefix .. 'expiring', 0, now, 'LIMIT', 0, request.limit)
for _, task_id in ipairs(due) do
  local key = record_key(prefix, task_id)
  local record = redis.call('HMGET', key, 'state', 'steps')
  local steps = record[2] and cjson.decode(record[2]) or {}
  local is_waiting = record[1] and not TERMINAL[record[1]]
  for n = 1, #steps do
    is_waiting = is_waiting and redis.call('HEXISTS', key, n .. ':started_at') == 0
  end
  if not is_waiting then
    redis.call('ZREM', prefix .. 'expiring', task_id)
  -- What a worker has taken a moment ago its own start ends; or the next look, if the worker dies before.
  elseif withdraw_stage(prefix, broker, task_id, steps, 1, 'task.expired', 1) == 0 then
    expire_task(prefix, broker, task_id, steps, 1, now, request.keep_ms, '')
    ended = ended + 1
  end
end
return ended
