-- SPDX-License-Identifier: MIT
-- Two processes take turns and add to one counter.
--
--     counter.lua                              a memfd, inherited by a child that this one starts
--     counter.lua memfd:counter 10 python      the same with 10 steps, and a child in Python
--     counter.lua posix:/counter               with whoever runs the same, in another terminal, in Lua or Python
--     counter.lua sysv:0x1234                  the same by a System V key; file:PATH works too
--
-- Who comes first creates, which `created` tells, and is player 0; counter.py is the other half in Python.
local polyshm = require "polyshm"

-- The segment: all zeros in the beginning.
local SIZE = 64
local STEPS = 0 -- u32: how many there will be, written by the creator; 0 until then
local SEATS = 4 -- u32: 1 once the second player has sat down
local TURN = 8 -- u32: steps that are done; even: player 0 is next
local COUNTER = 16 -- i64

local TIMEOUT = 60 -- seconds to wait for the other

local address = arg[1] or "memfd:counter"
local steps = math.tointeger(tonumber(arg[2] or 10))
local language = arg[3] or "lua"

local function fail(...)
  error(string.format(...), 0)
end

local function pid()
  local stat <close> = assert(io.open("/proc/self/stat"))
  return stat:read("n")
end

-- The creator is player 0 and says how many steps there are; the next one is player 1.
local function sit_down(segment)
  local all = segment:atomic("u32", STEPS)
  if segment.created then
    all:store(steps)
    all:notify(2)
    return 0
  end
  if not all:wait(0, TIMEOUT) then fail("%s: its creator is gone", segment.address) end
  if segment:atomic("u32", SEATS):exchange(1) ~= 0 then fail("%s: two are playing already", segment.address) end
  return 1
end

-- Adds whenever it is this player's turn, until all steps are done.
local function play(segment, player)
  local all, turn = segment:atomic("u32", STEPS):load(), segment:atomic("u32", TURN)
  local counter = segment:atomic("i64", COUNTER)
  local me = pid()
  local now = turn:load()
  while now < all do
    if now % 2 == player then
      local before = counter:add(1)
      io.write(string.format("lua, pid %d: step %d of %d, %d + 1 = %d\n", me, now + 1, all, before, before + 1))
      io.flush()
      turn:store(now + 1)
      turn:notify()
    elseif not turn:wait(now, TIMEOUT) then
      fail("%s: the other player is gone, or never came", segment.address)
    end
    now = turn:load()
  end
  local total = counter:load()
  io.write(string.format("lua, pid %d: total %d\n", me, total))
  if total ~= all then fail("%s: the total should be %d", segment.address, all) end
end

-- The descriptor was opened with inherit = true: the child finds it under its number.
local function with_child(segment)
  local folder = arg[0]:match("^(.*/)") or "./"
  local programs = {
    lua = arg[-1] .. " " .. folder .. "counter.lua",
    python = (os.getenv("PYTHON") or "python3") .. " " .. folder .. "counter.py",
  }
  sit_down(segment)
  local child = assert(io.popen(("%s fd:%d"):format(programs[language], segment.fd), "w"))
  play(segment, 0)
  return child:close()
end

local function with_anybody(segment)
  play(segment, sit_down(segment))
  return true
end

local function main()
  local kind = address:match("^%a+")
  local options = { size = SIZE, create = true, inherit = kind == "memfd" }
  if kind == "fd" then options = nil end
  local segment, message = polyshm.segment(address, options)
  if not segment then fail("%s", message) end
  local ok, result = pcall(kind == "memfd" and with_child or with_anybody, segment)
  if segment.created then segment:unlink() end
  segment:close()
  return ok and result or fail("%s", result or "the child failed")
end

local ok, message = pcall(main)
if not ok then io.stderr:write("counter: ", message, "\n") end
os.exit(ok, true)
