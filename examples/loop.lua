-- SPDX-License-Identifier: MIT
-- A plain poll loop with coroutines, which wait for objects of an arena by their descriptors; nobody blocks the others.
--
--     loop.lua posix:/loop     three workers take turns, in this process and with others that run the same; one more
--                              coroutine waits for the event "stop", which somebody sets from anywhere:
--                              python3 -c 'import polyshm; polyshm.Arena("posix:/loop").event("stop").set()'
--
-- The loop is LuaSocket's select; any other that polls descriptors goes as well.
local polyshm = require "polyshm"
local socket = require "socket"

local address = arg[1] or error("usage: loop.lua ADDRESS", 0)
local shared <close> = assert(polyshm.arena(address, { create = true }))

-- Waits until attempt() succeeds, which takes what the object has if it can, and never waits itself. The descriptor is
-- armed before each attempt, so that no change between the two is missed.
local function await(object, attempt)
  local fd = object:pollfd()
  while not attempt() do
    coroutine.yield(fd)
    fd = object:pollfd()
  end
end

local function pause(seconds)
  coroutine.yield(nil, socket.gettime() + seconds)
end

-- Runs the coroutines until all have ended.
local function run(tasks)
  local waits = {} -- of each: what select takes, or a time
  local function step(task)
    local ok, fd, time = coroutine.resume(task)
    if not ok then error(fd, 0) end
    waits[task] = coroutine.status(task) ~= "dead" and (fd and { getfd = function() return fd end } or time) or nil
  end
  for _, task in ipairs(tasks) do step(task) end
  while next(waits) do
    local list, soon = {}, socket.gettime() + 1
    for _, wait in pairs(waits) do
      if type(wait) == "number" then soon = math.min(soon, wait) else list[#list + 1] = wait end
    end
    local ready = socket.select(list, nil, math.max(0, soon - socket.gettime()))
    local now, turn = socket.gettime(), {}
    for task, wait in pairs(waits) do
      if type(wait) == "number" and wait <= now or ready[wait] then turn[#turn + 1] = task end
    end
    for _, task in ipairs(turn) do step(task) end
  end
end

local stopped = false
-- Coroutines of one loop are one thread, and a mutex is for threads. One permit goes for both: who tries gets it if
-- none of them has it; and it is free again when its process is killed, as a semaphore is not.
local stop, turn, turns = shared:event("stop"), shared:permits("turn", 1), shared:counter("turns")

local function worker(number)
  return coroutine.create(function()
    while not stopped do
      await(turn, function() return turn:acquire(1, 0) end)
      io.write(string.format("worker %d, turn %d\n", number, turns:add()))
      io.flush()
      pause(0.002)
      turn:release()
      pause(0.001)
    end
  end)
end

local tasks = { worker(1), worker(2), worker(3) }
tasks[#tasks + 1] = coroutine.create(function()
  await(stop, function() return stop:wait(0) end)
  stopped = true
end)
run(tasks)
print("stopped")
