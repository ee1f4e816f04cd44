--- @include offload_core/lua/records.lua
--- @include celery_leases/scripts/publish.lua
-- Stores how a step ended.
-- ARGV: prefix, task id, step, attempt, delivery, state, result or error, keep_ms, then for a FAILURE that is to be told:
--       broker prefix, queue, message key, message, the notification's id and its record's fields.
-- Returns 'stored', 'ended' (it was terminal before), 'fenced' (a newer run speaks), 'record.missing'.
local prefix, task_id, n, state = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[6]
local key = record_key(prefix, task_id)
local record = redis.call('HMGET', key, 'state', 'count', 'cancel_requested', n .. ':state')
if not record[1] then
  return 'record.missing'
end
if TERMINAL[record[4]] or TERMINAL[record[1]] then
  return 'ended'
end
if is_stale(key, n, tonumber(ARGV[4]), tonumber(ARGV[5])) then
  return 'fenced'
end
local now, count = now_ms(), tonumber(record[2])
if state == 'SUCCESS' then
  end_step(prefix, task_id, n, state, now, n .. ':result', ARGV[7])
else
  end_step(prefix, task_id, n, state, now, n .. ':error', ARGV[7])
end
if n < count and record[3] then
  revoke_steps(prefix, task_id, n + 1, count, now, 'task.cancelled')
  end_task(prefix, task_id, 'REVOKED', now, ARGV[8])
  return 'stored'
end
if state == 'SUCCESS' then
  if n == count then
    end_task(prefix, task_id, state, now, ARGV[8])
  end
  return 'stored'
end
revoke_steps(prefix, task_id, n + 1, count, now, 'previous_step_failed')
end_task(prefix, task_id, state, now, ARGV[8])
if ARGV[9] and redis.call('EXISTS', record_key(prefix, ARGV[13])) == 0 then
  local fields = {}
  for i = 14, #ARGV do
    fields[#fields + 1] = ARGV[i]
  end
  create_record(prefix, ARGV[13], fields, 1)
  leases_publish(ARGV[9], ARGV[10], ARGV[11], ARGV[12], 0, 0)
end
return 'stored'
