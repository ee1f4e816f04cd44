-- leases_dead_letter(prefix, queue, message key)
-- Returns a dead letter (JSON) and whether its death has been reported, or false when there is none.
local function leases_dead_letter(prefix, queue, message_key)
  local base = prefix .. queue
  return redis.call('HGET', base .. ':dead', message_key), not redis.call('ZSCORE', base .. ':unreported', message_key)
end
