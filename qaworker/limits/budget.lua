-- Keeps the budget of one run: what is spent, and what is reserved for calls under way.
--
-- One call does all there is to do, in this order: set the budget, charge reservations that nobody
-- settled in time, apply settlements, grant reservations while spent + reserved + asked <= budget.
-- What was charged so is corrected when it is settled after all.
--
-- KEYS[1] -> the run's budget (Hash): budget, spent, reserved; in micro-dollars; when it was opened last,
--            in server seconds
-- KEYS[2] -> its open reservations (Sorted set): "id:micros" -> when it expires, in server seconds
-- KEYS[3] -> reservations that were charged in full (Set): "id:micros"
-- KEYS[4] -> when the run was cancelled last, in server seconds (String)
-- KEYS[5] -> when all runs were, likewise (String)
-- ARGV[1] -> the budget, which opens it; -1 leaves it
-- ARGV[2] -> at least this is spent
-- ARGV[3] -> seconds a reservation stays open
-- ARGV[4] -> seconds the keys are kept
-- ARGV[5] -> number of settlements n
-- ARGV[6] ... ARGV[5 + 2n] -> each settlement: "id:micros", and what was really spent
-- ARGV[6 + 2n] ... -> reservations to grant, "id:micros"
-- Output: budget (-1: none is set), spent, reserved, how many of the reservations are granted, and
--         1 when the run was cancelled since its budget was opened, else 0
local stored = redis.call("HMGET", KEYS[1], "budget", "spent", "reserved", "opened")
local time = redis.call("TIME")
local now = tonumber(time[1])
local budget = tonumber(ARGV[1])
local opened = tonumber(stored[4] or 0)
if budget < 0 then
  budget = tonumber(stored[1] or -1)
else
  opened = now + time[2] / 1000000
end
local is_cancelled = 0
for _, mark in ipairs(redis.call("MGET", KEYS[4], KEYS[5])) do
  if tonumber(mark or 0) > opened then
    is_cancelled = 1
  end
end
if budget < 0 then
  return { -1, 0, 0, 0, is_cancelled }
end
local spent = math.max(tonumber(stored[2] or 0), tonumber(ARGV[2]))
local reserved = tonumber(stored[3] or 0)

local function micros_of(reservation)
  return tonumber(string.match(reservation, ":(%d+)$"))
end

-- A second settlement of a reservation is nothing.
local function settle(reservation, micros)
  if redis.call("ZREM", KEYS[2], reservation) == 1 then
    reserved = reserved - micros_of(reservation)
    spent = spent + micros
  elseif redis.call("SREM", KEYS[3], reservation) == 1 then
    spent = spent - micros_of(reservation) + micros
  end
end

for _, reservation in ipairs(redis.call("ZRANGE", KEYS[2], "-inf", now, "BYSCORE")) do
  settle(reservation, micros_of(reservation))
  redis.call("SADD", KEYS[3], reservation)
end

local first_asked = 6 + 2 * tonumber(ARGV[5])
for place = 6, first_asked - 1, 2 do
  settle(ARGV[place], tonumber(ARGV[place + 1]))
end

local granted = 0
for place = first_asked, #ARGV do
  local micros = micros_of(ARGV[place])
  -- What is open already, or was charged, is asked for again because the answer got lost: no call was
  -- made, and it is charged once.
  if not redis.call("ZSCORE", KEYS[2], ARGV[place]) then
    settle(ARGV[place], 0)
    if spent + reserved + micros > budget then
      break
    end
    redis.call("ZADD", KEYS[2], now + tonumber(ARGV[3]), ARGV[place])
    reserved = reserved + micros
  end
  granted = granted + 1
end

local function digits(number)
  return string.format("%.0f", number)
end
redis.call("HSET", KEYS[1], "budget", digits(budget), "spent", digits(spent), "reserved", digits(reserved))
redis.call("HSET", KEYS[1], "opened", string.format("%.6f", opened))
redis.call("EXPIRE", KEYS[1], ARGV[4])
redis.call("EXPIRE", KEYS[2], ARGV[4])
redis.call("EXPIRE", KEYS[3], ARGV[4])
return { budget, spent, reserved, granted, is_cancelled }
