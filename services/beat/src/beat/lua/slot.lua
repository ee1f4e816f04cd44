-- Publishes one slot of a schedule, once. Needs records.lua and publish.lua.
-- ARGV: prefix, broker prefix, schedule, slot (ms), grace_ms, task id, queue, tag, message, then the record's fields.
-- Returns 'published', 'done' (this slot or a later one was before), 'early', 'late' (past its grace).
local prefix, schedule, slot = ARGV[1], ARGV[3], tonumber(ARGV[4])
local now = now_ms()
if slot > now then
  return 'early'
end
local last = tonumber(redis.call('HGET', prefix .. 'slots', schedule) or 0)
if last >= slot then
  return 'done'
end
if now - slot > tonumber(ARGV[5]) then
  return 'late'
end
local fields = {}
for i = 10, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
redis.call('HSET', prefix .. 'slots', schedule, ARGV[4])
if redis.call('EXISTS', record_key(prefix, ARGV[6])) == 0 then
  create_record(prefix, ARGV[6], fields, 1)
  leases_publish(ARGV[2], ARGV[7], ARGV[8], ARGV[9], 0, 0)
end
return 'published'
