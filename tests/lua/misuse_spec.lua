-- SPDX-License-Identifier: MIT
-- Nothing that a script does can crash its interpreter: wrong arguments everywhere, finalizers in any order, memory
-- that runs out, hooks that close things.
-- luacheck: ignore 211/held 211/guard
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises, refused = support.raises, support.refused

describe("misuse", function()
  local seg
  before_each(function() seg = assert(polyshm.segment("anon:", { size = 4096 })) end)
  after_each(function() seg:close() end)
  support.watch { before_each = before_each, after_each = after_each }

  -- One of each, and the methods of its type.
  local function objects()
    local mem = assert(polyshm.segment("memfd:polyshm-test", { size = 4096 }))
    local lock = mem:mutex(64, { create = true })
    local shared = assert(polyshm.arena("memfd:polyshm-test", { create = true, size = "1M", participants = 4 }))
    local all = {
      segment = mem, view = mem:view("i32"), atomic = mem:atomic("u32", 0), segment_mutex = lock,
      record_lock = mem:record_lock(), guard = lock:guard(),
      arena = shared, mutex = shared:mutex("books"), counter = shared:counter("hits"),
      participant = shared:participants()[1],
    }
    local methods = {}
    for name in pairs(all) do
      local index = debug.getregistry()["polyshm." .. name].__index
      if type(index) == "function" then index = select(2, debug.getupvalue(index, 1)) end
      methods[name] = {}
      for key, value in pairs(index) do
        if type(value) == "function" then methods[name][key] = value end
      end
    end
    return all, methods
  end

  local odd = {
    -1, 1.5, 0 / 0, 1 / 0, -1 / 0, 2 ^ 53, 2 ^ 63, -2 ^ 63, 1e300, math.maxinteger, math.mininteger, 4095, 4096, 0,
    "", "0", "64M", "x", "99999999999999999999G", ("x"):rep(5000), "\0", true, false, {}, print,
    coroutine.create(print), io.stdout,
  }

  it("of the wrong self is an error that says what was expected", function()
    local all, methods = objects()
    for name, list in pairs(methods) do
      for _, method in pairs(list) do
        for other, value in pairs(all) do
          if other ~= name then raises(("polyshm.%s expected"):format(name), method, value, 1, 1, 1) end
        end
        for _, value in ipairs(odd) do raises(("polyshm.%s expected"):format(name), method, value, 1, 1, 1) end
        raises(("polyshm.%s expected"):format(name), method)
        raises("expected", method, nil)
      end
      local meta = debug.getregistry()["polyshm." .. name]
      for event, method in pairs(meta) do
        if type(method) == "function" and event ~= "__index" then
          for _, value in ipairs(odd) do raises("expected", method, value, 1, 1) end
        end
      end
    end
    local view_index = getmetatable(all.view).__index
    raises("polyshm.view expected", view_index, all.segment, 1)
    raises("polyshm.view expected", view_index, io.stdout, 1)
    raises("polyshm.segment expected", getmetatable(all.segment).__index, {}, "size")
    raises("polyshm.arena expected", getmetatable(all.arena).__index, {}, "size")
    raises("polyshm.participant expected", getmetatable(all.participant).__index, all.arena, "pid")
    all.guard:release()
  end)

  it("of any argument is an error or harmless, seed " .. support.seed, function()
    math.randomseed(support.seed)
    support.in_child(function() -- which may end up with locks held and memory protected
      for _ = 1, 40 do
        local all, methods = objects()
        all.guard:release()
        for name, list in pairs(methods) do
          for key, method in pairs(list) do
            if key ~= "close" then
              for _ = 1, 15 do
                local arguments = {}
                local n = math.random(0, 4)
                for i = 1, n do arguments[i] = odd[math.random(#odd)] end
                -- Nothing that would wait for ever.
                if key == "acquire" or key == "guard" or key == "recover" or name == "participant" then
                  n, arguments = 1, { 0 }
                elseif key == "wait" then
                  n, arguments[2] = 2, 0
                end
                pcall(method, all[name], table.unpack(arguments, 1, n))
              end
            end
          end
        end
        for _, value in ipairs(odd) do
          pcall(function() return all.view[value] end)
          pcall(function() all.view[value] = value end)
          pcall(function() all.view[1] = value end)
          pcall(polyshm.segment, "anon:", { size = value, reserve = false })
          pcall(polyshm.exists, value)
          pcall(polyshm.stat, value)
        end
        all.segment:close()
      end
    end)
  end)

  it("of offsets and sizes names what was wrong", function()
    for _, wrong in ipairs { -1, math.mininteger, -1.0 } do
      raises("offset " .. tostring(wrong) .. ": must not be negative", seg.read, seg, wrong, 1)
      raises("size " .. tostring(wrong) .. ": must not be negative", seg.read, seg, 0, wrong)
    end
    for _, wrong in ipairs { 1.5, 0 / 0, 1 / 0, 1e300, 2.0 ^ 63 } do
      raises("not a whole number in range", seg.read, seg, wrong, 1)
      raises("not a whole number in range", seg.view, seg, "u8", 0, wrong)
    end
    for _, wrong in ipairs { "x", "1.5", "", "-1", "99999999999999999999G" } do
      raises(('offset "%s"'):format(wrong), seg.write, seg, wrong, "")
    end
    raises("offset: integer or a text", seg.write, seg, {}, "")
    raises("offset: integer or a text", seg.write, seg, nil, "")
    raises("string expected", seg.write, seg, 0, 5)
    raises("string expected", seg.write, seg, 0)
    raises("string expected", seg.find, seg, 5)
    raises("outside the segment", seg.read, seg, "1K", "4K")
  end)

  it("of options names the option", function()
    local function open(options) return function() return polyshm.segment("anon:", options) end end
    raises("unknown option 'siez'", open { siez = 1 })
    raises("unknown option '1'", open { 1 })
    raises("unknown option", open { [{}] = 1 })
    raises("option create: boolean expected, got string", open { create = "yes" })
    raises("option reserve: boolean expected", open { reserve = 1 })
    raises("option mode: an octal text", open { mode = 384 })
    raises('option mode "9"', open { mode = "9" })
    raises('option mode "1777"', open { mode = "1777" })
    raises('option access "w"', open { access = "w" })
    raises("option access", open { access = 1 })
    raises('option size "x"', open { size = "x" })
    raises("option size -1: must not be negative", open { size = -1 })
    raises("option size 1.5", open { size = 1.5 })
    raises("option size: integer", open { size = {} })
    raises("option offset nan", open { offset = math.abs(0 / 0) })
    raises("table expected", polyshm.segment, "anon:", 5)
    raises("string expected", polyshm.segment, 5)
    raises("string expected", polyshm.segment)
    raises("size is needed to create", open())
    raises("size must be at least 1 byte", open { size = 0 })
    raises("larger than a mapping can be", open { size = math.maxinteger })
  end)

  it("of addresses names the address", function()
    for _, wrong in ipairs { "", "posix", "nothing:/x", "posix", "fd:", "fd:x", "fd:-1", "sysv:", "sysv:id=", "sysv:0x",
      "sysv:zz", "anon:x" } do
      raises(wrong .. ": ", polyshm.segment, wrong, { size = 1 })
    end
    for _, wrong in ipairs { "posix:/", "posix:x", "posix:/a/b", "posix:/..", "file:" } do
      raises(wrong .. ": not a", polyshm.segment, wrong, { size = 1, create = true })
    end
    for _, wrong in ipairs { "posix:/a\0b", "file:/tmp/a\0b", "memfd:a\0b" } do
      raises("NUL", polyshm.segment, wrong, { size = 1, create = true })
    end
    refused("ENAMETOOLONG", "posix:/x", polyshm.segment("posix:/" .. ("x"):rep(256), { size = 1, create = true }))
    refused("ENAMETOOLONG", "file:", polyshm.segment("file:/" .. ("x"):rep(5000), { size = 1, create = true }))
    refused("ENOENT", "sysv:", polyshm.segment("sysv:/nowhere/at/all#A", { size = 1, create = true }))
    refused("EBADF", "fd:", polyshm.segment("fd:2147483647"))
  end)

  it("of permissions is a clear refusal", function()
    local address = support.posix()
    local secret <close> = assert(polyshm.segment(address, { size = 1, create = true, mode = "0600" }))
    if helper.getuid() == 0 then
      support.in_child(function()
        helper.setuid(65534)
        refused("EACCES", address, polyshm.segment(address))
        refused("EACCES", "file:", polyshm.segment("file:/root/x", { size = 1, create = true }))
        refused("EPERM", address, secret:set { mode = "0666" })
      end)
    else
      refused("EACCES", "file:", polyshm.segment("file:/proc/1/mem"))
    end
    assert(secret:unlink())
  end)

  it("of descriptors that have run out is a refusal", function()
    support.in_child(function()
      helper.rlimit("nofile", 3)
      refused("EMFILE", "memfd:", polyshm.segment("memfd:x", { size = 1 }))
      refused("EMFILE", "posix:", polyshm.segment("posix:/polyshm-lua-none"))
    end)
  end)

  it("of closed things is an error, whatever is called", function()
    local all, methods = objects()
    all.guard:release()
    -- Those that are closed and can still be asked.
    local whole = { segment = true, arena = true }
    for name, value in pairs(all) do
      if not whole[name] then getmetatable(value).__close(value, nil) end
    end
    for name, list in pairs(methods) do
      for key, method in pairs(list) do
        if not whole[name] and key ~= "close" and not (name == "guard" and key == "release") then
          raises("is closed", method, all[name], 1, 1)
        end
      end
    end
    all.segment:close()
    local arguments = {
      write = { 0, "" }, read_into = { seg }, fill = { 0 }, copy = { 0, 0, 0 }, find = { "x" }, view = { "u8" },
      pack = { "b", 0, 1 }, unpack = { "b", 0 }, atomic = { "u32", 0 }, mutex = { 0 }, protect = { "r" },
      advise = { "normal" }, resize = { 1 }, set = { {} },
    }
    for key, method in pairs(methods.segment) do
      if key ~= "close" then
        raises("segment is closed", method, all.segment, table.unpack(arguments[key] or {}))
      end
    end
    all.arena:close()
    arguments = {
      mutex = { "books" }, counter = { "hits" }, open = { "hits" }, has = { "hits" }, delete = { "hits" },
      rwlock = { "rw" }, semaphore = { "s", 1 }, permits = { "p", 1 }, condition = { "c" }, event = { "e" },
      barrier = { "b", 1 }, once = { "o" }, latch = { "l", 1 },
      alloc_into = { 688, 16 }, free_from = { 688 }, block_size = { 8192 }, read = { 8192, 1 }, write = { 8192, "" },
    }
    for key, method in pairs(methods.arena) do
      if key == "root" then
        assert.equal(688, method(all.arena, 1)) -- of every arena
      elseif key ~= "close" then
        raises("arena is closed", method, all.arena, table.unpack(arguments[key] or {}))
      end
    end
    for _, value in pairs(all) do
      getmetatable(value).__gc(value)
      getmetatable(value).__gc(value)
      getmetatable(value).__close(value, nil)
      assert.is_truthy(tostring(value):find("polyshm", 1, true))
    end
    assert.is_true(all.segment.closed and all.arena.closed)
    raises("arena is closed", function() return all.arena.size end)
    raises("arena is closed", all.arena.counter, all.arena, "hits")
    raises("arena is closed", all.arena.root, all.arena, 1)
    raises("participant is closed", function() return all.participant.pid end)
    raises("segment is closed", function() return all.segment.size end)
    raises("segment is closed", all.segment.read, all.segment)
    raises("is closed", function() return #all.view end)
    raises("is closed", function() return all.view[1] end)
  end)

  it("of finalizers is harmless: everything used after everything ended, in any order", function()
    for order = 1, 12 do
      local how, number, text = support.lua(([[
        local polyshm = require "polyshm"
        math.randomseed(%d)
        local kept, used, made = {}, 0, 0
        local function keep(value) kept[#kept + 1] = value return value end
        local function use()
          for _, value in ipairs(kept) do
            used = used + 1
            for _, verb in ipairs {
              "read", "get", "load", "locked", "release", "totable", "slice", "stat", "close", "add", "list", "check",
              "participants", "name", "counter",
            } do
              pcall(function() return value[verb](value, 1) end)
            end
            pcall(function() return value[1] end)
            pcall(function() value[1] = 1 end)
            pcall(function() return #value end)
            pcall(tostring, value)
            if type(value) == "userdata" then getmetatable(value).__gc(value) end
          end
        end
        local function make()
          local seg = keep(assert(polyshm.segment("memfd:polyshm-test", { size = 4096 })))
          local lock = keep(seg:mutex(64, { create = true }))
          local list = { keep(seg:view("i32")), keep(seg:atomic("u32", 0)), keep(seg:record_lock()) }
          keep(list[1]:slice(3, 9))
          local options = { create = true, size = "256K", participants = 4 }
          local shared = keep(assert(polyshm.arena("memfd:polyshm-test", options)))
          local books = keep(shared:mutex("books", { repair = use }))
          keep(shared:counter("hits"):add() and shared:open("hits"))
          keep(shared:participants()[1])
          if math.random(2) == 1 then keep(books:guard()) end
          if math.random(3) == 1 then shared:delete("hits") end
          for name, object in pairs(shared) do keep(object) end
          if math.random(3) == 1 then shared:close() end
          if math.random(2) == 1 then keep(lock:guard()) end
          if math.random(2) == 1 then list[3]:acquire() end
          if math.random(3) == 1 then seg:close() end
        end
        for i = 1, 30 do
          if math.random(3) == 1 then keep(setmetatable({}, { __gc = use })) end
          if pcall(make) then made = made + 1 end -- a finalizer may end what it has just made
          if math.random(3) == 1 then kept[math.random(#kept)] = false end
          if math.random(9) == 1 then collectgarbage() end
          if math.random(9) == 1 then use() end
        end
        for i = #kept, 2, -1 do
          local j = math.random(i)
          kept[i], kept[j] = kept[j], kept[i]
        end
        print(made > 0 and "end" or "nothing was made")
        if %d %% 3 == 0 then kept = {} collectgarbage() collectgarbage() end
        os.exit(true, %d %% 2 == 0)
      ]]):format(order + support.seed, order, order))
      assert.same({ "exit", 0, "end\n" }, { how, number, text })
    end
  end)

  describe("of memory that runs out", function()
    local shared, arena
    before_each(function()
      shared = assert(polyshm.segment(support.posix(), { size = 8192, create = true }))
      shared:mutex(64, { create = true })
      arena = assert(polyshm.arena(support.posix(), { create = true, size = "1M", participants = 8 }))
      arena:counter("hits")
    end)
    after_each(function()
      shared:unlink()
      shared:close()
      arena:unlink()
      arena:close()
    end)

    -- Runs `operation` with 0, 1, 2, ... blocks left, until it passes; after each the locks must be free.
    local function exhaust(operation)
      local source = ([[%s
        local polyshm = require "polyshm"
        local address, arena_address = %q, %q
        local seg = assert(polyshm.segment(address))
        local arena = assert(polyshm.arena(arena_address))
        local books, hits, me = arena:mutex("books"), arena:counter("hits"), nil
        local rebuilt = arena:mutex("books", { repair = function() end })
        hits:add()
        me = arena:participants()[1]
        local lock, record = seg:mutex(64), seg:record_lock()
        local repairing = seg:mutex(64, { repair = function() end })
        local view, word = seg:view("i32", 1024, 64), seg:atomic("u32", 512)
        seg:pack("z s4", 4096, ("x"):rep(100), ("y"):rep(1000))
        collectgarbage()
        return function() %s end, function()
          collectgarbage()
          collectgarbage()
          assert(not record:locked())
          assert(not lock:locked())
          assert(view[1] == 0)
          seg:record_lock():guard():release()
          assert(not books:locked() and me)
          assert(#arena:check() == 0)
          for i = 1, 32 do assert(arena:free_from(arena:root(i))) end
        end
      ]]):format(support.prelude, shared.address, arena.address, operation)
      local refusals = 0
      for blocks = 0, 10000 do
        local ok, message = helper.scarce(source, blocks)
        if ok then break end
        assert.is_truthy(message:find("not enough memory", 1, true), message)
        refusals = refusals + 1
      end
      return refusals
    end

    for _, operation in ipairs {
      'assert(polyshm.segment("anon:", { size = "4K", mode = "0600", create = true })):close()',
      "assert(polyshm.segment(address)):view('u8'):slice(1, 3):totable()",
      "seg:read(0, 8192)",
      'seg:unpack("z s4", 4096)',
      'seg:pack("s s", 7000, 12345.25, 54321.75)',
      "view:totable()",
      'seg:atomic("u32", 0):add(1)',
      "seg:mutex(64, { repair = print, recursive = false })",
      "local held <close> = lock:guard()",
      "local held <close> = repairing:guard(1)",
      "local held <close> = record:guard(1)",
      "local held <close>, died = lock:recover()",
      'assert(polyshm.segment("posix:/polyshm-lua-none") == nil)',
      "assert(seg:stat()) polyshm.list() polyshm.stat(address) polyshm.exists(address)",
      "pcall(seg.read, seg, 9000, 1) assert(not pcall(view.set, view, 100, 1)) tostring(seg) tostring(lock)",
      "local own <close> = seg:record_lock(0, 10) own:acquire() own:release()",
      "assert(polyshm.arena(arena_address, { life = 'keep', wait = 1 })):close()",
      'local own <close> = assert(polyshm.arena("anon:", { create = true, size = "64K", participants = 2 }))',
      'assert(polyshm.arena("posix:/polyshm-lua-none") == nil)',
      "arena:mutex('books', { repair = print }):acquire() books:release()",
      "arena:counter('new'):add() assert(arena:open('new')) assert(arena:delete('new')) arena:has('new')",
      "for name, object in pairs(arena) do assert(object:name() == name) end assert(#arena == 2) arena:list()",
      "arena:stats() arena:check()",
      "for _, one in ipairs(arena:participants()) do assert(one.holds and tostring(one)) end",
      "assert(arena:alloc_into(arena:root(1), 5000)) arena:read(arena:root(1), 8)",
      "local held <close> = books:guard()",
      "local held <close> = rebuilt:guard(1)",
      "local held <close>, died = books:recover()",
      "pcall(books.release, books) assert(not pcall(hits.add, hits, 1.5)) tostring(arena) tostring(books)",
    } do
      it("is an error: " .. operation, function() assert.is_true(exhaust(operation) >= 1) end)
    end

    for _, operation in ipairs {
      "assert(lock:acquire()) lock:release()",
      "view:get(1, 10) view:set(1, 0, 0) view:fill(0) for _ in view:each() do end",
      "view:copy(view) view[3] = view[4] seg:read_into(view, 0) view:fill(0)",
      "word:add(1) word:load() word:exchange(0) word:compare_exchange(0, 0)",
      "assert(books:acquire()) books:release()",
      "hits:add() hits:load() hits:exchange(0) hits:compare_exchange(0, 5) hits:max(9) hits:wait(3, 0)",
    } do
      it("does not matter: " .. operation, function() assert.equal(0, exhaust(operation)) end)
    end

    -- With a dead owner's mark on the lock, which must be there after each.
    for _, operation in ipairs {
      "local ok, died = pcall(lock.acquire, lock) assert(not ok) if type(died) == 'string' then error(died, 0) end",
      "local ok, died = pcall(lock.guard, lock) assert(not ok) if type(died) == 'string' then error(died, 0) end",
      "pcall(function() local held <close>, died = lock:recover() error(died) end) error('not enough memory', 0)",
    } do
      it("leaves the mark of a death: " .. operation, function()
        support.wait(support.fork(function() shared:mutex(64):acquire() end))
        local source = ([[%s
          local seg = assert(require "polyshm".segment(%q))
          local lock = seg:mutex(64)
          collectgarbage()
          return function() %s end, function()
            collectgarbage()
            assert(not lock:locked())
            assert(not pcall(lock.acquire, lock))
          end]]):format(support.prelude, shared.address, operation)
        local refusals = 0
        for blocks = 0, 60 do
          local ok, message = helper.scarce(source, blocks)
          if ok then break end
          assert.is_truthy(message:find("not enough memory", 1, true), message)
          refusals = refusals + 1
        end
        assert.is_true(refusals >= 1)
        local _ <close>, died = shared:mutex(64):recover()
        assert.is_truthy(died)
      end)
    end

    it("leaves the mark of a death in an arena, and in its repair", function()
      for _, operation in ipairs {
        "local ok, died = pcall(lock.acquire, lock) assert(not ok) if type(died) == 'string' then error(died, 0) end",
        "pcall(function() local held <close>, died = lock:recover() error(died) end) error('not enough memory', 0)",
        "repairing:acquire()",
        "local held <close> = repairing:guard()",
      } do
        support.wait(support.fork(function() arena:mutex("books"):acquire() end))
        local source = ([[%s
          local arena = assert(require "polyshm".arena(%q))
          local lock, done = arena:mutex("books"), nil
          local repairing = arena:mutex("books", { repair = function(died)
            local _ = died.pid .. ": " .. tostring(died) .. died.participant
            error("not enough memory", 0)
          end })
          collectgarbage()
          return function() %s end, function()
            collectgarbage()
            assert(not lock:locked())
            assert(not pcall(lock.acquire, lock))
          end]]):format(support.prelude, arena.address, operation)
        local refusals = 0
        for blocks = 0, 60 do
          local ok, message = helper.scarce(source, blocks)
          if ok then break end
          assert.is_truthy(message:find("not enough memory", 1, true), message)
          refusals = refusals + 1
        end
        assert.is_true(refusals >= 1)
        local held <close>, died = arena:mutex("books"):recover()
        assert.is_truthy(died)
      end
    end)

    it("in a repair leaves the mark, and the lock free", function()
      support.wait(support.fork(function() shared:mutex(64):acquire() end))
      local refusals = 0
      for blocks = 0, 200 do
        local ok = helper.scarce(([[%s
          local seg = assert(require "polyshm".segment(%q))
          local lock = seg:mutex(64, { repair = function(died) return died.pid .. ": " .. tostring(died) end })
          local plain = seg:mutex(64)
          local repaired = false
          collectgarbage()
          return function()
            local held <close> = lock:guard()
            repaired = true
          end, function()
            collectgarbage()
            assert(not plain:locked())
            if not repaired then assert(not pcall(plain.acquire, plain)) end
          end]]):format(support.prelude, shared.address), blocks)
        if ok then break end
        refusals = refusals + 1
      end
      assert.is_true(refusals >= 3)
      local held <close>, died = shared:mutex(64):recover()
      assert.is_nil(died)
    end)
  end)

  it("of coroutines and protected calls is no different", function()
    local lock = seg:mutex(0, { create = true })
    local made = coroutine.wrap(function()
      local view = seg:view("i32", 1024, 4)
      for i, x in view:each() do
        coroutine.yield(i)
        view[i] = x + i
      end
      local held <close> = lock:guard()
      coroutine.yield("held")
      return "done"
    end)
    assert.same({ 1, 2, 3, 4 }, { made(), made(), made(), made() })
    assert.equal("held", made())
    assert.is_true(lock:locked())
    assert.equal("done", made())
    assert.is_false(lock:locked())
    local abandoned = coroutine.wrap(function()
      local held <close> = lock:guard()
      coroutine.yield()
    end)
    abandoned()
    abandoned = nil
    collectgarbage()
    collectgarbage()
    assert.is_nil(abandoned)
    assert.is_false(lock:locked())
  end)

  it("of hooks that close, collect and end what is used is survived", function()
    local n = 0
    debug.sethook(function()
      n = n + 1
      if n % 7 == 0 then collectgarbage("step") end
    end, "c", 50)
    for _ = 1, 50 do
      local own = assert(polyshm.segment("anon:", { size = 64 }))
      local view = own:view("i32")
      view:fill(3)
      own:close()
      assert.equal(3, view[16])
      assert.equal(16, #view:totable())
    end
    debug.sethook()
    assert.is_true(n > 0)
  end)
end)
