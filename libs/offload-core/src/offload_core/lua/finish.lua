--- @include offload_core/lua/stages.lua
-- Stores how a step ended. With the last step of a stage the next stage is published; with the last one, or one that
-- failed, the task ends.
-- ARGV: prefix, broker prefix, task id, step, attempt, delivery (BURIED: the broker has given its message up), state,
--       result or error, keep_ms, the trace context of what is published, or ''.
-- Returns 'stored', or what `refusal` says. Events: step.succeeded or step.failed; of a buried message task.dead_lettered;
-- with the task's end those of `end_task`.
local BURIED = 2147483648 -- offload_core.records.BURIED
local prefix, broker, task_id, n, state = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[7]
local keep_ms, traceparent = ARGV[9], ARGV[10]
event_trace = traceparent
local key = record_key(prefix, task_id)
local refused = refusal(key, n, tonumber(ARGV[5]), tonumber(ARGV[6]))
if refused then
  return refused
end
-- Before anything is written.
local error = state ~= 'SUCCESS' and cjson.decode(ARGV[8]) or nil
local record = redis.call('HMGET', key, 'steps', 'cancel_requested')
local steps, now = cjson.decode(record[1]), now_ms()
local stage = stage_of(steps, n)
end_step(prefix, task_id, steps, n, state, now, ARGV[8], error and error.code)
if tonumber(ARGV[6]) == BURIED then
  emit(prefix, task_id, 'task.dead_lettered', {reason = error.code, step = step_data(prefix, task_id, steps, n)})
end
local is_last = stage == stage_of(steps, #steps)
if state == 'SUCCESS' and is_last and is_complete(key, steps, stage) then
  end_task(prefix, broker, task_id, steps, n, state, '', now, keep_ms, nil, traceparent)
elseif record[2] and first_open(key, steps) then
  if withdraw_stage(prefix, broker, task_id, steps, stage, 'task.cancelled') == 0 then
    end_task(prefix, broker, task_id, steps, n, 'REVOKED', 'task.cancelled', now, keep_ms, nil, traceparent)
  end
elseif state ~= 'SUCCESS' then
  withdraw_stage(prefix, broker, task_id, steps, stage, 'previous_step_failed')
  end_task(prefix, broker, task_id, steps, n, state, 'previous_step_failed', now, keep_ms, error, traceparent)
elseif steps[n].stage and not is_last and is_complete(key, steps, stage) then
  publish_stage(prefix, broker, task_id, steps, stage + 1, traceparent)
end
return 'stored'
