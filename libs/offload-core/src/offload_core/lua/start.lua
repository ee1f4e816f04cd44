--- @include offload_core/lua/records.lua
-- The gate: may this run of a step begin?
-- ARGV: prefix, task id, step, attempt, delivery, worker, result of the step before or '', keep_ms.
-- Returns 'run:' and the attempt that the retries are counted from, or why not: 'record.missing', 'ended', 'cancelled',
-- 'stale'.
local prefix, task_id, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local attempt, delivery = tonumber(ARGV[4]), tonumber(ARGV[5])
local key = record_key(prefix, task_id)
local record = redis.call('HMGET', key, 'state', 'count', 'cancel_requested', n .. ':state', (n - 1) .. ':state',
  n .. ':first_attempt')
if not record[1] then
  return 'record.missing'
end
if TERMINAL[record[1]] or TERMINAL[record[4]] then
  return 'ended'
end
if is_stale(key, n, attempt, delivery) then
  return 'stale'
end
local now = now_ms()
if n > 1 and not TERMINAL[record[5]] then
  end_step(prefix, task_id, n - 1, 'SUCCESS', now, (n - 1) .. ':result', ARGV[7])
end
if record[3] then
  revoke_steps(prefix, task_id, n, tonumber(record[2]), now, 'task.cancelled')
  end_task(prefix, task_id, 'REVOKED', now, ARGV[8])
  return 'cancelled'
end
redis.call('HSET', key, 'state', 'STARTED', n .. ':state', 'STARTED', n .. ':attempt', attempt,
  n .. ':delivery', delivery, n .. ':worker', ARGV[6])
redis.call('HSETNX', key, n .. ':started_at', now)
emit(prefix, task_id, 'step', n, 'STARTED')
return 'run:' .. (record[6] or 0)
