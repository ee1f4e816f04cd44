-- Schedules: a hash each, and a list of when each is looked at next. `states.lua` tells them of the ends of their tasks.
-- Fields of a schedule: definition (JSON) revision created_at updated_at paused note since (the last occurrence that is
-- done with) last_task_id last_at runs skipped missed finished_at buffer (JSON: occurrences that wait).

local function schedule_key(prefix, owner, name)
  return prefix .. 'schedule:' .. owner .. ':' .. name
end

-- By when (ms) they are looked at.
local function schedules_key(prefix)
  return prefix .. 'schedules'
end

-- All of an owner, or of all owners (''), by creation.
local function schedules_of_key(prefix, owner)
  return prefix .. 'schedules-of:' .. owner
end

-- `due` is nil, or null, when none comes any more.
local function look_at(prefix, owner, name, due)
  local member = owner .. ':' .. name
  if due and due ~= cjson.null then
    redis.call('ZADD', schedules_key(prefix), string.format('%.0f', due), member)
  else
    redis.call('ZREM', schedules_key(prefix), member)
  end
end

-- One of its tasks has ended: what waits for that is published at the next look, and a failure may pause it.
local function tell_schedule(prefix, owner, name, event)
  local key = schedule_key(prefix, owner, name)
  local found = redis.call('HMGET', key, 'definition', 'buffer', 'paused')
  if not found[1] then
    return
  end
  if event == 'task.failed' and not found[3] and cjson.decode(found[1]).pause_on_failure then
    redis.call('HSET', key, 'paused', 1, 'note', 'paused because a task of it failed')
    redis.call('HINCRBY', key, 'revision', 1)
    look_at(prefix, owner, name, nil)
  elseif found[2] and found[2] ~= '[]' and not found[3] then
    look_at(prefix, owner, name, 0)
  end
end
