-- leases_delete(prefix, queue, parts)
-- Deletes a queue with all that it holds, and takes it out of the registry.
local function leases_delete(prefix, queue, parts)
  local base = prefix .. queue
  for _, value in ipairs(redis.call('HVALS', base .. ':owners')) do
    local owner = string.match(value, '^(.*) %d+$')
    if redis.call('HINCRBY', prefix .. 'held', owner, -1) < 1 then
      redis.call('HDEL', prefix .. 'held', owner)
    end
  end
  for _, part in ipairs(parts) do
    redis.call('UNLINK', base .. ':' .. part)
  end
  redis.call('SREM', prefix .. 'queues', queue)
  redis.call('SREM', prefix .. 'expiring', queue)
end
