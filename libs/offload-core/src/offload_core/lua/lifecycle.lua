--- @include offload_core/lua/outbox.lua
-- How a task ends.

-- What is left of a task when its record is gone, for as long as something leads to it: its outputs, or its
-- idempotency key.
local function ended_key(prefix, task_id)
  return prefix .. 'ended:' .. task_id
end

local function leave_outcome(prefix, task_id, state, now, live_ms)
  local found = redis.call('HMGET', record_key(prefix, task_id), 'owner', 'kind', 'created_at', 'trace_id')
  local key = ended_key(prefix, task_id)
  redis.call('HSET', key, 'owner', found[1] or '', 'kind', found[2] or '', 'created_at', found[3] or now, 'state', state,
    'finished_at', now, 'trace_id', found[4] or '')
  redis.call('PEXPIRE', key, string.format('%.0f', live_ms))
end

-- What a task gives, as JSON: the result of its last step, or the list of those of its last branches.
local function result_of(key, steps)
  local last, results = steps[#steps].stage or #steps, {}
  for n = 1, #steps do
    if (steps[n].stage or n) == last then
      results[#results + 1] = redis.call('HGET', key, n .. ':result') or 'null'
    end
  end
  return #results == 1 and results[1] or '[' .. table.concat(results, ', ') .. ']'
end

-- Ends a task with its step n: the only way to do so. What has not ended never will, for this reason; `error` (a table
-- with `code` and `message`) is what ended it, if an error did. What its subscriptions ask for is published. The record
-- and its events live for keep_ms from now on, the idempotency key until a day after the task could start, or as long as
-- its client has said, and what is left of the task as long as its outputs and that key. Events: task.succeeded, task.failed or task.cancelled, and task.accepted of what is
-- published.
local function end_task(prefix, broker, task_id, steps, n, state, reason, now, keep_ms, error, traceparent)
  local key = record_key(prefix, task_id)
  for other = 1, #steps do
    if not TERMINAL[redis.call('HGET', key, other .. ':state')] then
      end_step(prefix, task_id, steps, other, 'REVOKED', now, cjson.encode({code = reason}))
    end
  end
  if state == 'SUCCESS' then
    set_state(prefix, task_id, state, 'finished_at', now)
    redis.call('HDEL', key, 'reason')
    emit(prefix, task_id, 'task.succeeded', {}, function() return result_of(key, steps) end)
  else
    local code = error and error.code or reason
    set_state(prefix, task_id, state, 'finished_at', now, 'reason', code)
    local event = state == 'FAILURE' and 'task.failed' or 'task.cancelled'
    emit(prefix, task_id, event, {reason = code, step = step_data(prefix, task_id, steps, n)})
  end
  expire_record(prefix, task_id, keep_ms)
  local ends = redis.call('HMGET', key, 'idempotency_key', 'created_at', 'kind', 'retain_ms', 'due_at',
    'idempotency_ttl_ms')
  local live_ms = tonumber(ends[4] or 0)
  -- The daily report counts what ended on a day (UTC), long after the records are gone.
  local figures = prefix .. 'figures:' .. string.format('%d', math.floor(now / 86400000))
  redis.call('HINCRBY', figures, (ends[3] or '') .. ':' .. state, 1)
  redis.call('PEXPIRE', figures, 8 * 86400000)
  if ends[1] then
    local key_ms = redis.call('PTTL', ends[1])
    if not ends[6] then
      local day_ends = math.max(tonumber(ends[2] or now), tonumber(ends[5] or 0)) + 86400000 - now
      key_ms = math.max(day_ends, tonumber(keep_ms))
      redis.call('PEXPIRE', ends[1], string.format('%.0f', key_ms))
    end
    live_ms = math.max(live_ms, key_ms)
  end
  if live_ms > tonumber(keep_ms) then
    leave_outcome(prefix, task_id, state, now, live_ms)
  end
  publish_outbox(prefix, broker, task_id, steps, n, state, error or {code = reason, message = ''}, traceparent or '')
end
