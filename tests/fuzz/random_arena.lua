-- SPDX-License-Identifier: MIT
-- The steps of random_program.lua on arenas: objects of all nouns, polyshm.wait and pollfd. Nothing waits for ever.
-- Bytes of an arena are let alone; fuzz_arena.c is for those.
local helper = require "helper"
local polyshm = require "polyshm"

local NOUNS = { "mutex", "rwlock", "semaphore", "permits", "condition", "event", "barrier", "once", "latch", "counter" }

--- The operations and those that a program begins with. `p` has random, luck, choose, odd, timeout, nested, pick, add
--- and program, the program that runs.
return function(p)
  local random, luck, choose, odd, nested, pick, add = p.random, p.luck, p.choose, p.odd, p.nested, p.pick, p.add
  local O, U = {}, {} -- operations, and how each noun is used

  function O.open_arena_6()
    local kind = choose { "posix", "posix", "posix", "file", "anon", "zero", "memfd" }
    local options = { create = luck(90) }
    if options.create then
      options.size = choose { 1 << 17, 1 << 18, "1M" }
      options.participants = choose { 4, 16, 64 }
    end
    if luck(20) then options.access = choose { "r", "r", "rw" } end
    if luck(20) then options.life = choose { "keep", "last-detach" } end
    if luck(5) then options.exclusive = true end
    if luck(3) then options[choose { "size", "participants", "mode", "life", "wait" }] = odd(p.timeout()) end
    local program, address = p.program(), kind .. ":"
    if kind == "posix" then address = ("posix:/%s-arena%d"):format(program.prefix, random(0, 1))
    elseif kind == "file" then address = ("file:%s-arena%d"):format(program.folder, random(0, 1)) end
    add("arena", assert(polyshm.arena(address, options)))
  end

  function O.close_arena_3()
    local arena = pick("arena")
    if luck(50) then return getmetatable(arena).__close(arena) end
    arena:close()
  end

  function O.object_14()
    local arena = pick("arena")
    local noun = choose(NOUNS)
    -- Names that two nouns want are refused to one of them.
    local name = odd(choose { noun .. 0, noun .. 0, noun .. 1, "any" })
    local handle
    if luck(10) then handle = arena:open(name)
    elseif noun == "mutex" or noun == "rwlock" then
      local repair = choose { false, nested, function() handle:release() end, function() arena:close() end }
      local options = { repair = repair or nil }
      if noun == "mutex" and luck(50) then options.recursive = luck(50) end
      handle = arena[noun](arena, name, options)
    elseif noun == "condition" then
      handle = arena:condition(name, choose { arena:mutex("mutex0"), arena:mutex("mutex1") })
    elseif noun == "event" then handle = arena:event(name, luck(50) and { auto = luck(50) } or nil)
    elseif noun == "barrier" then
      handle = arena:barrier(name, odd(random(1, 3)), luck(50) and { on_death = choose { "break", "shrink" } } or nil)
    elseif noun == "permits" or noun == "latch" or noun == "semaphore" then
      handle = arena[noun](arena, name, odd(random(1, 3)))
    else handle = arena[noun](arena, name) end
    add("object", handle)
  end

  local function held(lock)
    local guard <close> = lock:guard(0) -- luacheck: ignore 211
    nested()
  end

  local function lock(of)
    local how = random(1, 9)
    if how <= 2 then return of:acquire(p.timeout()) end
    if how <= 4 then return of:release() end
    if how == 5 then return of:locked(), of:owner(), tostring(of) end
    if how == 6 then return add("guard", (of:guard(p.timeout()))) end
    if how == 7 then return add("guard", (of:recover(p.timeout()))) end
    if how == 8 then return held(of) end
    local guard <close> = of:recover(0) -- luacheck: ignore 211
    nested()
  end
  U.mutex = lock

  function U.rwlock(rwlock)
    if luck(20) then return rwlock:downgrade() end
    return lock(choose { rwlock.read, rwlock.write })
  end

  function U.semaphore(semaphore)
    local how = random(1, 3)
    if how == 1 then return semaphore:acquire(p.timeout()) end
    if how == 2 then return semaphore:release(odd(random(1, 2))) end
    return semaphore:value()
  end

  function U.permits(permits)
    local how, n = random(1, 6), odd(random(1, 3))
    if how == 1 then return permits:acquire(n, p.timeout()) end
    if how == 2 then return permits:release(n) end
    if how == 3 then return permits:available(), permits:held(), permits:total() end
    if how == 4 then return add("guard", (permits:guard(n, p.timeout()))) end
    if how == 5 then return permits:release(permits:held()) end
    local guard <close> = permits:guard(n, 0) -- luacheck: ignore 211
    nested()
  end

  function U.condition(condition)
    local how = random(1, 6)
    -- Who has the mutex then may wait for this child to end.
    if how ~= 1 and helper.getpid() ~= p.program().pid then return condition:notify_all() end
    if how == 1 then return condition:notify(odd(1)) end
    if how == 2 then return condition:notify_all() end
    if how == 3 then return condition:wait(p.timeout()) end
    if how == 4 then return lock(condition:mutex()) end
    local guard <close> = condition:guard(0) -- luacheck: ignore 211
    if how == 5 then return condition:wait(p.timeout()) end
    return condition:wait_for(luck(90) and nested or coroutine.yield, p.timeout())
  end

  function U.event(event)
    local how = random(1, 4)
    if how == 1 then return event:set() end
    if how == 2 then return event:clear() end
    if how == 3 then return event:is_set(), event:auto() end
    return event:wait(p.timeout())
  end

  function U.barrier(barrier)
    local how = random(1, 8)
    if how <= 3 then return barrier:wait(p.timeout()) end
    if how == 4 then return barrier:n_waiting(), barrier:broken(), barrier:parties(), barrier:on_death() end
    local verb = ({ "join", "leave", "reset", "abort" })[how - 4]
    return barrier[verb](barrier)
  end

  function U.once(once)
    if luck(20) then return once:done() end
    local run = choose { nested, error, coroutine.yield, function() once:run(print, 0) end,
      function() getmetatable(once).__close(once) end }
    return once:run(odd(run), p.timeout())
  end

  function U.latch(latch)
    if luck(30) then return latch:count_down(odd(1)) end
    return latch:count(), latch:wait(p.timeout())
  end

  function U.counter(counter)
    local verb = choose { "load", "store", "add", "sub", "exchange", "max", "min", "wait", "compare_exchange" }
    local value = odd(random(-1, 3))
    if verb == "wait" then return counter:wait(value, p.timeout()) end
    return counter[verb](counter, verb ~= "load" and value or nil, verb == "compare_exchange" and 2 or nil)
  end

  function O.use_object_60()
    local handle = pick("object")
    local noun = getmetatable(handle).__name:match("[^.]+$")
    if luck(1) then return getmetatable(handle).__close(handle) end
    if luck(2) then return tostring(handle) .. handle:name() end
    return U[noun](handle)
  end

  local function waitable()
    local handle = pick(luck(90) and "object" or "participant")
    return luck(10) and { handle, odd(2) } or handle
  end

  function O.wait_8()
    local all = {}
    for i = 1, choose { 0, 1, 2, 5, 150 } do
      local handle = waitable()
      -- What cannot be waited for is refused now and then.
      if luck(2) or not tostring(handle):find("rwlock") then all[#all + 1] = handle end
      all[i + 1] = nil
    end
    return polyshm.wait(odd(all), p.timeout())
  end

  function O.poll_8()
    local handle = pick(luck(90) and "object" or "participant")
    local fd = handle:pollfd(luck(10) and odd(2) or nil)
    if luck(50) then
      handle = nil -- luacheck: ignore 311
      nested()
    end
    return helper.readable(fd, choose { 0, 0.001 })
  end

  function O.delete_4()
    local arena = pick("arena")
    local names = assert(arena:list())
    return arena:delete(odd(#names > 0 and choose(names).name or "none"))
  end

  function O.ask_arena_4()
    local arena, how = pick("arena"), random(1, 6)
    if how == 1 then
      for _, participant in ipairs(assert(arena:participants())) do add("participant", participant) end
    elseif how == 2 then return arena:check()
    elseif how == 3 then return arena:stats(), #arena, tostring(arena), arena:has("any")
    elseif how == 4 then return arena:unlink()
    elseif how == 5 then return pick("participant"):wait(p.timeout())
    else
      for _, handle in pairs(arena) do add("object", handle) end
    end
  end

  --- What is wrong in the arenas, where all that was under way is over.
  local function check(arenas)
    local found = {}
    for _, arena in ipairs(arenas) do
      local ok, problems = pcall(arena.check, arena)
      for _, problem in ipairs(ok and problems or {}) do found[#found + 1] = problem end
    end
    return found
  end

  return { operations = O, check = check, start = { "open_arena_6", "open_arena_6", "open_arena_6", "object_14",
    "object_14", "object_14", "object_14", "object_14", "object_14", "object_14", "object_14", "object_14" } }
end
