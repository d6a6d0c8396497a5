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

function commands.pid() return helper.getpid() end

function commands.reset()
  recoveries = {}
  for _, thing in pairs(things) do
    if getmetatable(thing).__name == "polyshm.segment" then thing:close() end
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

local function describe(problem)
  if type(problem) ~= "table" then return "err raise " .. tostring(problem) end
  if problem.refused then return ("err %s %s"):format(problem.refused, problem.message) end
  if problem.code == "EOWNERDEAD" then return "died " .. (problem.pid or "-") end
  return ("err %s %s"):format(problem.code, tostring(problem))
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
