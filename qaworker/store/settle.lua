-- Stores what became of chunks, and gives their claims up; a dead one leaves a letter, until an answer
-- takes its place.
--
-- An answer that is stored stays: another one is that of a process which was taken for dead, or of the
-- one that took its place.
--
-- KEYS[1] -> letters, by when they died (Sorted set)
-- KEYS[5n+2] -> an outcome, which begins with + where it is an answer (String)
-- KEYS[5n+3] -> who took its chunk (Set)
-- KEYS[5n+4] -> its claim (String)
-- KEYS[5n+5] -> what the run spent on it (String)
-- KEYS[5n+6] -> the letter of the run's chunk, if it is dead (String)
-- ARGV[1] -> for how many seconds
-- ARGV[2...] -> in fours: an outcome; its letter, empty where it is an answer; when it died; the
--               letter's member in the set
for i = 2, #KEYS, 5 do
  local outcome, takers, claim, spent, letter = unpack(KEYS, i, i + 4)
  local at = (i - 2) / 5 * 4 + 2
  local text, letter_text, died_at, member = unpack(ARGV, at, at + 3)
  if redis.call("GETRANGE", outcome, 0, 0) ~= "+" then
    redis.call("SET", outcome, text, "EX", ARGV[1])
    redis.call("DEL", takers, claim, spent)
    if letter_text ~= "" then
      redis.call("SET", letter, letter_text, "EX", ARGV[1])
      redis.call("ZADD", KEYS[1], died_at, member)
    elseif redis.call("DEL", letter) == 1 then
      redis.call("ZREM", KEYS[1], member)
    end
  end
end
