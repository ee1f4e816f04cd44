-- Deletes a dead letter; what was kept for its sake lives on as long as that of any other task that has ended.
-- Needs records.lua and the broker's discard.lua. ARGV: prefix, broker prefix, queue, tag, task id or '', keep_ms.
-- Returns 'deleted', 'dead_letter.missing' or 'dead_letter.unreported'.
local prefix, base, tag, task_id = ARGV[1], ARGV[2] .. ARGV[3], ARGV[4], ARGV[5]
if redis.call('HEXISTS', base .. ':dead', tag) == 0 then
  return 'dead_letter.missing'
end
if redis.call('ZSCORE', base .. ':unreported', tag) then
  return 'dead_letter.unreported'
end
local key = record_key(prefix, task_id)
if TERMINAL[redis.call('HGET', key, 'state')] then
  redis.call('PEXPIRE', key, ARGV[6])
  redis.call('PEXPIRE', prefix .. 'events:' .. task_id, ARGV[6])
end
leases_discard(ARGV[2], ARGV[3], tag)
return 'deleted'
