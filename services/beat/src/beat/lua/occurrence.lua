--- @include offload_core/lua/states.lua
--- @include celery_leases/scripts/publish.lua
-- Publishes one occurrence of a schedule, once.
-- ARGV: the request as JSON: prefix, broker_prefix, schedule, occurrence (ms), grace_ms, task_id, queue, message_key,
--       message, and fields, the record's.
-- Returns 'published', 'done' (this occurrence or a later one was before), 'early', 'late' (past its grace),
-- 'recovered'. A last occurrence that lies in the future was published while Redis's clock was ahead. Waiting for it
-- would stop the schedule for as long as the clock was ahead: the occurrence before it counts instead, and what is
-- published is 'recovered'. Events: task.accepted.
local request = cjson.decode(ARGV[1])
local prefix, schedule, occurrence = request.prefix, request.schedule, request.occurrence
local now = now_ms()
if occurrence > now then
  return 'early'
end
local occurrences = prefix .. 'slots'
local last = tonumber(redis.call('HGET', occurrences, schedule) or 0)
local outcome = 'published'
if last > now then
  local before = tonumber(redis.call('HGET', occurrences, schedule .. ':before') or 0)
  last, outcome = before <= now and before or occurrence - 1, 'recovered'
end
if last >= occurrence then
  return 'done'
end
if now - occurrence > request.grace_ms then
  return 'late'
end
redis.call('HSET', occurrences, schedule, string.format('%.0f', occurrence), schedule .. ':before',
  string.format('%.0f', last))
if redis.call('EXISTS', record_key(prefix, request.task_id)) == 0 then
  local messages = {{request.queue, request.message_key, request.message}}
  put_task(prefix, request.broker_prefix, request.task_id, request.fields, 1, 0, messages, 0)
end
return outcome
