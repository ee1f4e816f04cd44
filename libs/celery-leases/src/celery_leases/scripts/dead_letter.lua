-- leases_dead_letter(prefix, queue, tag)
-- Returns a dead letter (JSON) and whether its death has been reported, or false when there is none.
local function leases_dead_letter(prefix, queue, tag)
  local base = prefix .. queue
  return redis.call('HGET', base .. ':dead', tag), not redis.call('ZSCORE', base .. ':unreported', tag)
end
