-- Takes the oldest message of the first queue that has one.
-- KEYS: the queues' bases in the order to try them.
-- ARGV: owner, lease_ms, then for each queue 'lease' or 'take' (consumers that never acknowledge settle by the pop).
-- Returns {index of the queue, tag, message, delivery} or nil.
local owner, lease_ms = ARGV[1], tonumber(ARGV[2])

local function take(base, list)
  while true do
    local tag = redis.call('RPOP', list)
    if not tag then
      return nil
    end
    local message = redis.call('HGET', base .. ':live', tag)
    -- A tag without a message was cancelled; one with an owner is a stale copy of a message that runs.
    if message and redis.call('HEXISTS', base .. ':owners', tag) == 0 then
      return tag, message
    end
  end
end

local function is_empty(base)
  for _, step in ipairs({'', '.3', '.6', '.9'}) do
    if redis.call('EXISTS', base .. ':waiting' .. step) == 1 then
      return false
    end
  end
  return true
end

for _, step in ipairs({'', '.3', '.6', '.9'}) do
  for index, base in ipairs(KEYS) do
    local list = base .. ':waiting' .. step
    local tag, message = take(base, list)
    if tag then
      if is_empty(base) then
        redis.call('DEL', base .. ':bell')
      end
      if ARGV[2 + index] == 'take' then
        redis.call('HDEL', base .. ':live', tag)
        redis.call('HDEL', base .. ':priorities', tag)
        return {index, tag, message, 1}
      end
      local h = read_history(base, tag)
      local delivery = h.deliveries + 1
      redis.call('ZADD', base .. ':leases', now_ms() + lease_ms, tag)
      redis.call('HSET', base .. ':owners', tag, owner .. ' ' .. delivery)
      return {index, tag, message, delivery}
    end
  end
end
return nil
