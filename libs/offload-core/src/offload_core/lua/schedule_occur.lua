--- @include offload_core/lua/cancel_task.lua
-- Does what is to be done about one occurrence of a schedule, once: whoever comes second finds that it has changed.
-- ARGV: the request as JSON: prefix, broker_prefix, keep_ms, owner, name, revision, since (what the schedule was when it
--       was looked at), missed (occurrences before this one that are not run), missed_until (the last of them),
--       occurrence (ms, or null: only those were found), due (ms: when it is looked at next, or null), overlap,
--       buffer_limit, max_runs (or null), task (or null: id, count, fields, expires_at, messages),
--       is_buffered (it is the first that waits).
-- Returns 'published', 'skipped', 'buffered', 'noted' or 'changed'. Events: task.accepted, those of a task that is
-- cancelled, schedule.missed.
local request = cjson.decode(ARGV[1])
local prefix, owner, name, task = request.prefix, request.owner, request.name, request.task
local key = schedule_key(prefix, owner, name)
local found = redis.call('HMGET', key, 'revision', 'since', 'paused', 'last_task_id', 'buffer', 'finished_at', 'runs')
if tonumber(found[1] or 0) ~= request.revision or tonumber(found[2]) ~= request.since or found[3] or found[6] then
  return 'changed'
end
-- A change may ask for fewer runs than there were.
if request.max_runs ~= cjson.null and tonumber(found[7] or 0) >= request.max_runs then
  redis.call('HSET', key, 'finished_at', string.format('%.0f', now_ms()))
  look_at(prefix, owner, name, nil)
  return 'noted'
end
local buffer = cjson.decode(found[5] or '[]')
if request.is_buffered and buffer[1] ~= request.occurrence then
  return 'changed'
end
local now = now_ms()
if request.missed > 0 then
  redis.call('HINCRBY', key, 'missed', request.missed)
  local event, member = 'schedule.missed', owner .. ':' .. name
  local text = cjson.encode({schedule = name, missed = request.missed, until_ms = request.missed_until})
  local entry = emit_to(prefix, owner, '', event, text)
  publish_webhooks(prefix, {source = member, owner = owner, entry = entry, type = event, data = text})
end
local since = request.missed_until
if request.occurrence ~= cjson.null and not request.is_buffered then
  since = request.occurrence
end
redis.call('HSET', key, 'since', string.format('%.0f', since))

-- Whether the last task of it has not ended.
local function is_running()
  local last = redis.call('HGET', key, 'last_task_id')
  local state = last and redis.call('HGET', record_key(prefix, last), 'state')
  return state and not TERMINAL[state]
end

local function decide()
  if request.occurrence == cjson.null then
    return 'noted'
  end
  local is_busy = is_running()
  if request.is_buffered then
    return is_busy and 'buffered' or 'published'
  elseif request.overlap == 'allow' or not (is_busy or #buffer > 0) then
    return 'published'
  elseif request.overlap == 'cancel_running' then
    if is_busy then
      cancel_task(prefix, request.broker_prefix, found[4], request.keep_ms)
    end
    return 'published'
  elseif request.overlap ~= 'skip' and #buffer < request.buffer_limit then
    buffer[#buffer + 1] = request.occurrence
    return 'buffered'
  end
  redis.call('HINCRBY', key, 'skipped', 1)
  return 'skipped'
end

local outcome, due = decide(), request.due
if outcome == 'published' then
  if request.is_buffered then
    table.remove(buffer, 1)
  end
  -- The same occurrence may have been published by a backfill.
  if redis.call('EXISTS', record_key(prefix, task.id)) == 0 then
    put_task(prefix, request.broker_prefix, task.id, task.fields, task.count, task.expires_at, task.messages, 0)
  end
  redis.call('HSET', key, 'last_task_id', task.id, 'last_at', string.format('%.0f', request.occurrence))
  local runs = redis.call('HINCRBY', key, 'runs', 1)
  if request.max_runs ~= cjson.null and runs >= request.max_runs then
    redis.call('HSET', key, 'finished_at', string.format('%.0f', now))
    due, buffer = nil, {}
  end
end
redis.call('HSET', key, 'buffer', #buffer > 0 and cjson.encode(buffer) or '[]')
if (not due or due == cjson.null) and #buffer == 0 then
  redis.call('HSETNX', key, 'finished_at', string.format('%.0f', now))
end
-- What waits is not told of an end that was before it.
look_at(prefix, owner, name, #buffer > 0 and not is_running() and now or due)
return outcome
