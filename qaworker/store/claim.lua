-- Claims what has no other owner, and tells what is known of it.
--
-- Who claims is noted as a taker until it says what became of the chunk: takers that are left died.
--
-- KEYS[4n+1] -> a claim (String)
-- KEYS[4n+2] -> its outcome (String)
-- KEYS[4n+3] -> what the run spent on it (String)
-- KEYS[4n+4] -> who took it (Set)
-- ARGV[1] -> who claims
-- ARGV[2] -> for how long, in milliseconds
-- ARGV[3] -> after how many deaths the claimer does not count as a taker before it calls
-- ARGV[4] -> for how many seconds takers are remembered
-- Output: for each claim its owner before, the outcome, what was spent, and how many takers died
local found = {}
for i = 1, #KEYS, 4 do
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
