--- @include offload_core/lua/stages.lua
-- Cancels a task. Returns 'record.missing', 'finished', 'revoked' (nothing of it ran), 'requested' (at the end of what
-- runs). Events: those of the task's end.
local function cancel_task(prefix, broker, task_id, keep_ms)
  local key = record_key(prefix, task_id)
  local record = redis.call('HMGET', key, 'state', 'steps', 'adopted')
  if not record[1] then
    return 'record.missing'
  end
  if TERMINAL[record[1]] then
    return 'finished'
  end
  local steps = cjson.decode(record[2])
  local first = first_open(key, steps)
  -- Where an adopted application keeps its own results only its worker can tell them: the message stays, and says so.
  if not record[3] and withdraw_stage(prefix, broker, task_id, steps, stage_of(steps, first), 'task.cancelled') == 0 then
    end_task(prefix, broker, task_id, steps, first, 'REVOKED', 'task.cancelled', now_ms(), keep_ms)
    return 'revoked'
  end
  redis.call('HSET', key, 'cancel_requested', 1)
  return 'requested'
end
