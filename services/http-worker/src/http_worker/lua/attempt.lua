--- @include offload_core/lua/states.lua
-- Notes how an attempt at an endpoint went.
-- ARGV: the request as JSON: prefix, endpoint, owner, attempt (what the list of attempts shows of it, as JSON text),
--       outcome: 'delivered', 'failed', 'gone' or 'too_much', disable_after (ms).
-- Returns 'stored', 'disabled', or 'missing' where the endpoint has been deleted. Events: webhook.disabled.
local ATTEMPTS = 1000
local request = cjson.decode(ARGV[1])
local prefix, endpoint = request.prefix, request.endpoint
local key, now = prefix .. 'webhook:' .. endpoint, now_ms()
if redis.call('EXISTS', key) == 0 then
  return 'missing'
end
redis.call('XADD', prefix .. 'webhook-attempts:' .. endpoint, 'MAXLEN', '~', ATTEMPTS, '*', 'attempt', request.attempt)
local share = tonumber(redis.call('HGET', key, 'share') or 1)
if request.outcome == 'delivered' then
  redis.call('HDEL', key, 'failing_since')
  if share < 1 then
    redis.call('HSET', key, 'share', math.min(1, share * 1.1))
  end
  return 'stored'
end
-- What is under way when it says so says so too: it is halved once a second.
if request.outcome == 'too_much' and now - tonumber(redis.call('HGET', key, 'halved_at') or 0) >= 1000 then
  redis.call('HSET', key, 'share', math.max(share / 2, 1 / 1024), 'halved_at', string.format('%.0f', now))
end
redis.call('HSETNX', key, 'failing_since', string.format('%.0f', now))
local since = tonumber(redis.call('HGET', key, 'failing_since'))
local reason = request.outcome == 'gone' and 'gone' or now - since >= request.disable_after and 'failing'
if not reason or redis.call('HEXISTS', key, 'disabled_at') == 1 then
  return 'stored'
end
redis.call('HSET', key, 'disabled_at', string.format('%.0f', now), 'disabled_reason', reason)
redis.call('HDEL', prefix .. 'subscriptions:' .. request.owner, endpoint)
local text = cjson.encode({webhook_id = endpoint, reason = reason})
local id = emit_to(prefix, request.owner, '', 'webhook.disabled', text)
publish_webhooks(prefix, {source = endpoint, owner = request.owner, entry = id, type = 'webhook.disabled', data = text})
return 'disabled'
