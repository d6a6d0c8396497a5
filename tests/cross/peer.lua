-- SPDX-License-Identifier: MIT
-- A partner in Lua for the tests across languages. The commands are described in peer.py.
local helper = require "helper"
local polyshm = require "polyshm"

local things, recoveries = {}, {}
local commands = {}

local function hex(data)
  if data == "" then return "-" end
  return (data:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

local function unhex(text)
  if text == "-" then return "" end
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function flag(value)
  return value and 1 or 0
end

local function seconds(text)
  if text == "-" then return nil end
  return text == "try" and 0 or tonumber(text)
end

local function options(...)
  local given = {}
  for _, word in ipairs { ... } do
    local key, value = word:match("^(%w+)=(.*)$")
    given[key] = value
  end
  return given
end

-- What a call that the system refused gives, as an error that `answer` knows.
local function check(value, message, code)
  if value == nil and code then error { refused = code, message = message } end
  return value
end

function commands.open(name, address, ...)
  local given = options(...)
  for _, key in ipairs { "size", "offset" } do given[key] = math.tointeger(given[key]) end
  for _, key in ipairs { "create", "exclusive", "reserve", "inherit" } do
    if given[key] then given[key] = given[key] == "1" end
  end
  local seg = check(polyshm.segment(address, given))
  things[name] = seg
  return seg.size, seg.kind, flag(seg.created), flag(seg.readonly), seg.fd or -1, seg.name == "" and "-" or seg.name,
    seg.address
end

function commands.close(name)
  things[name]:close()
  things[name] = nil
end

function commands.size(name) return #things[name] end
function commands.lost(name) return flag(things[name].lost) end
function commands.resize(name, size) check(things[name]:resize(math.tointeger(size))) end
function commands.unlink(name) check(things[name]:unlink()) end
function commands.set(name, mode) check(things[name]:set { mode = mode }) end

local function fields(stat)
  local words = {}
  for key, value in pairs(stat) do
    if key == "address" then value = hex(value) end
    words[#words + 1] = key .. "=" .. value
  end
  return words
end

function commands.segstat(name) return table.unpack(fields(check(things[name]:stat()))) end
function commands.stat(address) return table.unpack(fields(check(polyshm.stat(address)))) end

function commands.list()
  local words = {}
  for i, stat in ipairs(check(polyshm.list())) do words[i] = table.concat(fields(stat), ";") end
  return table.unpack(words)
end

function commands.exists(address) return flag(check(polyshm.exists(address))) end
function commands.remove(address) check(polyshm.unlink(address)) end

function commands.read(name, offset, size)
  return hex(things[name]:read(math.tointeger(offset), math.tointeger(size)))
end

function commands.write(name, offset, data) things[name]:write(math.tointeger(offset), unhex(data)) end

function commands.fill(name, byte, offset, size)
  things[name]:fill(math.tointeger(byte), math.tointeger(offset), math.tointeger(size))
end

function commands.copy(name, target, source, size)
  things[name]:copy(math.tointeger(target), math.tointeger(source), math.tointeger(size))
end

function commands.find(name, data) return things[name]:find(unhex(data)) or -1 end

local FLOATS = { inf = math.huge, ["-inf"] = -math.huge, nan = -(0 / 0) }

local function float_text(value)
  if value ~= value then return "nan" end
  if value == math.huge then return "inf" end
  if value == -math.huge then return "-inf" end
  return ("%a"):format(value)
end

function commands.store(name, kind, offset, ...)
  local view <close> = things[name]:view(kind, math.tointeger(offset), select("#", ...))
  for i, text in ipairs { ... } do view[i] = FLOATS[text] or tonumber(text) end
end

function commands.load(name, kind, offset, count)
  local view <close> = things[name]:view(kind, math.tointeger(offset), math.tointeger(count))
  local words = {}
  for i = 1, #view do words[i] = kind:find("f", 1, true) and float_text(view[i]) or view[i] end
  return table.unpack(words)
end

function commands.atomic(name, segment, kind, offset)
  things[name] = things[segment]:atomic(kind, math.tointeger(offset))
end

function commands.op(name, verb, ...)
  local values = { ... }
  for i, text in ipairs(values) do values[i] = tonumber(text) end
  local word = things[name]
  return word[verb](word, table.unpack(values))
end

function commands.wait(name, expected, timeout)
  return flag(things[name]:wait(tonumber(expected), seconds(timeout)))
end

function commands.notify(name, count) return things[name]:notify(math.tointeger(count)) end

function commands.addloop(name, count)
  local word = things[name]
  for _ = 1, count do word:add(1) end
end

function commands.casloop(name, count)
  local word = things[name]
  for _ = 1, count do
    local old = word:load()
    repeat
      local found = word:compare_exchange(old, old + 1)
      local done = found == old
      old = found
    until done
  end
end

function commands.pingpong(name, first, count)
  local word = things[name]
  for i = 0, count - 1 do
    local mine = 2 * i + math.tointeger(first)
    local now = word:load()
    while now ~= mine do
      word:wait(now)
      now = word:load()
    end
    word:add(1)
    word:notify(1)
  end
end

function commands.mutex(name, segment, offset, ...)
  local seg, given = things[segment], options(...)
  local function repair(died)
    if given.repair == "error" then error("not repaired") end
    seg:pack("=I8", math.tointeger(given.repair), (died.pid or 0) + 1)
  end
  local wanted = { create = given.create ~= nil, repair = given.repair and repair or nil }
  if given.recursive then wanted.recursive = given.recursive == "1" end
  things[name] = seg:mutex(math.tointeger(offset), wanted)
end

function commands.record(name, segment, offset, size, ...)
  local lock, message, code = things[segment]:record_lock(math.tointeger(offset), math.tointeger(size),
    { shared = options(...).shared ~= nil })
  things[name] = check(lock, message, code)
end

function commands.acquire(name, timeout) return flag(check(things[name]:acquire(seconds(timeout)))) end
function commands.release(name) things[name]:release() end
function commands.locked(name) return flag(things[name]:locked()) end
function commands.owner(name) return things[name]:owner() or "-" end

-- A coroutine, so that the guard's block is still open when the answer goes out.
function commands.recover(name, timeout)
  local lock = things[name]
  local block = coroutine.wrap(function()
    local held <close>, died = lock:recover(seconds(timeout)) -- luacheck: ignore held
    if coroutine.yield(died) == "error" then error({}) end
  end)
  local died = block()
  recoveries[name] = block
  if not died then return "none" end
  return "died", died.pid or "-"
end

function commands.leave(name, how)
  local block = recoveries[name]
  recoveries[name] = nil
  local ok, problem = pcall(block, how)
  if not ok and how ~= "error" then error(problem, 0) end
end

local function increment(seg, offset)
  seg:pack("=I8", offset, (seg:unpack("=I8", offset)) + 1)
end

function commands.incloop(name, segment, offset, count, how)
  local lock, seg, at = things[name], things[segment], math.tointeger(offset)
  for _ = 1, count do
    if how == "guard" then
      local held <close> = lock:guard() -- luacheck: ignore held
      increment(seg, at)
    else
      lock:acquire()
      increment(seg, at)
      lock:release()
    end
  end
end

function commands.arena(name, address, ...)
  local given = options(...)
  for _, key in ipairs { "size", "participants" } do given[key] = math.tointeger(given[key]) end
  for _, key in ipairs { "create", "exclusive", "reserve" } do
    if given[key] then given[key] = given[key] == "1" end
  end
  given.wait = tonumber(given.wait)
  local arena = check(polyshm.arena(address, given))
  things[name] = arena
  return arena.size, arena.kind, flag(arena.created), flag(arena.readonly), arena.life, ("%x"):format(arena.id),
    arena.address
end

function commands.shut(name) things[name]:close() end
function commands.unname(name) check(things[name]:unlink()) end

function commands.names(name)
  local words = {}
  for i, entry in ipairs(check(things[name]:list())) do words[i] = hex(entry.name) .. "=" .. entry.kind end
  return table.unpack(words)
end

local NOUNS = { ["polyshm.mutex"] = "mutex", ["polyshm.counter"] = "counter", ["polyshm.rwlock"] = "rwlock",
  ["polyshm.condition"] = "condition", ["polyshm.semaphore"] = "semaphore", ["polyshm.permits"] = "permits",
  ["polyshm.event"] = "event", ["polyshm.barrier"] = "barrier", ["polyshm.once"] = "once", ["polyshm.latch"] = "latch" }

function commands.has(name, key) return flag(things[name]:has(key)) end
function commands.kind(name, key) return NOUNS[getmetatable(check(things[name]:open(key))).__name] end
function commands.delete(name, key) check(things[name]:delete(key)) end
function commands.check(name) return table.unpack(check(things[name]:check())) end

function commands.stats(name, ...)
  local stats, words = things[name]:stats(), {}
  for i, field in ipairs { ... } do words[i] = stats[field] end
  return table.unpack(words)
end

function commands.amutex(name, arena, key, ...)
  local given = options(...)
  local function repair(died)
    if given.repair == "error" then error("not repaired") end
    things[given.repair]:store((died.pid or 0) + 1)
  end
  local wanted = { repair = given.repair and repair or nil }
  if given.recursive then wanted.recursive = given.recursive == "1" end
  things[name] = things[arena]:mutex(key, wanted)
end

function commands.counter(name, arena, key) things[name] = things[arena]:counter(key) end

function commands.plain(name, arena, kind, key, parameter)
  local value, rest
  if parameter == "-" then
    value = nil
  elseif kind == "event" then
    value = { auto = true }
  elseif parameter:match("s$") then
    value, rest = math.tointeger(parameter:sub(1, -2)), { on_death = "shrink" }
  else
    value = math.tointeger(parameter)
  end
  things[name] = things[arena][kind](things[arena], key, value, rest)
end
function commands.act(name, verb, n, timeout)
  local thing, limit = things[name], seconds(timeout)
  local number = n ~= "-" and math.tointeger(n) or nil
  local ok, result
  if verb == "run" then
    ok, result = pcall(thing.run, thing, function() things[n]:add() end)
  elseif verb == "stay" or verb == "fail" then
    ok, result = pcall(thing.run, thing, function()
      things[n]:add()
      things[n]:wait(1000, limit)
      if verb == "fail" then error("failed", 0) end
    end)
    if result == "failed" then ok, result = true, false end
  elseif getmetatable(thing).__name == "polyshm.permits" and verb == "acquire" then
    ok, result = pcall(thing.acquire, thing, number, limit)
  elseif verb == "acquire" or verb == "wait" then
    ok, result = pcall(thing[verb], thing, limit)
  else
    ok, result = pcall(thing[verb], thing, number)
  end
  if not ok and type(result) == "table" and result.code == "EBROKEN" then return "broken" end
  if not ok then error(result, 0) end
  if type(result) == "boolean" then return flag(result) end
  if result ~= nil then return result end
end

function commands.rwlock(name, arena, key) things[name] = things[arena]:rwlock(key) end
function commands.rtake(name, side, timeout)
  return flag(things[name][side]:acquire(timeout == "try" and 0 or seconds(timeout)))
end
function commands.rgive(name, side) things[name][side]:release() end
function commands.rdown(name) things[name]:downgrade() end
function commands.rlocked(name)
  local rw = things[name]
  return flag(rw.read:locked()), flag(rw.write:locked()), rw.write:owner() or 0
end
function commands.rmend(name, side)
  local held <close>, died = things[name][side]:recover() -- luacheck: ignore held
  return died and died.pid or 0
end
function commands.rloop(name, counter, count)
  local rw, number = things[name], things[counter]
  for i = 0, math.tointeger(count) - 1 do
    local held <close> = (i % 3 == 0 and rw.write or rw.read):guard() -- luacheck: ignore held
    local before = number:load()
    if i % 3 == 0 then
      number:store(before + 1)
      rw:downgrade()
    end
    assert(number:load() == before + (i % 3 == 0 and 1 or 0), "somebody writes while another reads")
  end
end

commands.count = commands.op
commands.countloop = commands.addloop

function commands.atleast(name, least, timeout)
  return flag(things[name]:wait(math.tointeger(least), seconds(timeout)))
end

function commands.turns(name, first, count)
  local counter = things[name]
  for i = 0, count - 1 do
    counter:wait(2 * i + math.tointeger(first))
    counter:add(1)
  end
end

function commands.bump(name, counter, count, how)
  local lock, number = things[name], things[counter]
  for _ = 1, count do
    if how == "guard" then
      local held <close> = lock:guard() -- luacheck: ignore held
      number:store(number:load() + 1)
    else
      lock:acquire()
      number:store(number:load() + 1)
      lock:release()
    end
  end
end

function commands.condition(name, arena, key, mutex)
  things[name] = things[arena]:condition(key, things[mutex])
end

commands["await"] = function(name, timeout)
  local held <close> = things[name]:guard() -- luacheck: ignore held
  return flag(things[name]:wait(seconds(timeout)))
end

function commands.tell(name, count)
  local held <close> = things[name]:guard() -- luacheck: ignore held
  if count == "all" then things[name]:notify_all() else things[name]:notify(math.tointeger(count)) end
end

function commands.volley(name, counter, first, count)
  local condition, turn = things[name], things[counter]
  for i = 0, count - 1 do
    local held <close> = condition:guard() -- luacheck: ignore held
    condition:wait_for(function() return turn:load() == 2 * i + math.tointeger(first) end)
    turn:add()
    condition:notify()
  end
end

function commands.trip(name, count)
  local lock = things[name]
  for _ = 1, count do
    lock:acquire()
    lock:release()
  end
end

function commands.create(name, prefix, count)
  local arena = things[name]
  for i = 0, count - 1 do
    local counter = arena:counter(prefix .. i)
    local ok, problem = pcall(counter.add, counter, 1)
    if not ok and problem.code ~= "EDELETED" then error(problem, 0) end
  end
end

function commands.deleteall(name, prefix, count)
  local arena = things[name]
  for i = 0, count - 1 do
    local done, message, code = arena:delete(prefix .. i)
    if code ~= "ENONAME" then check(done, message, code) end
  end
end

function commands.root(name, index) return things[name]:root(index + 1) end

function commands.alloc(name, place, size)
  check(things[name]:alloc_into(math.tointeger(place), math.tointeger(size)))
end

function commands.free(name, place) check(things[name]:free_from(math.tointeger(place))) end
function commands.blocksize(name, place) return things[name]:block_size(math.tointeger(place)) end
function commands.peek(name, place, size) return hex(things[name]:read(math.tointeger(place), math.tointeger(size))) end
function commands.poke(name, place, data) things[name]:write(math.tointeger(place), unhex(data)) end

function commands.heaploop(name, index, count)
  local arena = things[name]
  local target = arena:root(index + 1)
  for i = 0, count - 1 do
    local size = 1 + i * 7919 % 20000
    check(arena:alloc_into(target, size))
    local place = string.unpack("=I8", arena:read(target, 8))
    if arena:read(place, size):find("[^\0]") then error("a new block is not zero") end
    local data = string.char(1 + (index + i) % 255):rep(size)
    arena:write(place, data)
    if arena:read(place, size) ~= data then error("somebody else has the block") end
    check(arena:free_from(target))
  end
end

function commands.crowd(name)
  local words = {}
  for i, p in ipairs(check(things[name]:participants())) do
    table.sort(p.holds)
    local holds = #p.holds > 0 and table.concat(p.holds, ",") or "-"
    words[i] = table.concat(
      { p.slot, p.generation, p.pid, p.thread, p.language, flag(p.alive), flag(p.self), holds, p.waits or "-" }, ";")
  end
  return table.unpack(words)
end

function commands.watch(name, arena, pid)
  for _, p in ipairs(check(things[arena]:participants())) do
    if p.pid == math.tointeger(pid) and p.alive then things[name] = p end
  end
  assert(things[name])
end

function commands.gone(name, timeout) return flag(things[name]:wait(seconds(timeout))) end

local function waitable(text)
  local name, least = text:match("^([^:]+):?(.*)$")
  if least == "" then return things[name] end
  return { things[name], math.tointeger(least) }
end

function commands.any(timeout, ...)
  local names, all, found = { ... }, {}, {}
  for i, name in ipairs(names) do
    all[i] = waitable(name)
  end
  local ready = {}
  for _, thing in ipairs(polyshm.wait(all, seconds(timeout))) do
    ready[thing] = true
  end
  for i, name in ipairs(names) do
    if ready[all[i]] then found[#found + 1] = name end
  end
  return table.unpack(found)
end

function commands.polled(name)
  local thing = waitable(name)
  local object, least = thing, nil
  if type(thing) == "table" then
    object, least = thing[1], thing[2]
  end
  while true do
    local fd = object:pollfd(least)
    if #polyshm.wait({ thing }, 0) > 0 then return end
    helper.readable(fd, 20)
  end
end

function commands.pid() return helper.getpid() end

function commands.reset()
  recoveries = {}
  for _, thing in pairs(things) do
    local noun = getmetatable(thing).__name
    if noun == "polyshm.segment" or noun == "polyshm.arena" then thing:close() end
  end
  things = {}
  collectgarbage()
  collectgarbage()
end

local serve

function commands.fork(source, target)
  local pid = helper.fork()
  if pid ~= 0 then return pid end
  io.input(source)
  io.output(target)
  serve()
  helper.exit(0)
end

function commands.start(source, target, ...)
  local pid = helper.fork()
  if pid == 0 then
    helper.exec("sh", "-c", 'exec <"$0" >"$1"; shift; exec "$@"', source, target, ...)
  end
  return pid
end

function commands.reap(pid) return helper.waitpid(math.tointeger(pid)) end
function commands.exit() os.exit(0, false) end
function commands.die() helper.raise(helper.SIGKILL) end

local INCOMPATIBLE = { ENOTARENA = 1, EFORMAT = 1, EABI = 1, ETRUNCATED = 1, ENETWORK = 1, EELSEWHERE = 1 }
local CLASSES = setmetatable({ ECORRUPT = "Corrupt" }, { __index = function(_, code)
  return INCOMPATIBLE[code] and "Incompatible" or code
end })

local function describe(problem)
  if type(problem) ~= "table" then return "err raise " .. tostring(problem) end
  if problem.refused then return ("err %s %s"):format(CLASSES[problem.refused], problem.message) end
  if problem.code == "EOWNERDEAD" then return "died " .. (problem.pid or "-") end
  return ("err %s %s"):format(CLASSES[problem.code], tostring(problem))
end

local function answer(line)
  local words = {}
  for word in line:gmatch("%S+") do words[#words + 1] = word end
  local command = commands[words[1]]
  if not command then return "fail no command " .. tostring(words[1]) end
  local results = table.pack(pcall(command, table.unpack(words, 2)))
  if not results[1] then return describe(results[2]) end
  results[1] = "ok"
  return table.concat(results, " ")
end

function serve()
  for line in io.lines() do
    io.write((answer(line):gsub("\n", " ")), "\n")
    io.output():flush()
  end
end

serve()
