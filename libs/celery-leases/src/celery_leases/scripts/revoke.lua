--- @include celery_leases/scripts/queue.lua
-- Notes that tasks are revoked, for every worker that takes their messages later. ARGV: prefix, how long to remember
-- them (ms), most of them to remember, then the task ids.
local revoked = ARGV[1] .. 'revoked'
local now = now_ms()
for i = 4, #ARGV do
  redis.call('ZADD', revoked, now, ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', revoked, '-inf', now - tonumber(ARGV[2]))
redis.call('ZREMRANGEBYRANK', revoked, 0, -tonumber(ARGV[3]) - 1)
redis.call('PEXPIRE', revoked, ARGV[2])
