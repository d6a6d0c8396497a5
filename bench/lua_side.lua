-- One round of Lua's figures: lines of "name<tab>nanoseconds".
local floor = require "floor_lua"
local polyshm = require "polyshm"

local function measure(statement, names, unroll, seconds)
    unroll, seconds = unroll or 10, seconds or 0.01
    local locals, values = {}, {}
    for name, value in pairs(names) do
        locals[#locals + 1] = name
        values[#values + 1] = value
    end
    local source = ("local %s = ...\nreturn function(times_) for _ = 1, times_ do %s end end"):format(
        table.concat(locals, ", "), (statement .. "\n"):rep(unroll))
    local run = assert(load(source))(table.unpack(values))
    local function timed(n)
        local start = floor.now()
        run(n)
        return floor.now() - start
    end
    local n, taken = 1, timed(1)
    while taken < seconds do
        n = math.max(n * 2, math.floor(n * seconds / math.max(taken, 1e-9)))
        taken = timed(n)
    end
    return math.min(taken, timed(n), timed(n)) / n / unroll * 1e9
end

local function report(name, nanoseconds)
    io.write(name, "\t", nanoseconds, "\n")
end

local address = "posix:/bench-lua-" .. tostring(os.time()) .. math.random(1 << 30)
local seg = assert(polyshm.segment(address, { size = 1 << 20, create = true }))
local view = seg:view("f64", 4096, 64)
local arena = assert(polyshm.arena("anon:", { size = "1M" }))
local names = {
    k = arena:mutex("lock"), c = arena:counter("count"),
    r = arena:rwlock("rw").read, w = arena:rwlock("rw").write,
    se = arena:semaphore("semaphore"), ev = arena:event("event"), la = arena:latch("latch", (1 << 31) - 1),
    pe = arena:permits("permits", 4), on = arena:once("once"),
    s = seg, a = seg:atomic("i64", 0), m = seg:mutex(64, { create = true }), v = view, unpack = string.unpack,
    e = floor.object, f = floor.field_object, x = floor.array, b = ("x"):rep(64),
}
for _, row in ipairs {
    { "atomic.add", "local _ = a:add(1)" },
    { "empty add", "local _ = e:add(1)" },
    { "mutex pair", "m:acquire() m:release()" },
    { "arena mutex pair", "k:acquire() k:release()" },
    { "rwlock read pair", "r:acquire() r:release()" },
    { "rwlock write pair", "w:acquire() w:release()" },
    { "semaphore pair", "se:acquire() se:release()" },
    { "event pair", "ev:set() ev:clear()" },
    { "event.is_set", "local _ = ev:is_set()" },
    { "latch.count_down", "local _ = la:count_down()" },
    { "permits pair", "pe:acquire() pe:release()" },
    { "once.done", "local _ = on:done()" },
    { "one empty", "e:yes()" },
    { "counter.add", "local _ = c:add(1)" },
    { "two empty", "e:yes() e:nop()" },
    { "read", "local _ = s:read(0, 64)" },
    { "empty give", "local _ = e:give(0, 64)" },
    { "empty give, fields", "local _ = f:give(0, 64)" },
    { "write", "s:write(0, b)" },
    { "empty take", "e:take(0, b)" },
    { "empty take, fields", "f:take(0, b)" },
    { "v[i]", "local _ = v[5]" },
    { "bare __index", "local _ = x[5]" },
    { "unpack(read)", "local _ = unpack('d', s:read(4096, 8))" },
} do
    report(row[1], measure(row[2], names))
end
report("floor atomic", floor.atomic_add(2000000))
report("floor mutex pair", floor.mutex_pair(1000000))

for _, row in ipairs { { "1 MiB", 1 << 20, 200, 0.02 }, { "64 MiB", 64 << 20, 3, 0.001 } } do
    local label, size, n, seconds = table.unpack(row)
    local one = assert(polyshm.segment("anon:", { size = size, populate = true }))
    local two = assert(polyshm.segment("anon:", { size = size, populate = true }))
    one:fill(1)
    two:fill(1)
    local set = { s = one, t = two, b = ("x"):rep(size), n = size }
    set.v, set.w = one:view("u8", 0, size), two:view("u8", 0, size)
    report("write " .. label, measure("s:write(0, b)", set, 1, seconds))
    report("floor copy " .. label, floor.copy(n, size))
    report("view copy " .. label, measure("v:copy(w)", set, 1, seconds))
    report("read_into " .. label, measure("s:read_into(t)", set, 1, seconds))
    report("read " .. label, measure("local _ = s:read(0, n)", set, 1, seconds))
    report("floor malloc copy " .. label, floor.malloc_copy(n, size))
    one:close()
    two:close()
end

local cycle = address .. "-cycle"
report("floor create", floor.create(1000))
local set = { P = polyshm.segment, n = cycle, o = { size = 4096, exclusive = true } }
report("create", measure("local s = P(n, o) s:unlink() s:close()", set, 1))
local kept = assert(polyshm.segment(cycle, { size = 1 << 20, create = true }))
report("attach", measure("P(n):close()", set, 1))
report("floor attach", floor.attach(2000, "/dev/shm" .. cycle:match(":(.*)")))
kept:unlink()
seg:unlink()
