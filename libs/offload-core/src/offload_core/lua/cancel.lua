--- @include offload_core/lua/lifecycle.lua
--- @include celery_leases/scripts/withdraw.lua
-- Cancels a task.
-- ARGV: the request as JSON: prefix, broker_prefix, task_id, keep_ms.
-- Returns 'record.missing', 'finished', 'revoked' (its message was taken away), 'requested' (at the end of the step).
-- Events: those of the task's end, or task CANCEL_REQUESTED.
local request = cjson.decode(ARGV[1])
local prefix, broker, task_id = request.prefix, request.broker_prefix, request.task_id
local key = record_key(prefix, task_id)
local record = redis.call('HMGET', key, 'state', 'count', 'steps')
if not record[1] then
  return 'record.missing'
end
if TERMINAL[record[1]] then
  return 'finished'
end
local steps, count = cjson.decode(record[3]), tonumber(record[2])
for n = 1, count do
  local step = redis.call('HMGET', key, n .. ':state', n .. ':attempt')
  if not TERMINAL[step[1]] then
    local attempt = tonumber(step[2] or 0)
    local id = n == 1 and task_id or task_id .. '.' .. n
    -- While a retry waits its message carries the next attempt; the current one may still be on its way out.
    local taken = leases_withdraw(broker, steps[n].queue, id .. ':' .. attempt .. ':0')
    if step[1] == 'RETRY' then
      taken = leases_withdraw(broker, steps[n].queue, id .. ':' .. (attempt + 1) .. ':0')
    end
    if taken == 1 then
      end_task(prefix, broker, task_id, n, count, 'REVOKED', 'task.cancelled', now_ms(), request.keep_ms)
      return 'revoked'
    end
    break
  end
end
redis.call('HSET', key, 'cancel_requested', 1)
emit(prefix, task_id, 'task', '', 'CANCEL_REQUESTED')
return 'requested'
