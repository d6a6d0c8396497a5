-- SPDX-License-Identifier: MIT
-- A program of random operations, from a seed: whatever a script does in whatever order, its interpreter lives.
-- `lua5.4 random_program.lua FIRST LAST` runs many, each in a child, and prints those that ended badly.
-- `SEED SEED 3,7,20` runs these steps alone, and "trace" at the end tells each step.
--
-- What a program keeps away from is what docs/safety.rst excepts: bytes of a mutex are not overwritten, cut away or
-- made anew while somebody may be using them. So an object is either for locks, which then lie in the first KiB of each
-- page and are let alone there, or for everything else.
local helper = require "helper"
local polyshm = require "polyshm"

package.path = (debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "?.lua;" .. package.path

local M = { bad = 0 }

local PAGE, LOCKS = 4096, 1024
local TYPES = { "i8", "u8", "<i16", ">u16", "i32", ">i32", "u64", "=i64", "f32", ">f64", "f64" }
local WORDS = { "i32", "u32", "i64", "u64" }
local FORMATS = { "b", "i4", "<d", ">I8", "z", "s2", "!8i8", "i3", "xxj", "c5", "Xd", "r" }
local ADVICE = { "normal", "random", "sequential", "willneed", "dontneed", "dontneed_locked", "free", "remove",
  "dontfork", "dofork", "wipeonfork", "keeponfork", "mergeable", "unmergeable", "hugepage", "nohugepage", "collapse",
  "dontdump", "dodump", "cold", "pageout", "populate_read", "populate_write" }
local DESTROYING = { dontneed = true, dontneed_locked = true, free = true, remove = true, wipeonfork = true }
local ODD = { -1, 1 << 31, 1 << 47, math.maxinteger, math.mininteger, 1.5, 0 / 0, 1e300, "x", "64M", "", true, {},
  print }
local SORTS = { "segment", "view", "view", "atomic", "mutex", "record_lock", "guard", "arena", "object", "object",
  "participant" }

-- Numbers of its own, so that a step left out changes nothing for the others.
local state
local function seed(number, step)
  state = (number * 0x9E3779B97F4A7C15 + step * 0x2545F4914F6CDD1D) | 1
end
local function random(low, high)
  state = state ~ (state << 13)
  state = state ~ (state >> 7)
  state = state ~ (state << 17)
  return low + (state >> 1) % (high - low + 1)
end
local function luck(percent) return random(1, 100) <= percent end
local function choose(list) return list[random(1, #list)] end

local program -- { seed, prefix, folder, trace, pool = { sort = { ... } }, handles = { address = count }, children }
local depth, step = 0, nil

local function say(...)
  if program.trace then
    io.stderr:write(helper.getpid(), (" "):rep(2 * depth), " ", table.concat({ ... }, " "), "\n")
  end
end

-- What hooks, finalizers and repair functions do: a step, and now and then an error.
local function nested()
  if depth < 4 and helper.now() < program.deadline then
    local before = state
    step()
    state = before
    random(1, 2)
  end
  if luck(30) then error("from a callback") end
end

local function pick(sort)
  local found = program.pool[sort]
  if #found == 0 then error("no " .. sort) end
  return choose(found)
end

local function add(sort, value, more)
  if value then table.insert(program.pool[sort], more or value) end
end

local function odd(value)
  if luck(3) then return choose(ODD) end
  return value
end

local function segment()
  local handle = pick("segment")
  return handle.segment, handle.locks, handle
end

-- An offset and a size inside; none that would write to a mutex.
local function range(seg, locks, write)
  local size = seg.size
  if locks and write then
    local offset = random(0, math.max(1, size // PAGE) - 1) * PAGE + random(LOCKS, PAGE - 1)
    return offset, random(0, PAGE - offset % PAGE)
  end
  local offset = choose { 0, 0, random(0, size), random(0, size // PAGE) * PAGE }
  if offset > size then offset = 0 end
  return offset, choose { size - offset, random(0, size - offset), math.min(PAGE, size - offset) }
end

local function may_destroy(handle)
  return not handle.locks or (next(program.children) == nil and not program.forked and
    (program.handles[handle.segment.address] or 2) < 2)
end

local function timeout() return luck(2) and choose { -1, 0 / 0, "x", {} } or choose { 0, 0.0005, 0.003 } end

local O = {} -- operations; the key's number says how often

local arenas = require "random_arena" { random = random, luck = luck, choose = choose, odd = odd, timeout = timeout,
  nested = nested, pick = pick, add = add, program = function() return program end }

function O.open_14()
  local kind = choose { "posix", "posix", "file", "file", "sysv", "anon", "zero", "memfd", "fd", "private" }
  local locks, number = luck(40), random(0, 1)
  local sort = locks and "locks" or "bytes"
  local options = { create = luck(80) }
  local pages = choose { 1, 2, 4, 4, 32 }
  if options.create or kind == "anon" or kind == "zero" or kind == "memfd" or kind == "private" then
    options.size = (locks or luck(50)) and pages * PAGE or random(1, pages * PAGE)
  end
  if (kind == "posix" or kind == "file" or kind == "fd") and luck(30) then
    options.offset = random(0, 2) * PAGE + (locks and 0 or choose { 0, 0, 8, 100 })
  end
  if luck(locks and 10 or 30) then options.access = choose { "rw", "r", "copy", "none" } end
  for _, option in ipairs { "exclusive", "exec", "populate", "locked", "inherit", "reserve" } do
    if luck(10) then options[option] = odd(luck(50)) end
  end
  if luck(3) then options.hugepages = true end
  if luck(10) then options.mode = choose { "0600", "0666", "0000", "9" } end
  if luck(5) then options.at = (1 << 45) + random(0, 1 << 20) * (1 << 24) end
  if luck(5) then
    options[choose { "size", "offset", "access", "mode", "hugepages", "at", "round", "x" }] = choose(ODD)
  end
  local address
  if kind == "posix" then address = ("posix:/%s-%s%d"):format(program.prefix, sort, number)
  elseif kind == "file" then address = ("file:%s-%s%d"):format(program.folder, sort, number)
  elseif kind == "sysv" then
    address = ("sysv:0x%x"):format(0x51000000 + program.pid % 0x8000 * 0x100 + (locks and 2 or 0) + number)
  elseif kind == "private" then address = "sysv:private"
  elseif kind == "fd" then
    local other
    other, locks = segment()
    address = "fd:" .. tostring(other.fd)
  else address = kind .. ":" .. (kind == "memfd" and sort or "") end
  local seg = assert(polyshm.segment(address, options))
  if seg.kind == "sysv" and seg.created then
    local ids = io.open(program.folder .. "-sysv", "a") -- for who removes what is left
    local written = ids and ids:write(seg:stat().id, "\n") and ids:close()
    if not written then seg:unlink() end
  end
  program.handles[address] = (program.handles[address] or 0) + (kind == "fd" and 2 or 1)
  add("segment", seg, { segment = seg, locks = locks })
  say("opened", address, seg.size, options.access or "")
end

function O.close_6()
  local seg, _, handle = segment()
  seg:close()
  if luck(50) then
    for i = #program.pool.segment, 1, -1 do
      if program.pool.segment[i] == handle then table.remove(program.pool.segment, i) end
    end
  end
end

function O.leave_3()
  local own <close> = segment() -- luacheck: ignore 211
  nested()
end

function O.read_10()
  local seg, locks = segment()
  local offset, size = range(seg, locks)
  local how = random(1, 5)
  if how == 1 then return seg:read(odd(offset), odd(size)) end
  if how == 2 then return seg:find(("x"):rep(choose { 0, 1, 3, 5000 }), odd(offset), odd(offset + size)) end
  if how == 3 then return seg:unpack(choose(FORMATS), odd(offset)) end
  if how == 4 then
    local target, no = segment()
    return no or seg:read_into(target, odd(offset))
  end
  local view = pick("view")
  return view.locks or seg:read_into(view.view, odd(offset))
end

function O.write_10()
  local seg, locks = segment()
  local offset, size = range(seg, locks, true)
  local how = random(1, 4)
  local maybe = locks and function(value) return value end or odd
  if how == 1 then seg:write(maybe(offset), ("y"):rep(size))
  elseif how == 2 then seg:fill(odd(random(0, 255)), maybe(offset), maybe(size))
  elseif how == 3 then seg:copy(maybe(offset), odd((range(seg, locks))), maybe(size))
  elseif size >= 16 then
    seg:pack(choose { "i4", "<d", ">I8", "s2", "z" }, maybe(offset), choose { 1, 2.5, "text", -1 })
  end
end

function O.view_8()
  if luck(30) then
    local of = pick("view")
    add("view", true, { view = of.view:slice(random(1, #of.view), random(1, #of.view)), locks = of.locks })
    return
  end
  local seg, locks = segment()
  local offset, size = range(seg, locks)
  add("view", true, { view = seg:view(odd(choose(TYPES)), odd(offset), choose { odd(size // 8), nil }), locks = locks })
end

function O.use_view_14()
  local of = pick("view")
  local view, how = of.view, random(1, 9)
  local i, j = random(0, #view + 1), random(0, #view + 1)
  if how == 1 then return view[odd(i)] end
  if how == 2 then return view:get(odd(i), math.min(j, i + 300)) end
  if how == 3 then return #view:totable(odd(i), odd(j)) end
  if how == 4 then
    for at in view:each() do
      if at == 3 then nested() end
      if at > 9 then break end
    end
    return
  end
  if how == 5 then return luck(30) and view:close() end
  if of.locks then return end
  if how == 6 then view[odd(i)] = odd(random(-3, 300))
  elseif how == 7 then view:set(odd(i), random(0, 9), odd(1), 2)
  elseif how == 8 then view:fill(odd(random(0, 9)), odd(i), odd(j))
  else
    local target = pick("view")
    if not target.locks then view:copy(target.view, odd(i), odd(j), odd(random(1, 5))) end
  end
end

function O.atomic_4()
  local seg, locks = segment()
  local offset = range(seg, locks, true) & ~7
  add("atomic", seg:atomic(odd(choose(WORDS)), locks and offset or odd(offset)))
end

function O.use_atomic_8()
  local atomic = pick("atomic")
  local how = choose { "load", "store", "add", "sub", "and_", "or_", "xor", "exchange", "compare_exchange", "wait",
    "notify" }
  local value = odd(choose { 0, 1, -1, 1 << 31, math.mininteger })
  if how == "wait" then return atomic:wait(luck(70) and atomic:load() or value, timeout()) end
  return atomic[how](atomic, how ~= "load" and value or nil, how == "compare_exchange" and random(0, 9) or nil)
end

function O.mutex_8()
  local seg, locks, handle
  for _ = 1, 9 do
    seg, locks, handle = segment()
    if locks then break end
  end
  if not locks then error("not for locks") end
  local offset = random(0, math.max(1, seg.size // PAGE) - 1) * PAGE + random(0, 2) * polyshm.MUTEX_SIZE
  local create = luck(60)
  -- Where another one may be using it, it is made only if it is not there.
  if create and not may_destroy(handle) then
    create = helper.getpid() == program.pid and not pcall(seg.mutex, seg, offset)
  end
  local mutex
  local repair = ({ false, false, nested, function() mutex:release() end, function() seg:close() end,
    function() mutex = nil collectgarbage() end })[random(1, 6)]
  local recursive = choose { "no", true, false }
  if recursive == "no" or not create then recursive = nil end
  mutex = seg:mutex(offset, { create = create, recursive = recursive, repair = repair or nil })
  add("mutex", mutex)
end

local function use_lock(lock, recovers)
  local how = random(1, 8)
  if how <= 2 then return lock:acquire(timeout()) end
  if how <= 4 then return lock:release() end
  if how == 5 then return lock:locked(), recovers and lock:owner() end
  if how == 6 then return add("guard", (lock:guard(timeout()))) end
  if how == 7 and recovers then return add("guard", (lock:recover(timeout()))) end
  local held <close> = luck(50) and recovers and lock:recover(0) or lock:guard(0) -- luacheck: ignore 211
  nested()
end

function O.use_mutex_20() use_lock(pick("mutex"), true) end

function O.record_lock_4()
  local seg, locks = segment()
  local offset, size = range(seg, locks)
  add("record_lock", seg:record_lock(odd(offset), odd(size), { shared = luck(40) }))
end

function O.use_record_lock_8() use_lock(pick("record_lock"), false) end

function O.use_guard_5()
  local guard = pick("guard")
  if luck(50) then return guard:release() end
  getmetatable(guard).__close(guard, luck(50) and "an error" or nil)
end

function O.pages_10()
  local seg, locks, handle = segment()
  local offset, size = range(seg, locks)
  offset, size = odd(offset), odd(size)
  local how = random(1, 8)
  if how == 1 then seg:flush(offset, size, { wait = luck(20), invalidate = luck(30) })
  elseif how == 2 then seg:pin(offset, size, { on_fault = luck(30) })
  elseif how == 3 then seg:unpin(offset, size)
  elseif how == 4 then seg[luck(50) and "pin" or "unpin"](seg)
  elseif how <= 6 then seg:protect(choose { "rw", "rw", "r", "none" }, offset, size)
  else
    local advice = choose(ADVICE)
    if not DESTROYING[advice] or may_destroy(handle) then seg:advise(advice, offset, size) end
  end
end

function O.resize_4()
  local seg, locks, handle = segment()
  local size = choose { 1, PAGE, 2 * PAGE, 5 * PAGE, 40 * PAGE, random(1, 9 * PAGE) }
  if not locks then return seg:resize(odd(size)) end
  size = (size + PAGE - 1) // PAGE * PAGE
  if not may_destroy(handle) then size = math.max(size, 32 * PAGE + random(0, 7) * PAGE, seg.size) end
  return seg:resize(size)
end

function O.truncate_4()
  local seg, locks = segment()
  if locks or not seg.fd then return end
  helper.truncate("/proc/self/fd/" .. seg.fd, choose { 0, 1, PAGE, 3 * PAGE, random(0, 9 * PAGE) })
end

function O.ask_4()
  local seg, locks = segment()
  local how = random(1, 7)
  if how == 1 then return seg:stat() end
  if how == 2 then return seg:set { mode = odd(choose { "0600", "0666" }), uid = odd(nil) } end
  if how == 3 then return seg:unlink() end
  if how == 4 then return polyshm.unlink(seg.address) end
  if how == 5 then return polyshm.list() end
  if how == 6 then return polyshm.exists(odd(seg.address)), polyshm.stat(seg.address) end
  for _, name in ipairs { "size", "kind", "name", "address", "fd", "readonly", "created", "lost", "closed" } do
    assert(seg[name] ~= 0 or locks ~= 1)
  end
  return tostring(seg) .. #seg
end

function O.drop_10()
  local sort = choose(SORTS)
  local found = program.pool[sort]
  if luck(8) then program.pool[sort] = {} elseif #found > 0 then table.remove(found, random(1, #found)) end
  if luck(40) then collectgarbage(choose { "collect", "step" }) end
end

-- Garbage that runs a step when it is collected, with something of the pool in the same cycle.
function O.garbage_4()
  local cycle = setmetatable({ pick(choose(SORTS)) }, { __gc = nested })
  cycle.me = cycle
  if luck(30) then debug.getmetatable(cycle).__close = nested end
  if luck(30) then collectgarbage() end
end

function O.hook_4()
  local left = random(1, 3)
  debug.sethook(function()
    left = left - 1
    if left < 0 or depth == 0 then return debug.sethook() end
    local ok, problem = pcall(nested)
    if not ok then
      debug.sethook() -- one error is enough: the next one might find nobody to catch it
      error(problem, 0)
    end
  end, choose { "c", "r", "l", "" }, random(1, 50))
  local ok = pcall(nested)
  debug.sethook()
  return ok
end

-- A step in a coroutine that is closed, or left to the collector, while a block in it holds something.
function O.coroutine_4()
  local thread = coroutine.create(function()
    local seg <close> = luck(30) and segment() or nil -- luacheck: ignore 211
    local mutex = #program.pool.mutex > 0 and pick("mutex") or pick("object")
    local held <close> = luck(50) and mutex:guard(0) or nil -- luacheck: ignore 211
    nested()
    coroutine.yield()
    nested()
  end)
  coroutine.resume(thread)
  if luck(40) then coroutine.resume(thread) elseif luck(50) then coroutine.close(thread) end
end

function O.run_out_1()
  local limit = choose { "nofile", "memlock" }
  local before = helper.rlimit(limit, choose { 0, 5, PAGE })
  local ok, problem = pcall(nested)
  helper.rlimit(limit, before)
  assert(ok, problem)
end

local function collect_children()
  local deadline = helper.now() + 15
  for pid in pairs(program.children) do
    repeat
      local there, how, number = pcall(helper.waitpid, pid, true)
      if not there then how, number = "exit", 0 end -- a callback has collected it
      if helper.now() > deadline then
        io.stderr:write("a child hangs\n")
        helper.kill(pid, helper.SIGKILL)
        helper.exit(99)
      end
      if not how then helper.sleep(0.0005) end
      if how and not (how == "signal" and number == helper.SIGKILL or how == "exit" and number == 0) then
        io.stderr:write(("a child ended by %s %d\n"):format(how, number))
        helper.exit(98)
      end
    until how
    program.children[pid] = nil
  end
end

function O.fork_4()
  if helper.getpid() ~= program.pid and luck(80) then error("enough children") end
  local pid = helper.fork()
  if pid == 0 then
    program.children, program.forked = {}, true
    for _ = 1, choose { 0, 3, 10 } do pcall(nested) end
    debug.sethook()
    collect_children()
    if luck(50) then helper.kill(helper.getpid(), helper.SIGKILL) end
    helper.exit(0)
  end
  program.children[pid], program.forked = true, true
  if luck(70) then collect_children() end
end

O.collect_2 = collect_children

-- What a program is about: memory, arenas, or both.
local ALWAYS = { drop_10 = true, garbage_4 = true, hook_4 = true, coroutine_4 = true, run_out_1 = true, fork_4 = true,
  collect_2 = true }
local names, weights, total
local function choose_operations(memory, with_arenas)
  names, weights, total = {}, {}, 0
  for key in pairs(O) do
    if memory or ALWAYS[key] then names[#names + 1] = key end
  end
  for key in pairs(with_arenas and arenas.operations or {}) do names[#names + 1] = key end
  table.sort(names)
  for i, key in ipairs(names) do
    total = total + tonumber(key:match("%d+$"))
    weights[i] = total
  end
end

local START = { "open_14", "open_14", "open_14", "open_14", "open_14", "open_14", "mutex_8", "mutex_8", "mutex_8",
  "mutex_8", "atomic_4", "view_8", "view_8", "record_lock_4" }

function step(name)
  local at, i = random(1, total), 1
  while weights[i] < at do i = i + 1 end
  name = name or names[i]
  say(">", name)
  local before = depth
  local ok, problem = xpcall(function()
    depth = before + 1
    (O[name] or arenas.operations[name])()
    depth = before -- so that no hook raises outside
  end, function(problem)
    depth = before
    return problem
  end)
  depth = before
  if not ok then say("  ", tostring(problem)) end
end

--- Runs the program of a seed in this process. `steps`: only these. True, or what was left behind.
function M.run(number, steps, trace)
  local pid = helper.getpid()
  program = { seed = number, pid = pid, prefix = ("polyshm-random-%d"):format(pid), trace = trace,
    folder = ("/tmp/polyshm-random-%d"):format(pid), pool = {}, handles = {}, children = {},
    deadline = helper.now() + 10 }
  for _, sort in ipairs(SORTS) do program.pool[sort] = {} end
  seed(number, 0)
  local length, ending, about = choose { 30, 70, 130 }, random(1, 4), random(1, 3)
  choose_operations(about ~= 2, about ~= 1)
  local start = table.move(START, 1, about ~= 2 and #START or 0, 1, {})
  if about ~= 1 then table.move(arenas.start, 1, #arenas.start, #start + 1, start) end
  if luck(30) then collectgarbage("generational") end
  if luck(20) then collectgarbage("incremental", 10, 1000) end
  for i = 1, length do
    if not steps or steps[i] then
      say("step", i)
      seed(number, i)
      for _ = 1, 3 do random(1, 2) end
      step(start[i])
    end
  end
  collect_children()
  for _, problem in ipairs(arenas.check(program.pool.arena)) do
    io.stderr:write(problem, "\n")
    number = nil
  end
  if not number then helper.exit(96) end
  if ending == 1 then return end -- and the state ends with all of it
  for _, sort in ipairs(SORTS) do
    while #program.pool[sort] > 0 do table.remove(program.pool[sort], random(1, #program.pool[sort])) end
    if luck(30) then collectgarbage() end
  end
  program.deadline = 0
  collectgarbage()
  collectgarbage()
end

--- Removes the names that the program of process `pid` may have left.
function M.clean(pid)
  for _, sort in ipairs { "locks", "bytes", "arena" } do
    for number = 0, 1 do
      os.remove(("/tmp/polyshm-random-%d-%s%d"):format(pid, sort, number))
    end
  end
  for _, found in ipairs(assert(polyshm.list())) do
    if found.address:find(("posix:/polyshm-random-%d-"):format(pid), 1, true) then polyshm.unlink(found.address) end
  end
  local ids = io.open(("/tmp/polyshm-random-%d-sysv"):format(pid))
  for id in (ids and ids:lines() or function() end) do polyshm.unlink("sysv:id=" .. id) end
  os.remove(("/tmp/polyshm-random-%d-sysv"):format(pid))
end

--- Runs the programs of the seeds from `first` to `last`, for some seconds at most, each in a child. How many were run;
--- those that ended badly are written out.
function M.many(first, last, seconds, steps, trace)
  local finish, number = helper.now() + (seconds or math.huge), first
  while number <= last and helper.now() < finish do
    local pid = helper.fork()
    if pid == 0 then
      M.run(number, steps, trace)
      os.exit(true, true)
    end
    local deadline, how, code = helper.now() + 30
    repeat
      how, code = helper.waitpid(pid, true)
      if not how then helper.sleep(0.0005) end
    until how or helper.now() > deadline
    if not how then
      helper.kill(pid, helper.SIGKILL)
      helper.waitpid(pid)
      print(("seed %d hangs"):format(number))
      M.bad = M.bad + 1
    elseif how ~= "exit" or code ~= 0 then
      print(("seed %d ended by %s %d"):format(number, how, code))
      M.bad = M.bad + 1
    end
    M.clean(pid)
    number = number + 1
  end
  return number - first
end

if arg and arg[0] and arg[0]:find("random_program%.lua$") then
  local trace, steps = arg[#arg] == "trace", nil
  for number in (arg[3] or ""):gmatch("%d+") do
    steps = steps or {}
    steps[tonumber(number)] = true
  end
  print(M.many(tonumber(arg[1]), tonumber(arg[2] or arg[1]), nil, steps, trace) .. " programs")
  os.exit(M.bad == 0)
end

return M
