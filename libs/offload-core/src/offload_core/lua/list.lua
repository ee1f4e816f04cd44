--- @include offload_core/lua/states.lua
-- Finds tasks in the order of their creation, those of one owner or all ('').
-- ARGV: the request as JSON: prefix, owner, states (a list), direction ('older' or 'newer' than the place `from`), from
--       (created_at in ms and task id, or null: the newest), after and before (ms; created between the two, 0: any),
--       task, queue, error_code, trace_id, batch, schedule ('': any), tags (lists, of each of which a task has at least
--       one), fields (of the record), limit, examine (at most so many).
-- Returns the number of tasks that were examined, 1 when none is left, the place of the last one that was examined
-- (created_at, task id), and of each task that was found its id and its fields.
local request = cjson.decode(ARGV[1])
local prefix, is_older = request.prefix, request.direction == 'older'
local from = request.from ~= cjson.null and request.from or nil
local PIECE = 100

-- Whether one entry comes before another of the same millisecond, as Redis orders them: by bytes.
local function precedes(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = one:byte(i), other:byte(i)
    if a ~= b then
      return (a > b) == is_older
    end
  end
  return (#one > #other) == is_older
end

-- Whether an entry comes before another one in the direction asked for.
local function is_nearer(one, other)
  if one.at ~= other.at then
    return (one.at > other.at) == is_older
  end
  return precedes(one.id, other.id)
end

-- The entry that a walk stands on; nil at its end.
local function head(walk)
  if walk.position > #walk.piece then
    local command = is_older and 'ZREVRANGE' or 'ZRANGE'
    walk.piece = redis.call(command, walk.key, walk.rank, walk.rank + PIECE - 1, 'WITHSCORES')
    walk.rank, walk.position = walk.rank + PIECE, 1
  end
  local id, at = walk.piece[walk.position], tonumber(walk.piece[walk.position + 1])
  if not id or (is_older and at <= request.after) or (not is_older and request.before > 0 and at >= request.before) then
    return nil
  end
  return {id = id, at = at}
end

-- How many entries of a list stand before the place and the bound, and are not asked for.
local function rank_of_first(key)
  local bound = is_older and request.before or request.after
  local low, high = is_older and string.format('%.0f', bound) or '-inf', is_older and '+inf' or string.format('%.0f', bound)
  local skipped = bound > 0 and redis.call('ZCOUNT', key, low, high) or 0
  if not from then
    return skipped
  end
  local at = string.format('%.0f', from[1])
  local rank = redis.call(is_older and 'ZREVRANK' or 'ZRANK', key, from[2])
  if rank then
    return math.max(skipped, rank + 1)
  end
  -- The task of the place has moved to another list.
  rank = redis.call('ZCOUNT', key, is_older and '(' .. at or '-inf', is_older and '+inf' or '(' .. at)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, at, at)) do
    if precedes(id, from[2]) then
      rank = rank + 1
    end
  end
  return math.max(skipped, rank)
end

local function has_step(text, name, value)
  if value == '' then
    return true
  end
  if not text:find(value, 1, true) then
    return false
  end
  for _, step in ipairs(cjson.decode(text)) do
    if step[name] == value then
      return true
    end
  end
  return false
end

local function has_tags(text)
  if #request.tags == 0 then
    return true
  end
  local tags = {}
  for _, tag in ipairs(text and cjson.decode(text) or {}) do
    tags[tag] = true
  end
  for _, any in ipairs(request.tags) do
    local has_one = false
    for _, tag in ipairs(any) do
      has_one = has_one or tags[tag]
    end
    if not has_one then
      return false
    end
  end
  return true
end

local has_filter = #request.tags > 0
for _, name in ipairs({'task', 'queue', 'error_code', 'trace_id', 'batch', 'schedule'}) do
  has_filter = has_filter or request[name] ~= ''
end

local function is_wanted(key)
  if not has_filter then
    return true
  end
  local found = redis.call('HMGET', key, 'steps', 'tags', 'reason', 'trace_id', 'batch', 'schedule')
  return found[1] and (request.error_code == '' or found[3] == request.error_code)
    and (request.trace_id == '' or found[4] == request.trace_id) and (request.batch == '' or found[5] == request.batch)
    and (request.schedule == '' or found[6] == request.schedule)
    and has_step(found[1], 'name', request.task) and has_step(found[1], 'queue', request.queue) and has_tags(found[2])
end

local walks = {}
for _, state in ipairs(request.states) do
  local key = list_key(prefix, request.owner, state)
  walks[#walks + 1] = {state = state, key = key, rank = rank_of_first(key), piece = {}, position = 1}
end
local place, examined, count, found, is_end = from or {0, ''}, 0, 0, {}, 0
while true do
  local nearest, entry
  for _, walk in ipairs(walks) do
    local this = head(walk)
    if this and (not entry or is_nearer(this, entry)) then
      nearest, entry = walk, this
    end
  end
  if not entry then
    is_end = 1
    break
  end
  if count >= request.limit or examined >= request.examine then
    break
  end
  nearest.position = nearest.position + 2
  examined, place = examined + 1, {entry.at, entry.id}
  local key = record_key(prefix, entry.id)
  if is_wanted(key) then
    local fields = redis.call('HMGET', key, 'state', unpack(request.fields))
    -- One whose record is gone leaves the lists soon; one in another state a worker of 0.2 has moved.
    if fields[1] == nearest.state then
      count = count + 1
      fields[1] = entry.id
      found[#found + 1] = fields
    end
  end
end
return {examined, is_end, string.format('%.0f', place[1]), place[2], unpack(found)}
