-- SPDX-License-Identifier: MIT
-- A pool of connections that workers of any language share: permits.
--
--     pool.lua posix:/pool           a worker; start as many as you like, in Lua or Python (pool.py)
--     pool.lua posix:/pool 5 0.05    the same: how many jobs it does, and how long each takes
--
-- Each job takes one of the connections. Kill a worker in the midst of its job with `kill -9`: its connection is free
-- again at once, and the others go on.
local polyshm = require "polyshm"

local address = arg[1] or error("usage: pool.lua ADDRESS [JOBS [SECONDS]]", 0)
local jobs = math.tointeger(tonumber(arg[2] or 5))
local seconds = tonumber(arg[3] or 0.05)

local shared <close> = assert(polyshm.arena(address, { create = true }))
local pool = shared:permits("connections", not shared:open("connections") and 2 or nil)
local most, done = shared:counter("most"), shared:counter("done")
local never = shared:event("never") -- what is waited for to spend time

for job = 1, jobs do
  do
    local connection <close> = pool:guard() -- luacheck: ignore connection
    local busy = pool:total() - pool:available()
    io.write(string.format("lua: job %d, %d of %d connections in use\n", job, busy, pool:total()))
    io.flush()
    most:max(busy)
    never:wait(seconds)
  end
  done:add(1)
end
