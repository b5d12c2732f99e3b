-- Settles and reserves the requests and tokens of one model of one account, in one step.
--
-- Two buckets fill continuously, as the provider's do. A reservation is let through as soon as its
-- bucket is full or holds enough, and leaves a debt where it costs more: whoever comes next waits
-- for that to be paid back. So the rate is exact, and no cost is too large for a small bucket.
--
-- KEYS[1] -> the buckets, and what the provider said (Hash)
-- KEYS[2] -> open reservations, by when they expire, in ms (Sorted set)
-- KEYS[3] -> the models in use, by when last, in ms (Sorted set)
-- ARGV[1] -> JSON:
--   name                 this account and model in KEYS[3]
--   requests, tokens     each {per_minute (0: no limit), from (who says so),
--                        is_ceiling (what the provider reports only lowers it), reported (if new)}
--   headroom             share of the limits to use
--   burst_ms             what a bucket holds, in ms of its rate
--   horizon_ms           longest wait that is granted
--   large_ms, large_horizon_ms
--                        what costs more of the rate than this is large; the horizon then
--   again_ms             who is refused asks again by then
--   whole_ms, arrive_ms  what costs more than this takes all that the provider holds: it begins when
--                        the bucket was full for so long
--   asker                the process that asks: its claim is kept under this name
--   patience_ms, most_patience_ms
--                        who has waited for so much longer than he was first told goes before all
--                        others: for what his call costs of the rate, within these bounds
--   first_again_ms       he asks again by then
--   gone_ms              who has not asked again so long after he was to has gone away
--   reported_ms          so long the provider's word counts
--   open_ms, keep_ms     how long a reservation may be settled, and unused keys are kept
--   pause_ms, most_pause_ms
--                        let nobody call for so long (if the provider said 429); the longest pause
--   slowing, slowing_known, slowest, recovery_ms
--                        what a 429 does to the rate: by which factor, by which where the provider
--                        reports its limits, down to what, and how long until it is forgotten
--   settle               list of {id, tokens to give back, requests to give back}
--   reserve              list of {id, tokens}
-- Output: {tokens a minute in force (0: no limit), who says so, ms after which the first refused reservation
--   would have been granted (-1: none was refused), then of each one before it the ms until it may
--   be used (-1: it is larger than a minute's tokens)}

local ask = cjson.decode(ARGV[1])
local time = redis.call("TIME")
local now = time[1] * 1000 + time[2] / 1000

local state, claims = {}, {}
local stored = redis.call("HGETALL", KEYS[1])
for i = 1, #stored, 2 do
  state[stored[i]] = tonumber(stored[i + 1]) -- nil for what is empty
  if stored[i] == "claims" then
    claims = cjson.decode(stored[i + 1])
  end
end
-- A clock that was set back must not stop the buckets, nor stretch a pause.
local at = math.min(state.at or now, now)
local slowed_at = math.min(state.slowed_at or 0, now)
local paused_until = math.min(state.paused_until or 0, now + ask.most_pause_ms)
local waits_until = math.min(state.waits_until or 0, now + 2 * ask.again_ms)

-- What was reported long ago is forgotten: a limit that was raised since may let no call through
-- which would be told.
local reported, reported_at, is_news = {}, {}, false
for _, kind in ipairs({ "requests", "tokens" }) do
  local news, known = ask[kind].reported, state["reported_" .. kind]
  local known_at = math.min(state[kind .. "_reported_at"] or now, now)
  if news then
    reported[kind], reported_at[kind] = news, now
    is_news = is_news or news ~= known
  elseif known and now - known_at < ask.reported_ms then
    reported[kind], reported_at[kind] = known, known_at
  end
end

-- After a 429 everybody is slower for a while, and gets faster from then on.
local slowed_to = state.slowed_to or 1
local speed = math.min(1, slowed_to + (1 - slowed_to) * (now - slowed_at) / ask.recovery_ms)
if is_news then -- it was the limit that was wrong
  slowed_to, slowed_at, speed = 1, now, 1
end
if ask.pause_ms then
  paused_until = math.max(paused_until, now + math.min(ask.pause_ms, ask.most_pause_ms))
  if now - slowed_at >= 1000 then -- the calls that were on their way say the same once more
    local is_known = reported.requests or reported.tokens
    slowed_to = math.max(ask.slowest, speed * (is_known and ask.slowing_known or ask.slowing))
    slowed_at, speed = now, slowed_to
  end
end

local function in_force(kind)
  local own, said = ask[kind].per_minute, reported[kind]
  if not said then
    return own, ask[kind].from
  elseif ask[kind].is_ceiling and own > 0 and own <= said then
    return own, ask[kind].from
  end
  return said, "provider"
end

local function bucket(kind)
  local per_minute, from = in_force(kind)
  local rate = per_minute / 60000 * ask.headroom * speed
  local room = rate * ask.burst_ms
  local level = (state[kind] or room) + (now - at) * rate
  return {
    per_minute = per_minute,
    from = from,
    rate = rate,
    room = room,
    level = math.min(room, level),
    full_ms = state[kind] and rate > 0 and math.max(0, level - room) / rate or ask.arrive_ms,
  }
end

local function wait_ms(one, cost, before)
  if one.rate == 0 then
    return 0
  end
  return math.max(0, (math.min(cost, one.room) + before - one.level) / one.rate)
end

local function cost_ms(one, cost)
  return one.rate > 0 and cost / one.rate or 0
end

local function take(one, cost) -- or give back, when it is negative
  one.level = math.min(one.room, one.level - cost)
end

local requests, tokens = bucket("requests"), bucket("tokens")

local function wait_for(cost, tokens_before) -- until one call may begin, after one of so many tokens
  local requests_wait = wait_ms(requests, 1, tokens_before > 0 and 1 or 0)
  return math.max(paused_until - now, requests_wait, wait_ms(tokens, cost, tokens_before))
end

redis.call("ZREMRANGEBYSCORE", KEYS[2], "-inf", now)
for _, settlement in ipairs(ask.settle) do
  local id, tokens_back, requests_back = unpack(settlement)
  if redis.call("ZREM", KEYS[2], id) == 1 then
    take(tokens, -tokens_back)
    take(requests, -requests_back)
  end
end

-- Small calls take ahead what a larger one waits for, and a large one leaves a debt in which no
-- other passes. So whoever is refused has a claim, and when his patience is at an end he goes before
-- all others, who are refused meanwhile; of several the one that waits longest.
local first
for asker, claim in pairs(claims) do
  if claim.gone_at < now or claim.gone_at > now + 2 * ask.again_ms then
    claims[asker] = nil
  elseif claim.first_at <= now and (not first or claim.since < first.since) then
    first = claim
  end
end
local own = claims[ask.asker]
if first == own then
  first = nil
end

local output = { math.floor(tokens.per_minute), tokens.from, -1 }
local opened = {}
for _, reservation in ipairs(ask.reserve) do
  local id, cost = unpack(reservation)
  if tokens.per_minute > 0 and cost > tokens.per_minute then
    table.insert(output, -1)
  else
    -- What is large needs most of what the provider's bucket holds. It is not taken ahead of its
    -- time, as what is given back meanwhile may be lost in a bucket that is full, but is counted
    -- here.
    local of_rate = math.max(cost_ms(requests, 1), cost_ms(tokens, cost))
    local large = of_rate > ask.large_ms
    local wait = wait_for(cost, 0)
    if first or wait > (large and ask.large_horizon_ms or ask.horizon_ms) then
      local patience = math.min(math.max(of_rate, ask.patience_ms), ask.most_patience_ms)
      local first_at = own and own.first_at or now + wait + patience
      local again = wait
      if first then -- when he has passed, and his debt is paid back
        again = math.max(wait_for(cost, first.cost), wait_for(first.cost, 0) + ask.large_horizon_ms)
      end
      if first_at <= now then -- nobody else uses what comes back before, and his turn comes soon
        again = math.min(again, math.max(ask.first_again_ms, again / 8))
      end
      claims[ask.asker] = {
        since = own and own.since or now,
        cost = cost,
        first_at = first_at,
        gone_at = now + math.min(again, ask.again_ms) + ask.gone_ms,
      }
      output[3] = math.ceil(again)
      break
    end
    take(requests, 1)
    take(tokens, cost)
    if of_rate > ask.whole_ms then -- also what those take that were late
      wait = wait + math.max(0, ask.arrive_ms - math.min(requests.full_ms, tokens.full_ms))
    end
    own, claims[ask.asker] = nil, nil
    table.insert(opened, now + ask.open_ms)
    table.insert(opened, id)
    table.insert(output, math.ceil(math.max(0, wait)))
  end
end
if #opened > 0 then
  redis.call("ZADD", KEYS[2], unpack(opened))
end

local waits_since = state.waits_since or now
if output[3] >= 0 then
  if now > waits_until then
    waits_since = now
  end
  waits_until = math.max(waits_until, now + math.min(output[3], ask.again_ms) + ask.again_ms / 2)
end

-- Redis would cut a number down to 14 digits, or to a whole one.
local function text(number)
  return number and string.format("%.17g", number) or ""
end

local fields = {
  "at", text(now),
  "speed", text(speed),
  "slowed_to", text(slowed_to),
  "slowed_at", text(slowed_at),
  "paused_until", text(paused_until),
  "waits_since", text(waits_since),
  "waits_until", text(waits_until),
  "claims", cjson.encode(claims),
}
for kind, one in pairs({ requests = requests, tokens = tokens }) do
  local written = {
    kind, text(one.rate > 0 and one.level or nil),
    kind .. "_rate", text(one.rate),
    kind .. "_limit", text(one.per_minute),
    kind .. "_from", one.from,
    "reported_" .. kind, text(reported[kind]),
    kind .. "_reported_at", text(reported_at[kind]),
  }
  for _, word in ipairs(written) do
    table.insert(fields, word)
  end
end
redis.call("HSET", KEYS[1], unpack(fields))
redis.call("ZADD", KEYS[3], now, ask.name)
redis.call("ZREMRANGEBYSCORE", KEYS[3], "-inf", now - ask.keep_ms)
for i = 1, 3 do
  redis.call("PEXPIRE", KEYS[i], ask.keep_ms)
end
return output
