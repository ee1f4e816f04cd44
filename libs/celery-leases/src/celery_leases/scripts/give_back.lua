--- @include celery_leases/scripts/queue.lua
-- Gives the message of a pop back whose answer never reached its owner: nobody has seen it, and nobody is blamed.
-- ARGV: prefix, owner, poller, number of the pop. Returns 1 when it did, 0 when that pop had found nothing.
local prefix, owner = ARGV[1], ARGV[2]
local mark = prefix .. 'popped:' .. owner .. ':' .. ARGV[3]
go_on_when_full(prefix)
local text = redis.call('GET', mark)
if not text then
  return 0
end
local number, base, message_key, delivery = unpack(cjson.decode(text))
if number ~= ARGV[4] then
  return 0
end
redis.call('DEL', mark)
local holder, current = owner_of(base, message_key)
if holder ~= owner or current ~= delivery then
  return 0
end
local h = read_history(base, message_key)
h.deliveries = delivery
write_history(base, message_key, h)
requeue(base, message_key)
drop_lease(prefix, base, message_key, owner)
return 1
