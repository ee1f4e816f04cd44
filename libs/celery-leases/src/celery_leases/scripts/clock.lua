-- note_sweep(prefix, now, lease_ms, interval_ms)
-- Notes that somebody sweeps. When nobody has for a while, Redis was
-- unavailable or silent, or its clock has jumped: then leases look expired whose owners could not renew them. All are
-- left alone for as long as the longest lease, whoever sweeps next.
-- Returns the longest lease that there is, and for how long no lease is given back yet, both in ms.
local function note_sweep(prefix, now, lease_ms, interval_ms)
  local key = prefix .. 'sweep'
  local state = redis.call('HMGET', key, 'swept_at', 'rests_until', 'longest_lease')
  local swept_at, rests_until = tonumber(state[1] or 0), tonumber(state[2] or 0)
  local longest_ms = math.max(tonumber(state[3] or 0), lease_ms)
  if now - swept_at > math.max(longest_ms / 2, interval_ms * 3) then
    rests_until = now + longest_ms
  end
  -- One that would last longer is of a clock that was ahead.
  rests_until = math.min(rests_until, now + longest_ms)
  redis.call('HSET', key, 'swept_at', now, 'rests_until', rests_until, 'longest_lease', longest_ms)
  return longest_ms, math.max(rests_until - now, 0)
end

