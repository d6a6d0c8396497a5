-- SPDX-License-Identifier: MIT
-- What is expensive is made once, by whoever needs it first: once.
--
--     lazy.lua posix:/squares 12     what is 12 squared? The first process to ask makes the table, in Lua or Python
--
-- Who comes meanwhile waits for it. Kill the one that makes it with `kill -9`: the next one makes it.
local polyshm = require "polyshm"

local SIZE = 1000
local usage = "usage: lazy.lua ADDRESS NUMBER [SECONDS]"
local address, number = arg[1] or error(usage, 0), math.tointeger(tonumber(arg[2])) or error(usage, 0)
if number < 0 or number >= SIZE then error("there are squares of 0 to " .. SIZE - 1, 0) end
local seconds = tonumber(arg[3] or 0.2)

local shared <close> = assert(polyshm.arena(address, { create = true }))
local root, never = shared:root(1), shared:event("never")

shared:once("table"):run(function()
  io.write("lua: making the table\n")
  io.flush()
  never:wait(seconds)
  if string.unpack("=I8", shared:read(root, 8)) ~= 0 then
    assert(shared:free_from(root)) -- of one who died making it
  end
  assert(shared:alloc_into(root, 8 * SIZE))
  local place = string.unpack("=I8", shared:read(root, 8))
  local squares = {}
  for n = 0, SIZE - 1 do squares[#squares + 1] = string.pack("=i8", n * n) end
  shared:write(place, table.concat(squares))
end)
local place = string.unpack("=I8", shared:read(root, 8))
print((string.unpack("=i8", shared:read(place + 8 * number, 8))))
