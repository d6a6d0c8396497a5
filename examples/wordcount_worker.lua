-- SPDX-License-Identifier: MIT
-- A worker of wordcount.py: wordcount_worker.lua TEXT TABLE NUMBER, both by address.
--
-- It claims chunks of the text, counts them and adds what it found to the shared table, until all chunks are in.
-- wordcount_worker.py is the same in Python; worker 1 is always a Lua one, and the one that is killed.
local polyshm = require "polyshm"

local FREE, DONE = 0, 100
local LONGEST = 20

-- What wordcount.layout describes: atomics, views and the mutex, by name.
local function open_table(segment, repair)
  local t = { segment = segment, offset = {} }
  local path = arg[0]:match("^(.*/)") or ""
  for line in io.lines(path .. "wordcount.layout") do
    local name, kind, offset, count = line:match("^(%l[%w]*)%s+(%w+)%s+(%d+)%s+([%d*]+)")
    if kind == "mutex" then
      t[name] = segment:mutex(tonumber(offset), { repair = repair })
    elseif kind == "word" then
      t[name] = segment:atomic("u32", tonumber(offset))
    elseif kind then
      t[name] = segment:view(kind, tonumber(offset), math.tointeger(tonumber(count)))
    end
    if name then t.offset[name] = tonumber(offset) end
  end
  t.heads = { [0] = t.head0, t.head1 }
  t.words = { [0] = t.words0, t.words1 }
  t.bytes = { [0] = t.bytes0, t.bytes1 }
  return t
end

-- Counting

local function letter(text, offset)
  return text:read(offset, 1):find("^[A-Za-z]") ~= nil
end

-- A word belongs to the chunk that it starts in. Where this chunk's first word begins, and its last one ends.
local function edges(text, start, finish)
  local first, last = start, finish
  if start > 0 and letter(text, start - 1) then
    while first < finish and letter(text, first) do first = first + 1 end
  end
  if first < finish and letter(text, finish - 1) then
    while last < #text and letter(text, last) do last = last + 1 end
  end
  return first, last
end

-- Words by length, and bytes, of one chunk.
local function count(text, start, finish)
  local first, last = edges(text, start, finish)
  local data = text:read(start, last - start)
  local words = {}
  for i = 1, LONGEST do words[i] = 0 end
  -- Positions instead of the words themselves: no string is made.
  for from, to in data:gmatch("()[A-Za-z]+()", first - start + 1) do
    local length = to - from
    if length > LONGEST then length = LONGEST end
    words[length] = words[length] + 1
  end
  local h, byte = {}, string.byte
  for i = 0, 255 do h[i] = 0 end
  local size = finish - start
  local whole = size - size % 8
  for i = 1, whole, 8 do
    local a, b, c, d, e, f, g, k = byte(data, i, i + 7)
    h[a] = h[a] + 1 h[b] = h[b] + 1 h[c] = h[c] + 1 h[d] = h[d] + 1
    h[e] = h[e] + 1 h[f] = h[f] + 1 h[g] = h[g] + 1 h[k] = h[k] + 1
  end
  for i = whole + 1, size do
    local a = byte(data, i)
    h[a] = h[a] + 1
  end
  return words, h
end

-- The table

-- What follows a commit. Under the lock; doing it twice does no harm.
local function finish(t)
  local chunk, worker, done = t.heads[t.front:load()]:get(1, 3)
  if chunk > 0 then
    t.state[chunk] = DONE + worker
    if chunk == t.again:load() then t.redone:store(worker) end
  end
  t.done:store(done)
  t.done:notify(100)
end

-- Worker 1 waits here for its end, with the lock held and half of its chunk written.
local function trap(t)
  t.trapped:store(1)
  t.trapped:notify()
  t.trapped:wait(1, 30)
  error("nobody came to kill me")
end

-- Adds a chunk to the sums. Under the lock; a death before the store to `front` leaves them as they were.
local function add(t, worker, chunk, words, histogram)
  local front = t.front:load()
  local back = 1 - front
  local target, source = t.words[back], t.words[front]
  for i = 1, LONGEST do target[i] = source[i] + words[i] end
  local done = t.heads[front][3]
  if worker == 1 and done >= t.setup[2] then trap(t) end
  target, source = t.bytes[back], t.bytes[front]
  for i = 1, 256 do target[i] = source[i] + histogram[i - 1] end
  t.heads[back]:set(1, chunk + 1, worker, done + 1)
  t.front:store(back)
  finish(t)
end

-- The owner of the lock died. Under the lock: finishes what it had committed, and gives its chunk back.
local function repair(t, worker, pid)
  finish(t)
  local dead
  for i, p in t.pid:each() do
    if p == pid then dead = i end
  end
  for chunk, state in t.state:each() do
    if state == dead then
      t.again:store(chunk)
      t.state[chunk] = FREE
    end
  end
  t.repaired:store(worker)
  t.repaired:notify()
end

-- A chunk that nobody has: the one given back, the next one, or any that fell through.
local function claim(t, worker)
  local function take(chunk)
    local state = t.segment:atomic("u32", t.offset.state + 4 * chunk)
    return state:compare_exchange(FREE, worker) == FREE
  end
  local chunks = t.setup[1]
  local again = t.again:load()
  if again > 0 and take(again - 1) then return again - 1 end
  while t.cursor:load() < chunks do
    local chunk = t.cursor:add(1)
    if chunk < chunks and take(chunk) then return chunk end
  end
  for chunk, state in t.state:each() do
    if state == FREE and take(chunk - 1) then return chunk - 1 end
  end
  return nil
end

local function work(text, t, worker)
  local chunks, size, step = t.setup[1], t.sizes:get(1, 2)
  if not t.go:wait(0, 30) then error("nobody said go") end
  -- The first chunk of each worker is its own from the beginning.
  local chunk = worker <= chunks and worker - 1 or nil
  local idle = 0
  while true do
    if not chunk then
      local done = t.done:load()
      if done == chunks then return end
      -- The others are at the last ones. If one of them dies, its chunk comes back: who takes the lock is told.
      if t.done:wait(done, 0.1) then
        idle = 0
      else
        idle = idle + 1
        if idle > 300 then error("nobody finishes the last chunks") end
        t.lock:guard():release()
      end
    else
      local start = chunk * step
      local words, histogram = count(text, start, math.min(start + step, size))
      local _ <close> = t.lock:guard()
      add(t, worker, chunk, words, histogram)
    end
    chunk = claim(t, worker)
  end
end

local function pid()
  local stat <close> = assert(io.open("/proc/self/stat"))
  return stat:read("n")
end

local text <close> = assert(polyshm.segment(arg[1], { access = "r" }))
local worker = math.tointeger(tonumber(arg[3]))
local segment <close> = assert(polyshm.segment(arg[2]))
local t
t = open_table(segment, function(died) repair(t, worker, died.pid) end)
t.pid[worker] = pid()
work(text, t, worker)
