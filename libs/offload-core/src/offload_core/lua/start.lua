--- @include offload_core/lua/stages.lua
-- The gate: may this run of a step begin?
-- ARGV: prefix, broker prefix, task id, step, attempt, delivery, worker, result of the step before or '', keep_ms, the
--       trace context of what is published, or ''.
-- Returns 'run:', the attempt that the retries are counted from, ':', and the steps that finishing this stage publishes,
-- as JSON ('-' where a Celery chain does that); or why not: 'cancelled', 'expired', or what `refusal` says.
-- Events: task.started, step.started, and step.succeeded of the step before where its run did not come to say so; those of
-- the task's end.
local prefix, broker, task_id, n = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local attempt, delivery, keep_ms, traceparent = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[9], ARGV[10]
event_trace = traceparent
local key = record_key(prefix, task_id)
local refused = refusal(key, n, attempt, delivery)
if refused then
  return refused
end
local record = redis.call('HMGET', key, 'steps', 'cancel_requested', (n - 1) .. ':state', n .. ':first_attempt',
  n .. ':started_at', 'expires_at', 'adopted', 'state')
local steps, now = cjson.decode(record[1]), now_ms()
if not steps[n] then
  return 'record.missing'
end
local stage = stage_of(steps, n)
if n > 1 and stage_of(steps, n - 1) < stage and not TERMINAL[record[3]] then
  end_step(prefix, task_id, steps, n - 1, 'SUCCESS', now, ARGV[8])
end
if record[2] then
  withdraw_stage(prefix, broker, task_id, steps, stage, 'task.cancelled')
  end_task(prefix, broker, task_id, steps, n, 'REVOKED', 'task.cancelled', now, keep_ms, nil, traceparent)
  return 'cancelled'
end
if record[6] and not record[5] then
  if stage == 1 and tonumber(record[6]) <= now then
    expire_task(prefix, broker, task_id, steps, n, now, keep_ms, traceparent)
    return 'expired'
  end
  redis.call('ZREM', prefix .. 'expiring', task_id)
end
set_state(prefix, task_id, 'STARTED', n .. ':state', 'STARTED', n .. ':attempt', attempt, n .. ':delivery', delivery,
  n .. ':worker', ARGV[7])
redis.call('HSETNX', key, n .. ':started_at', now)
if record[8] == 'PENDING' then
  emit(prefix, task_id, 'task.started', {})
elseif record[8] == 'RETRY' then
  redis.call('HDEL', key, 'reason')
end
emit(prefix, task_id, 'step.started', {step = step_data(prefix, task_id, steps, n)})
if record[7] and traceparent ~= '' then
  -- Its publisher may have no traces of its own.
  redis.call('HSETNX', key, 'trace_id', string.match(traceparent, '^%w+-(%w+)-'))
end
if not steps[n].stage then
  return 'run:' .. (record[4] or 0) .. ':-'
end
local following = {}
for later = n + 1, #steps do
  if stage_of(steps, later) == stage + 1 then
    following[#following + 1] = {name = steps[later].name, queue = steps[later].queue, id = steps[later].id}
  end
end
return 'run:' .. (record[4] or 0) .. ':' .. (#following > 0 and cjson.encode(following) or '')
