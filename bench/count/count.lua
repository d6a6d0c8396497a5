-- count.lua OPERATION TIMES: does one operation so often, for callgrind to count.
local polyshm = require "polyshm"

local segment = assert(polyshm.segment("anon:", { size = 1 << 16 }))
local statements = {
    ["empty"] = "",
    ["atomic.add"] = "local _ = a:add(1)",
    ["atomic.load"] = "local _ = a:load()",
    ["mutex.acquire+release"] = "m:acquire() m:release()",
    ["segment.read 64 B"] = "local _ = s:read(4096, 64)",
    ["segment.write 64 B"] = "s:write(4096, b)",
    ["view[i]"] = "local _ = v[5]",
    ["view[i] = x"] = "v[5] = 1.5",
}
local source = "local s, a, m, v, b, times = ... for _ = 1, times do " .. statements[arg[1]] .. " end"
assert(load(source))(segment, segment:atomic("i64", 0), segment:mutex(64, { create = true }),
    segment:view("f64", 8192, 64), ("x"):rep(64), tonumber(arg[2]))
