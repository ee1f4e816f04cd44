--- @include offload_core/lua/records.lua
--- @include celery_leases/scripts/publish.lua
-- Stores how a step ended, and with the last one the task; a notification of a FAILURE is published with it.
-- ARGV: prefix, task id, step, attempt, delivery, state, result or error, keep_ms, then '' or the notification, a task
--       of one step, as JSON: {task_id, fields, broker_prefix, queue, message_key, message}.
-- Returns 'stored', or what `refusal` says.
local prefix, task_id, n, state = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[6]
local key = record_key(prefix, task_id)
local refused = refusal(key, n, tonumber(ARGV[4]), tonumber(ARGV[5]))
if refused then
  return refused
end
local record = redis.call('HMGET', key, 'count', 'cancel_requested')
local now, count = now_ms(), tonumber(record[1])
end_step(prefix, task_id, n, state, now, n .. (state == 'SUCCESS' and ':result' or ':error'), ARGV[7])
if n < count and record[2] then
  end_task(prefix, task_id, n + 1, count, 'REVOKED', 'task.cancelled', now, ARGV[8])
elseif state ~= 'SUCCESS' then
  end_task(prefix, task_id, n + 1, count, state, 'previous_step_failed', now, ARGV[8])
  local notification = ARGV[9] ~= '' and cjson.decode(ARGV[9])
  if notification and redis.call('EXISTS', record_key(prefix, notification.task_id)) == 0 then
    create_record(prefix, notification.task_id, notification.fields, 1)
    leases_publish(notification.broker_prefix, notification.queue, notification.message_key, notification.message, 0, 0)
  end
elseif n == count then
  end_task(prefix, task_id, n + 1, count, state, '', now, ARGV[8])
end
return 'stored'
