-- Claims what has no other owner, and tells what is known of it.
--
-- Who claims is noted as a taker until it says what became of the chunk: takers that are left died.
--
-- KEYS[1] -> the run's budget (Hash)
-- KEYS[4n+2] -> a claim (String)
-- KEYS[4n+3] -> its outcome (String)
-- KEYS[4n+4] -> what the run spent on it (String)
-- KEYS[4n+5] -> who took it (Set)
-- ARGV[1] -> who claims
-- ARGV[2] -> for how long, in milliseconds
-- ARGV[3] -> after how many deaths the claimer does not count as a taker before it calls
-- ARGV[4] -> for how many seconds takers are remembered
-- Output: 1 when the run has a budget, else 0; then for each claim its owner before, the outcome, what
--         was spent, and how many takers died
local found = { redis.call("EXISTS", KEYS[1]) }
for i = 2, #KEYS, 4 do
  local owner = redis.call("SET", KEYS[i], ARGV[1], "NX", "GET", "PX", ARGV[2])
  local deaths = 0
  if not owner or owner == ARGV[1] then
    deaths = redis.call("SCARD", KEYS[i + 3]) - redis.call("SISMEMBER", KEYS[i + 3], ARGV[1])
    if deaths < tonumber(ARGV[3]) then
      redis.call("SADD", KEYS[i + 3], ARGV[1])
      redis.call("EXPIRE", KEYS[i + 3], ARGV[4])
    end
  end
  local outcome, spent = unpack(redis.call("MGET", KEYS[i + 1], KEYS[i + 2]))
  found[#found + 1] = {owner, outcome, spent, deaths}
end
return found
