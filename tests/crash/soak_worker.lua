-- SPDX-License-Identifier: MIT
-- A worker of soak_mixed.py in Lua: as soak_worker.py, with one thread.
--
--   soak_worker.lua ADDRESS LOG NUMBER SEED PLACE ...

local polyshm = require "polyshm"

local NESTED, NAMES = 5, 12
local address, log, number, seed = arg[1], arg[2], tonumber(arg[3]), tonumber(arg[4])
local places = {}
for i = 5, #arg do places[#places + 1] = math.tointeger(tonumber(arg[i])) end
math.randomseed(seed)
local random = math.random

local arena, locks, counters
local rw, pool, barrier, left, right, changed, changes, seats, event

local function open()
  arena = assert(polyshm.arena(address))
  locks, counters = {}, {}
  for i = 1, #places do locks[i] = arena:mutex("lock" .. i - 1) end
  for i = 1, 2 do counters[i] = arena:counter("counter" .. i - 1) end
  rw, pool, barrier = arena:rwlock("rw"), arena:permits("pool"), arena:barrier("barrier")
  left, right = arena:counter("left"), arena:counter("right")
  changed, changes = arena:condition("changed"), arena:mutex("changes")
  seats, event = arena:semaphore("places"), arena:event("event")
end

-- Whoever is told dead is, or is at its end this moment.
local function is_gone(pid)
  local finish = os.time() + 3
  repeat
    local file = io.open("/proc/" .. pid .. "/stat")
    if not file then return true end
    local text = file:read "a"
    file:close()
    if not text or text == "" then return true end
    local state = text:match "%) (%a)"
    if state == "Z" or state == "X" then return true end
  until os.time() > finish
  return false
end

local function word(place)
  return (string.unpack("J", arena:read(place, 8)))
end

local function repair(place)
  for i = 0, NESTED - 1 do assert(arena:free_from(place + 16 + 8 * i)) end
  arena:write(place + 8, arena:read(place, 8))
end

local function keep(place)
  local target = place + 16 + 8 * random(0, NESTED - 1)
  local block = word(target)
  if block ~= 0 then
    local inside = word(block)
    assert(inside == block, "a block at " .. block .. " has " .. inside .. " in it")
    arena:write(block, string.pack("J", 0))
    assert(arena:free_from(target))
    return
  end
  local done, message, code = arena:alloc_into(target, 8 + random(0, 1 << random(0, 13)))
  if not done then
    assert(code == "ENOSPC", message)
    return
  end
  block = word(target)
  assert(word(block) == 0, "a new block is not zero")
  arena:write(block, string.pack("J", block))
end

local function books(place, died)
  if died then
    assert(not died.pid or is_gone(died.pid), "told the death of one who lives")
    repair(place)
  end
  local a, b = string.unpack("JJ", arena:read(place, 16))
  assert(a == b, "the books differ: " .. a .. ", " .. b)
  arena:write(place, string.pack("J", a + 1))
  if random() < 0.5 then keep(place) end
  arena:write(place + 8, string.pack("J", b + 1))
end

local function use_lock()
  local i = random(#places)
  if random() < 0.3 then
    local done, problem = pcall(locks[i].acquire, locks[i])
    if done then
      books(places[i])
      locks[i]:release()
      return
    end
    assert(type(problem) == "table" and problem.code == "EOWNERDEAD", tostring(problem))
  end
  local held <close>, died = locks[i]:recover() -- luacheck: ignore held
  books(places[i], died)
end

local function use_counter()
  local counter = counters[random(2)]
  local now = counter:add()
  if random() < 0.1 then counter:wait(now + 1, 0.002) end
end

-- Calls it; a death that it is told must be one.
local function told(body)
  local done, problem = pcall(body)
  if done then return end
  assert(type(problem) == "table" and problem.code == "EOWNERDEAD", tostring(problem))
  assert(not problem.pid or is_gone(problem.pid), "told the death of one who lives")
end

local function use_rwlock()
  if random() < 0.7 then
    told(function()
      local held <close> = rw.read:guard() -- luacheck: ignore held
      assert(left:load() == right:load(), "a reader sees a writer at work")
    end)
    return
  end
  local held <close>, died = rw.write:recover() -- luacheck: ignore held
  if died then right:store(left:load()) end
  local value = left:load()
  assert(right:load() == value, "a writer sees another at work")
  left:store(value + 1)
  right:store(value + 1)
end

local function use_permits()
  local n = random(3)
  if pool:acquire(n, 0.01) then
    assert(pool:held() == n)
    pool:release(n)
  end
end

local function use_barrier()
  local done, problem = pcall(barrier.wait, barrier, 0.002)
  if type(problem) == "table" and problem.code == "EBROKEN" then
    barrier:reset()
  else
    assert(done or tostring(problem):find "parties", tostring(problem))
  end
  barrier:leave()
end

local function use_condition()
  told(function()
    local held <close> = changes:recover() -- luacheck: ignore held
    if random() < 0.5 then changed:notify(2) else changed:wait(0.005) end
  end)
end

local function use_words()
  if random() < 0.5 then
    seats:acquire(0.002)
    seats:release() -- or in place of one who died with it
  else
    event:set()
    event:wait(0.002)
  end
end

local function use_name()
  local name, way = "name" .. random(0, NAMES - 1), random(4)
  local done, problem = pcall(function()
    if way == 1 then
      local counter = arena:counter(name)
      for _ = 1, 3 do counter:add() end
    elseif way == 2 then
      local held <close> = arena:mutex(name):recover() -- luacheck: ignore held
    else
      arena:delete(name)
    end
  end)
  local code = type(problem) == "table" and problem.code
  local expected = done or code == "EDELETED" or code == "ENOSPC" or tostring(problem):find "another kind"
  assert(expected, tostring(problem))
end

local function use_root()
  local place = arena:root(random(5, 14))
  local done, problem, code = pcall(function()
    if random() < 0.5 then
      local allocated, message, why = arena:alloc_into(place, random(1 << random(0, 15)))
      assert(allocated or why == "ENOSPC", message)
    else
      assert(arena:free_from(place))
    end
  end)
  assert(done or tostring(problem):find "does not hold 0", tostring(problem) .. tostring(code))
end

local function look()
  local selves, names = 0, 0
  for _, one in ipairs(assert(arena:participants())) do
    if one.self then selves = selves + 1 end
  end
  assert(selves <= 1)
  for _ in pairs(arena) do names = names + 1 end
  assert(names >= #places + 11)
  if random() < 0.2 then
    arena:close()
    open()
  end
end

local ways = {
  use_lock, use_lock, use_lock, use_lock, use_rwlock, use_permits, use_barrier, use_condition, use_words,
  use_counter, use_name, use_name, use_root, use_root, look,
}
local turns = assert(polyshm.segment(log))
local at = number * 8
open()
while true do
  ways[random(#ways)]()
  turns:write(at, string.pack("J", string.unpack("J", turns:read(at, 8)) + 1))
end
