--- @include offload_core/lua/records.lua
--- @include celery_leases/scripts/publish.lua
-- Publishes one occurrence of a schedule, once.
-- ARGV: prefix, broker prefix, schedule, occurrence (ms), grace_ms, task id, queue, message key, message, then the
--       record's fields.
-- Returns 'published', 'done' (this occurrence or a later one was before), 'early', 'late' (past its grace),
-- 'recovered'. A last occurrence that lies in the future was published while Redis's clock was ahead. Waiting for it
-- would stop the schedule for as long as the clock was ahead: the occurrence before it counts instead, and what is
-- published is 'recovered'.
local prefix, schedule, occurrence = ARGV[1], ARGV[3], tonumber(ARGV[4])
local now = now_ms()
if occurrence > now then
  return 'early'
end
local occurrences = prefix .. 'slots'
local last = tonumber(redis.call('HGET', occurrences, schedule) or 0)
local outcome = 'published'
if last > now then
  local before = tonumber(redis.call('HGET', occurrences, schedule .. ':before') or 0)
  last, outcome = before <= now and before or occurrence - 1, 'recovered'
end
if last >= occurrence then
  return 'done'
end
if now - occurrence > tonumber(ARGV[5]) then
  return 'late'
end
local fields = {}
for i = 10, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
redis.call('HSET', occurrences, schedule, ARGV[4], schedule .. ':before', string.format('%.0f', last))
if redis.call('EXISTS', record_key(prefix, ARGV[6])) == 0 then
  create_record(prefix, ARGV[6], fields, 1)
  leases_publish(ARGV[2], ARGV[7], ARGV[8], ARGV[9], 0, 0)
end
return outcome
