-- Marks a dead letter as reported. KEYS[1]: the queue's base. ARGV: message key.
return redis.call('ZREM', KEYS[1] .. ':unreported', ARGV[1])
