--- @include celery_leases/scripts/queue.lua
-- Takes dead letters of one queue to be reported, and leaves them to nobody else for a while.
-- ARGV: prefix, queue, claim_ms. Returns {message key, dead letter, ...}, the oldest first, 20 at most.
local base, now = ARGV[1] .. ARGV[2], now_ms()
local letters = {}
go_on_when_full(ARGV[1])
for _, message_key in ipairs(redis.call('ZRANGEBYSCORE', base .. ':unreported', '-inf', now, 'LIMIT', 0, 20)) do
  local letter = redis.call('HGET', base .. ':dead', message_key)
  if letter then
    redis.call('ZADD', base .. ':unreported', now + tonumber(ARGV[3]), message_key)
    letters[#letters + 1] = message_key
    letters[#letters + 1] = letter
  else
    redis.call('ZREM', base .. ':unreported', message_key)
  end
end
return letters
