--- @include celery_leases/scripts/queue.lua
-- Renews leases of one owner, and confirms that it has them. ARGV: prefix, owner, lease_ms, then queue, message key,
-- delivery of each. Returns the positions (from 1) of those that are not this owner's any more.
local prefix, owner = ARGV[1], ARGV[2]
go_on_when_full(prefix)
local until_ms = now_ms() + tonumber(ARGV[3])
local lost = {}
for i = 4, #ARGV, 3 do
  local base, message_key = prefix .. ARGV[i], ARGV[i + 1]
  if redis.call('HGET', base .. ':owners', message_key) == owner .. ' ' .. ARGV[i + 2] then
    redis.call('ZADD', base .. ':leases', until_ms, message_key)
  else
    lost[#lost + 1] = (i - 1) / 3
  end
end
return lost
