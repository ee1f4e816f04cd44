-- Ends a delivery without an acknowledgement.
-- KEYS[1]: the queue's base. ARGV: tag, owner, delivery, then how:
--   'requeue'                   to the head; nobody is blamed (a worker that stops)
--   'failed'    limit           to the head, counted; at the limit it is buried
--   'unknown'   delay grace     delayed and not counted; after the grace (ms) it is buried
--   'bury'      reason          to the dead letters at once
-- Returns 0 when the lease is not this owner's delivery, 1 when the message lives on, 2 when it was buried.
local base, tag, owner = KEYS[1], ARGV[1], ARGV[2]
if redis.call('HGET', base .. ':owners', tag) ~= owner .. ' ' .. ARGV[3] then
  return 0
end
local how, now = ARGV[4], now_ms()
local h = read_history(base, tag)
h.deliveries = h.deliveries + 1
drop_lease(base, tag)
if how == 'bury' then
  bury(base, tag, ARGV[5], owner, h, now)
  return 2
end
if how == 'failed' then
  h.own = h.own + 1
  if h.own >= tonumber(ARGV[5]) then
    bury(base, tag, 'delivery.limit', owner, h, now)
    return 2
  end
elseif how == 'unknown' then
  if h.unknown_since == 0 then
    h.unknown_since = now
  end
  if now - h.unknown_since >= tonumber(ARGV[6]) then
    bury(base, tag, 'contract.unknown', owner, h, now)
    return 2
  end
end
write_history(base, tag, h)
if how == 'unknown' then
  postpone(base, tag, now + tonumber(ARGV[5]))
else
  requeue(base, tag)
end
return 1
