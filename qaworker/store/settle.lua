-- Stores what became of chunks, and gives their claims up; a dead one leaves a letter.
--
-- The first outcome stays, of a process that was taken for dead and of the one that took its place,
-- unless the first is dead and the second an answer: who is no taker any more comes too late. Where
-- Redis has forgotten everything, there is none to be kept.
--
-- KEYS[1] -> letters, by when they died (Sorted set)
-- KEYS[5n+2] -> an outcome (String)
-- KEYS[5n+3] -> who took its chunk (Set)
-- KEYS[5n+4] -> its claim (String)
-- KEYS[5n+5] -> what the run spent on it (String)
-- KEYS[5n+6] -> the letter of the run's chunk, if it is dead (String)
-- ARGV[1] -> who writes
-- ARGV[2] -> for how many seconds
-- ARGV[3...] -> in fours: an outcome; its letter, empty where it is an answer; when it died; the
--               letter's member in the set
for i = 2, #KEYS, 5 do
  local outcome, takers, claim, spent, letter = unpack(KEYS, i, i + 4)
  local at = (i - 2) / 5 * 4 + 3
  local text, letter_text, died_at, member = unpack(ARGV, at, at + 3)
  local is_dead = letter_text ~= ""
  local is_taker = redis.call("SISMEMBER", takers, ARGV[1]) == 1
  local is_better = not is_dead and redis.call("EXISTS", letter) == 1
  if is_taker or is_better or redis.call("EXISTS", outcome) == 0 then
    redis.call("SET", outcome, text, "EX", ARGV[2])
    redis.call("DEL", takers, claim, spent)
    if is_dead then
      redis.call("SET", letter, letter_text, "EX", ARGV[2])
      redis.call("ZADD", KEYS[1], died_at, member)
    elseif is_better then
      redis.call("DEL", letter)
      redis.call("ZREM", KEYS[1], member)
    end
  end
end
