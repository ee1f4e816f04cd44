--- @include celery_leases/scripts/dead_letter.lua
-- dead_letter(broker prefix, queue, message key)
-- Returns a dead letter (JSON) whose task knows of its end; or false, and 'dead_letter.missing' or
-- 'dead_letter.unreported'.
local function dead_letter(broker, queue, message_key)
  local text, is_reported = leases_dead_letter(broker, queue, message_key)
  if not text then
    return false, 'dead_letter.missing'
  end
  if not is_reported then
    return false, 'dead_letter.unreported'
  end
  return text
end
