--- @include celery_leases/scripts/queue.lua
--- @include celery_leases/scripts/clock.lua
--- @include celery_leases/scripts/delete.lua
-- Begins a sweep, unless another process has done so within this interval. ARGV: prefix, lease_ms, interval_ms, the
-- parts of a queue's keys. Deletes queues whose `x-expires` has passed and of which nothing runs, some at a time.
-- Returns the names of the queues to sweep, or nil.
local prefix = ARGV[1]
go_on_when_full(prefix)
-- Somewhat less than an interval, so that none is left out.
local interval_ms = tonumber(ARGV[3])
local turn_ms = math.max(math.floor(interval_ms * 0.9), 1)
local mark = prefix .. 'sweep-turn'
-- A mark that would stay longer is of a clock that was ahead.
if not redis.call('SET', mark, 1, 'NX', 'PX', turn_ms) then
  if redis.call('PTTL', mark) <= turn_ms then
    return nil
  end
  redis.call('SET', mark, 1, 'PX', turn_ms)
end
note_sweep(prefix, now_ms(), tonumber(ARGV[2]), interval_ms)
local parts = {}
for i = 4, #ARGV do
  parts[#parts + 1] = ARGV[i]
end
for _, queue in ipairs(redis.call('SRANDMEMBER', prefix .. 'expiring', 50)) do
  local base = prefix .. queue
  if redis.call('EXISTS', base .. ':expires', base .. ':leases') == 0 then
    leases_delete(prefix, queue, parts)
  end
end
return redis.call('SMEMBERS', prefix .. 'queues')
