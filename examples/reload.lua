-- SPDX-License-Identifier: MIT
-- A configuration that many read and one reloads: a read-write lock.
--
--     reload.lua posix:/config           reads it for ever, and says when it has changed (reload.py does the same)
--     reload.lua posix:/config 3         the same, until it has changed three times
--     reload.lua posix:/config 20 80     sets new limits, which belong together: low and high
--
-- Readers do not keep each other waiting. A reader may be killed at any time; where one is killed that is writing, the
-- next one takes the limits of before from the copy that it made. Whoever it is and wherever it dies, low and high
-- belong together.
local polyshm = require "polyshm"

local address = arg[1] or error("usage: reload.lua ADDRESS [CHANGES | LOW HIGH]", 0)
local shared <close> = assert(polyshm.arena(address, { create = true }))

local names = { "low", "high" }
local limits, before = {}, {}
for i, name in ipairs(names) do
  limits[i], before[i] = shared:counter(name), shared:counter(name .. " before")
end
local changing = shared:counter("changing") -- 1: the limits may be half changed, and the copy is whole
local version = shared:counter("version")

local lock = shared:rwlock("config", {
  -- May be killed as well, and is begun again by the next one; so each step can be done twice.
  repair = function(died)
    io.stderr:write(string.format("process %s died writing\n", died.pid))
    if changing:load() == 1 then
      for i in ipairs(names) do limits[i]:store(before[i]:load()) end
      changing:store(0)
    end
  end,
})

local function read()
  local held <close> = lock.read:guard() -- luacheck: ignore held
  return version:load(), limits[1]:load(), limits[2]:load()
end

local function write(...)
  local held <close> = lock.write:guard() -- luacheck: ignore held
  for i in ipairs(names) do before[i]:store(limits[i]:load()) end
  changing:store(1)
  for i, value in ipairs { ... } do limits[i]:store(value) end
  version:add(1)
  changing:store(0)
end

if arg[3] then
  write(math.tointeger(tonumber(arg[2])), math.tointeger(tonumber(arg[3])))
  return
end
local seen, left = 0, math.tointeger(tonumber(arg[2] or -1))
while left ~= 0 do
  version:wait(seen + 1)
  local low, high
  seen, low, high = read()
  io.write(string.format("lua: version %d, from %d to %d\n", seen, low, high))
  io.flush()
  left = left - 1
end
