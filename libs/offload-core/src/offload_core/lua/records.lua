-- A task's record: one hash, changed by scripts only. What is terminal stays terminal.
-- Fields of the task: kind owner user_id created_at state reason (of RETRY, FAILURE and REVOKED) steps notify subscriptions
-- trace_id parent_task_id batch schedule callback_url cancel_requested finished_at idempotency_key idempotency_ttl_ms retain_ms redrives due_at expires_at tags metadata
-- adopted erased_at headers (of later steps' messages). Fields of step n: "n:message" (of a later stage), "n:state", "n:attempt", "n:delivery", "n:started_at",
-- "n:ended_at", "n:worker", "n:result", "n:error", "n:progress", "n:progressed_at" (of the last event), "n:retry_at",
-- "n:first_attempt" (since it was redriven).

local TERMINAL = {SUCCESS = true, FAILURE = true, REVOKED = true}

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function record_key(prefix, task_id)
  return prefix .. 'task:' .. task_id
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

-- Which step of which task a Celery id is: those of an adopted application say it by a key of their own.
local function step_key(prefix, celery_id)
  return prefix .. 'step:' .. celery_id
end

local function step_of(prefix, celery_id)
  local task_id, n = string.match(redis.call('GET', step_key(prefix, celery_id)) or '', '^(.*) (%d+)$')
  if not task_id then
    task_id, n = string.match(celery_id, '^(.*)%.(%d+)$')
  end
  return task_id or celery_id, tonumber(n or 1)
end

-- Appends an event to a stream that keeps as many, roughly; returns its id there.
local function append_event(key, limit, event, text)
  return redis.call('XADD', key, 'MAXLEN', '~', limit, '*', 'type', event, 'data', text)
end

-- The keys that live as long as a task's record.
local function record_keys(prefix, task_id)
  local found = {record_key(prefix, task_id), prefix .. 'events:' .. task_id}
  local record = redis.call('HMGET', found[1], 'adopted', 'steps')
  if record[1] then
    for _, step in ipairs(cjson.decode(record[2])) do
      found[#found + 1] = step_key(prefix, step.id)
    end
  end
  return found
end
