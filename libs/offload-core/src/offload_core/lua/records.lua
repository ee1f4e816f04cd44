-- A task's record: one hash, changed by scripts only. What is terminal stays terminal.
-- Fields of the task: kind owner user_id created_at state steps notify trace_id parent_task_id cancel_requested
-- finished_at idempotency_key retain_ms redrives. Fields of step n: "n:state", "n:attempt", "n:delivery", "n:started_at",
-- "n:ended_at", "n:worker", "n:result", "n:error", "n:progress", "n:retry_at", "n:first_attempt" (since it was redriven).

local TERMINAL = {SUCCESS = true, FAILURE = true, REVOKED = true}

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function record_key(prefix, task_id)
  return prefix .. 'task:' .. task_id
end

local function emit(prefix, task_id, kind, step, data)
  redis.call('XADD', prefix .. 'events:' .. task_id, 'MAXLEN', '~', 1000, '*', 'type', kind, 'step', step, 'data', data)
end

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

local function end_step(prefix, task_id, n, state, now, ...)
  redis.call('HSET', record_key(prefix, task_id), n .. ':state', state, n .. ':ended_at', now, ...)
  emit(prefix, task_id, 'step', n, state)
end

-- Ends a task: the only way to do so. The steps from n on never ran, for this reason. The record and its events live
-- for keep_ms from now on, the idempotency key a day at least, and what is left of the task as long as its outputs and
-- that key.
local function end_task(prefix, task_id, n, count, state, reason, now, keep_ms)
  local key = record_key(prefix, task_id)
  for later = n, count do
    if not TERMINAL[redis.call('HGET', key, later .. ':state')] then
      end_step(prefix, task_id, later, 'REVOKED', now, later .. ':error', cjson.encode({code = reason}))
    end
  end
  redis.call('HSET', key, 'state', state, 'finished_at', now)
  redis.call('PEXPIRE', key, keep_ms)
  emit(prefix, task_id, 'task', '', state)
  redis.call('PEXPIRE', prefix .. 'events:' .. task_id, keep_ms)
  local ends = redis.call('HMGET', key, 'idempotency_key', 'created_at', 'kind', 'retain_ms')
  local live_ms = tonumber(ends[4] or 0)
  -- The daily report counts what ended on a day (UTC), long after the records are gone.
  local figures = prefix .. 'figures:' .. string.format('%d', math.floor(now / 86400000))
  redis.call('HINCRBY', figures, (ends[3] or '') .. ':' .. state, 1)
  redis.call('PEXPIRE', figures, 8 * 86400000)
  if ends[1] then
    local day_ends = tonumber(ends[2] or now) + 86400000 - now
    local key_ms = math.max(day_ends, tonumber(keep_ms))
    redis.call('PEXPIRE', ends[1], string.format('%.0f', key_ms))
    live_ms = math.max(live_ms, key_ms)
  end
  if live_ms > tonumber(keep_ms) then
    leave_outcome(prefix, task_id, state, now, live_ms)
  end
end

-- Why a run of a step may not speak: 'record.missing', 'ended', or 'fenced' when a later run has spoken, which is one
-- of a higher attempt, or of the same attempt's higher delivery. Nil when it may.
local function refusal(key, n, attempt, delivery)
  local found = redis.call('HMGET', key, 'state', n .. ':state', n .. ':attempt', n .. ':delivery')
  if not found[1] then
    return 'record.missing'
  end
  if TERMINAL[found[1]] or TERMINAL[found[2]] then
    return 'ended'
  end
  local last_attempt, last_delivery = tonumber(found[3] or 0), tonumber(found[4] or 0)
  if attempt < last_attempt or (attempt == last_attempt and delivery < last_delivery) then
    return 'fenced'
  end
end

local function create_record(prefix, task_id, fields, count)
  local key = record_key(prefix, task_id)
  redis.call('HSET', key, unpack(fields))
  redis.call('HSET', key, 'state', 'PENDING', 'created_at', string.format('%.0f', now_ms()), 'count', count)
  emit(prefix, task_id, 'task', '', 'PENDING')
end
