--- @include offload_core/lua/lifecycle.lua
-- Stores how a step ended, and with the last one, or one that failed, the task.
-- ARGV: prefix, broker prefix, task id, step, attempt, delivery, state, result or error, keep_ms, the trace context of
--       what the task's end publishes, or ''.
-- Returns 'stored', or what `refusal` says. Events: the step's state; with the task's end those of `end_task`.
local prefix, broker, task_id, n, state = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[7]
local key = record_key(prefix, task_id)
local refused = refusal(key, n, tonumber(ARGV[5]), tonumber(ARGV[6]))
if refused then
  return refused
end
-- Before anything is written.
local error = state ~= 'SUCCESS' and cjson.decode(ARGV[8]) or nil
local record = redis.call('HMGET', key, 'count', 'cancel_requested')
local now, count = now_ms(), tonumber(record[1])
end_step(prefix, task_id, n, state, now, n .. (state == 'SUCCESS' and ':result' or ':error'), ARGV[8])
if n < count and record[2] then
  end_task(prefix, broker, task_id, n + 1, count, 'REVOKED', 'task.cancelled', now, ARGV[9], nil, ARGV[10])
elseif state ~= 'SUCCESS' then
  end_task(prefix, broker, task_id, n + 1, count, state, 'previous_step_failed', now, ARGV[9], error, ARGV[10])
elseif n == count then
  end_task(prefix, broker, task_id, n + 1, count, state, '', now, ARGV[9], nil, ARGV[10])
end
return 'stored'
