--- @include celery_leases/scripts/queue.lua
-- Ends a delivery without an acknowledgement.
-- ARGV: prefix, queue, message key, owner, delivery, then how:
--   'requeue'                   to the head; nobody is blamed (a worker that stops)
--   'failed'    limit           to the head, counted; at the limit it is buried
--   'unknown'   delay grace     delayed and not counted; after the grace (ms) it is buried
--   'later'     delay           delayed and not counted
--   'bury'      reason          to the dead letters at once
-- Returns 0 when the lease is not this owner's delivery, 1 when the message lives on, 2 when it was buried.
local prefix, base, message_key, owner = ARGV[1], ARGV[1] .. ARGV[2], ARGV[3], ARGV[4]
if redis.call('HGET', base .. ':owners', message_key) ~= owner .. ' ' .. ARGV[5] then
  return 0
end
go_on_when_full(prefix)
local how, now = ARGV[6], now_ms()
local h = read_history(base, message_key)
h.deliveries = h.deliveries + 1
drop_lease(prefix, base, message_key, owner)
if how == 'bury' then
  bury(base, message_key, ARGV[7], owner, h, now)
  return 2
end
if how == 'failed' then
  h.own = h.own + 1
  if h.own >= tonumber(ARGV[7]) then
    bury(base, message_key, 'delivery.limit', owner, h, now)
    return 2
  end
elseif how == 'unknown' then
  if h.unknown_since == 0 then
    h.unknown_since = now
  end
  if now - h.unknown_since >= tonumber(ARGV[8]) then
    bury(base, message_key, 'contract.unknown', owner, h, now)
    return 2
  end
end
write_history(base, message_key, h)
if how == 'unknown' or how == 'later' then
  postpone(base, message_key, now + tonumber(ARGV[7]))
else
  requeue(base, message_key)
end
return 1
