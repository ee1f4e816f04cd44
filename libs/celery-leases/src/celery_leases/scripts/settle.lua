-- Ends a message that its owner has done. Returns 1, or 0 when the lease is not (any more) this owner's delivery.
-- KEYS[1]: the queue's base. ARGV: tag, owner, delivery, tombstone_ms, priority.
local base, tag = KEYS[1], ARGV[1]
if redis.call('HGET', base .. ':owners', tag) ~= ARGV[2] .. ' ' .. ARGV[3] then
  return 0
end
drop_lease(base, tag)
redis.call('HDEL', base .. ':live', tag)
if tonumber(ARGV[3]) > 1 then
  redis.call('HDEL', base .. ':history', tag)
  redis.call('HDEL', base .. ':deaths', tag)
end
if tonumber(ARGV[5]) > 0 then
  redis.call('HDEL', base .. ':priorities', tag)
end
if tonumber(ARGV[4]) > 0 then
  redis.call('ZADD', base .. ':settled', now_ms(), tag)
end
return 1
