--- @include celery_leases/scripts/publish.lua
--- @include celery_leases/scripts/discard.lua
--- @include celery_leases/scripts/dead_letter.lua
-- leases_redrive(prefix, queue, message key)
-- Puts a dead letter back to the tail of its queue, with the priority that
-- it had. Nobody is blamed for what was, but deliveries go on being counted from where they were: a run from before the
-- death must stay older than every run after it. How it died is kept until the message ends well.
-- Returns the deliveries before it, or -1 when there is no such dead letter.
local function leases_redrive(prefix, queue, message_key)
  local base = prefix .. queue
  local text = leases_dead_letter(prefix, queue, message_key)
  if not text then
    return -1
  end
  local letter = cjson.decode(text)
  local time = redis.call('TIME')
  local deaths = letter.earlier or {}
  deaths[#deaths + 1] = {
    reason = letter.reason, deliveries = letter.deliveries, owner = letter.owner, died_at_ms = letter.died_at_ms,
    redriven_at_ms = time[1] * 1000 + math.floor(time[2] / 1000)}
  leases_discard(prefix, queue, message_key)
  redis.call('ZREM', base .. ':settled', message_key)
  leases_publish(prefix, queue, message_key, letter.message, 0, letter.priority or 0)
  redis.call('HSET', base .. ':history', message_key, string.format('%d 0 0 0', letter.deliveries))
  redis.call('HSET', base .. ':deaths', message_key, cjson.encode(deaths))
  return letter.deliveries
end
