--- @include celery_leases/scripts/queue.lua
-- Ends a message that its owner has done. Returns 1, or 0 when the lease is not (any more) this owner's delivery.
-- ARGV: prefix, queue, tag, owner, delivery, tombstone_ms, priority.
local prefix, base, tag, owner = ARGV[1], ARGV[1] .. ARGV[2], ARGV[3], ARGV[4]
if redis.call('HGET', base .. ':owners', tag) ~= owner .. ' ' .. ARGV[5] then
  return 0
end
go_on_when_full(prefix)
drop_lease(prefix, base, tag, owner)
redis.call('HDEL', base .. ':live', tag)
if tonumber(ARGV[5]) > 1 then
  redis.call('HDEL', base .. ':history', tag)
  redis.call('HDEL', base .. ':deaths', tag)
end
if tonumber(ARGV[7]) > 0 then
  redis.call('HDEL', base .. ':priorities', tag)
end
if tonumber(ARGV[6]) > 0 then
  redis.call('ZADD', base .. ':settled', now_ms(), tag)
end
return 1
