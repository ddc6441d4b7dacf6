-- Lets one call in, or says which quota is used up and for how long. All in one step: two replicas that ask at the same
-- time cannot both take the last place. The clock is the server's, the same for all replicas.
--
-- KEYS: for the principal, then for the tenant: the rate, and the calls under way.
-- ARGV: for the principal, then for the tenant: calls per minute (0 is unlimited) and at a time; then the call's name and
-- how many milliseconds it counts unless it is renewed.
-- Answer: {0, 0}; or which quota (1 principal's calls at a time, 2 its rate, 3 and 4 the tenant's) and milliseconds.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local call, lease = ARGV[5], tonumber(ARGV[6])
local next_free = {}

for i = 0, 1 do
    local rate, running = KEYS[2 * i + 1], KEYS[2 * i + 2]
    local per_minute, at_a_time = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
    -- Calls of a replica that died are over when nobody renews them.
    redis.call('ZREMRANGEBYSCORE', running, '-inf', now)
    if redis.call('ZCARD', running) >= at_a_time then
        return {2 * i + 1, 1000}
    end
    -- The generic cell rate algorithm: a minute's quota may be used at once and refills evenly.
    if per_minute > 0 then
        local interval = 60000000 / per_minute
        local free = math.max(tonumber(redis.call('GET', rate) or now), now) + interval
        if free - now > 60000000 + 1 then
            return {2 * i + 2, math.ceil((free - now - 60000000) / 1000)}
        end
        next_free[i] = free
    end
end

for i = 0, 1 do
    local rate, running = KEYS[2 * i + 1], KEYS[2 * i + 2]
    if next_free[i] then
        redis.call('SET', rate, string.format('%.0f', next_free[i]), 'PX', math.ceil((next_free[i] - now) / 1000))
    end
    redis.call('ZADD', running, string.format('%.0f', now + lease * 1000), call)
    redis.call('PEXPIRE', running, lease)
end
return {0, 0}
