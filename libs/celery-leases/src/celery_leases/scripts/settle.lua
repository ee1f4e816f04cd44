--- @include celery_leases/scripts/queue.lua
-- Ends a message that its owner has done. Returns 1, or 0 when the lease is not (any more) this owner's delivery.
-- ARGV: prefix, queue, message key, owner, delivery, tombstone_ms, priority.
local prefix, base, message_key, owner = ARGV[1], ARGV[1] .. ARGV[2], ARGV[3], ARGV[4]
if redis.call('HGET', base .. ':owners', message_key) ~= owner .. ' ' .. ARGV[5] then
  return 0
end
go_on_when_full(prefix)
drop_lease(prefix, base, message_key, owner)
redis.call('HDEL', base .. ':live', message_key)
if tonumber(ARGV[5]) > 1 then
  redis.call('HDEL', base .. ':history', message_key)
  redis.call('HDEL', base .. ':deaths', message_key)
end
if tonumber(ARGV[7]) > 0 then
  redis.call('HDEL', base .. ':priorities', message_key)
end
if tonumber(ARGV[6]) > 0 then
  redis.call('ZADD', base .. ':settled', now_ms(), message_key)
end
return 1
