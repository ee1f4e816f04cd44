--- @include offload_core/lua/lifecycle.lua
-- The gate: may this run of a step begin?
-- ARGV: prefix, broker prefix, task id, step, attempt, delivery, worker, result of the step before or '', keep_ms.
-- Returns 'run:' and the attempt that the retries are counted from, or why not: 'cancelled', or what `refusal` says.
-- Events: step STARTED, and SUCCESS of the step before where its run did not come to say so; those of the task's end.
local prefix, broker, task_id, n = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local attempt, delivery = tonumber(ARGV[5]), tonumber(ARGV[6])
local key = record_key(prefix, task_id)
local refused = refusal(key, n, attempt, delivery)
if refused then
  return refused
end
local record = redis.call('HMGET', key, 'count', 'cancel_requested', (n - 1) .. ':state', n .. ':first_attempt')
local now = now_ms()
if n > 1 and not TERMINAL[record[3]] then
  end_step(prefix, task_id, n - 1, 'SUCCESS', now, (n - 1) .. ':result', ARGV[8])
end
if record[2] then
  end_task(prefix, broker, task_id, n, tonumber(record[1]), 'REVOKED', 'task.cancelled', now, ARGV[9])
  return 'cancelled'
end
redis.call('HSET', key, 'state', 'STARTED', n .. ':state', 'STARTED', n .. ':attempt', attempt,
  n .. ':delivery', delivery, n .. ':worker', ARGV[7])
redis.call('HSETNX', key, n .. ':started_at', now)
emit(prefix, task_id, 'step', n, 'STARTED')
return 'run:' .. (record[4] or 0)
