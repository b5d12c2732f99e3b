-- Stores what became of chunks, and gives their claims up.
--
-- The first outcome stays, of a process that was taken for dead and of the one that took its place,
-- unless the first is dead and the second an answer: who is no taker any more comes too late. Where
-- Redis has forgotten everything, there is none to be kept.
--
-- KEYS[5n+1] -> an outcome (String)
-- KEYS[5n+2] -> who took its chunk (Set)
-- KEYS[5n+3] -> its claim (String)
-- KEYS[5n+4] -> what the run spent on it (String)
-- KEYS[5n+5] -> the letter of the run's chunk, if it is dead (String)
-- ARGV[1] -> who writes
-- ARGV[2] -> for how many seconds
-- ARGV[3...] -> in pairs: an outcome, and whether it is an answer (1 or 0)
for i = 1, #KEYS, 5 do
  local at = (i - 1) / 5 * 2 + 3
  local is_taker = redis.call("SISMEMBER", KEYS[i + 1], ARGV[1]) == 1
  local is_better = ARGV[at + 1] == "1" and redis.call("EXISTS", KEYS[i + 4]) == 1
  if is_taker or is_better or redis.call("EXISTS", KEYS[i]) == 0 then
    redis.call("SET", KEYS[i], ARGV[at], "EX", ARGV[2])
    redis.call("DEL", KEYS[i + 1], KEYS[i + 2], KEYS[i + 3])
  end
end
