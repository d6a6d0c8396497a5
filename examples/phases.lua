-- SPDX-License-Identifier: MIT
-- Workers in step: a barrier between the phases.
--
--     phases.lua posix:/phases 3     a worker of three, in Lua; phases.py is one in Python. They wait for each other
--     phases.lua posix:/phases 3 4 0.05     the same: how many phases there are, and how long each takes
--
-- In each phase a worker adds its part to a sum, and nobody begins the next one before all have. The barrier shrinks: a
-- worker that is killed is not waited for any more. `python -m polyshm rm posix:/phases` removes the arena.
local polyshm = require "polyshm"

local usage = "usage: phases.lua ADDRESS WORKERS [PHASES [SECONDS]]"
local address, workers = arg[1] or error(usage, 0), math.tointeger(tonumber(arg[2])) or error(usage, 0)
local phases, seconds = math.tointeger(tonumber(arg[3] or 4)), tonumber(arg[4] or 0.05)

local shared <close> = assert(polyshm.arena(address, { create = true }))
local barrier = shared:barrier("phases", workers, { on_death = "shrink" })
local total, never = shared:counter("total"), shared:event("never")

barrier:wait() -- all are there
for phase = 1, phases do
  never:wait(seconds)
  total:add(1)
  if barrier:wait() == 0 then -- one of them says so
    io.write(string.format("lua: phase %d, total %d\n", phase, total:load()))
    io.flush()
  end
end
barrier:leave()
