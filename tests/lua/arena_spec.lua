-- SPDX-License-Identifier: MIT
-- The arena: opening, parameters, life, objects by name, what is refused, and what is left when things end.
-- luacheck: ignore 211/own 211/_
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises, refused = support.raises, support.refused

describe("arena", function()
  local address, shared
  before_each(function()
    address = support.posix()
    shared = assert(polyshm.arena(address, { create = true, size = "1M", participants = 16 }))
  end)
  after_each(function()
    shared:close()
    polyshm.unlink(address)
  end)
  support.watch { before_each = before_each, after_each = after_each }

  -- The code of the error object that calling raises.
  local function code(f, ...)
    local ok, problem = pcall(f, ...)
    assert.is_false(ok)
    assert.equal("table", type(problem), tostring(problem))
    return problem.code, problem
  end

  local function names(arena)
    local found = {}
    for _, entry in ipairs(arena:list()) do found[#found + 1] = entry.name .. " " .. entry.kind end
    table.sort(found)
    return found
  end

  describe("opening", function()
    it("makes what is not there, and finds what is", function()
      assert.equal(address, shared.address)
      assert.equal("posix", shared.kind)
      assert.equal(1 << 20, shared.size)
      assert.equal("keep", shared.life)
      assert.is_true(shared.created)
      assert.is_false(shared.readonly)
      assert.is_false(shared.closed)
      assert.is_false(shared.lost)
      assert.equal("integer", math.type(shared.id))
      assert.is_truthy(tostring(shared):find(address, 1, true))
      assert.is_nil(shared.nothing)
      local other <close> = assert(polyshm.arena(address))
      assert.is_false(other.created)
      assert.equal(shared.id, other.id)
      assert.equal(shared.size, other.size)
      local third <close> = assert(polyshm.arena(address, { create = true }))
      assert.is_false(third.created)
      support.in_child(function()
        local same = { create = true, size = "1M", life = "keep", participants = 16 }
        local own <close> = assert(polyshm.arena(address, same))
        assert(not own.created and own.id == shared.id)
      end)
    end)

    it("fails as asked", function()
      refused("EEXIST", address, polyshm.arena(address, { create = true, exclusive = true }))
      refused("ENOENT", "posix:/polyshm-lua-none", polyshm.arena("posix:/polyshm-lua-none"))
      local fresh = support.posix()
      local new = { create = true, exclusive = true, size = "1M", participants = 4 }
      local own <close> = assert(polyshm.arena(fresh, new))
      assert.is_true(own.created)
      assert(own:unlink())
    end)

    it("has the parameters of who made it", function()
      for _, options in ipairs { { size = "2M" }, { life = "last-detach" }, { participants = 17 } } do
        raises("this parameter of it is another", polyshm.arena, address, options)
        options.create = true
        raises("this parameter of it is another", polyshm.arena, address, options)
      end
      local fresh = support.posix()
      local own <close> = assert(polyshm.arena(fresh, { create = true, mode = "0640", reserve = false }))
      assert.equal(16 << 20, own.size)
      assert.equal(1024, own:stats().participants)
      local _, mode = helper.filesize("/dev/shm/" .. fresh:match("/(.*)"))
      assert.equal(tonumber("640", 8), mode)
      assert(own:unlink())
      assert.equal(16, shared:stats().participants)
    end)

    it("waits for a creator", function()
      local fresh = support.posix()
      local start = helper.now()
      refused("ENOENT", fresh, polyshm.arena(fresh, { wait = 0.15 }))
      assert.is_true(helper.now() - start >= 0.15)
      local pid = support.fork(function()
        helper.sleep(0.25)
        local own = assert(polyshm.arena(fresh, { create = true, size = "1M", participants = 4 }))
        own:counter("made"):store(7)
        own:counter("seen"):wait(1, 30)
      end)
      local own <close> = assert(polyshm.arena(fresh, { wait = 30 }))
      assert.is_false(own.created)
      assert.is_true(own:counter("made"):wait(7, 30))
      own:counter("seen"):add()
      assert.same({ "exit", 0 }, { support.wait(pid) })
      assert(own:unlink())
    end)

    it("runs hooks while it waits, and Ctrl-C ends it", function()
      local fresh, ran = support.posix(), 0
      debug.sethook(function() ran = ran + 1 end, "", 1)
      refused("ENOENT", fresh, polyshm.arena(fresh, { wait = 0.35 }))
      debug.sethook()
      assert.is_true(ran > 1)
      local how, number, text = support.lua(([[
        local polyshm = require "polyshm"
        print(pcall(polyshm.arena, %q, { wait = math.huge }))
      ]]):format(fresh), function(pid)
        helper.sleep(0.4)
        helper.kill(pid, helper.SIGINT)
      end)
      assert.same({ "exit", 0 }, { how, number })
      assert.is_truthy(text:find("^false\t.*interrupted!"), text)
    end)

    it("works with every kind of address", function()
      local file = "file:" .. support.path()
      for _, kind in ipairs { support.key(), file, "anon:", "zero:", "memfd:polyshm-test", "sysv:private" } do
        local own <close> = assert(polyshm.arena(kind, { create = true, size = "1M", participants = 8 }))
        assert.is_true(own.created)
        assert.equal(kind:match("^%a+"), own.kind)
        own:counter("hits"):add(3)
        local lock = own:mutex("books")
        support.in_child(function()
          lock:acquire()
          own:counter("hits"):add(4)
          lock:release()
        end)
        assert.equal(7, own:counter("hits"):load())
        if own.kind == "sysv" or own.kind == "file" then assert(own:unlink()) end
      end
    end)

    it("makes an arena of memory that is all zero, if it is asked to", function()
      local fresh = support.posix()
      local seg <close> = assert(polyshm.segment(fresh, { create = true, size = "1M" }))
      assert.equal("ENOTARENA", (code(polyshm.arena, fresh)))
      local own <close> = assert(polyshm.arena(fresh, { create = true, participants = 8 }))
      assert.is_true(own.created)
      own:counter("hits"):add()
      assert(seg:unlink())
    end)

    it("refuses options that are none", function()
      local function open(options) return function() return polyshm.arena("anon:", options) end end
      raises("unknown option 'offset'", open { offset = 0 })
      raises("option wait: number of seconds expected", open { wait = "1" })
      raises("option wait: 0 or more seconds expected, got -1", open { wait = -1 })
      raises("option wait: 0 or more seconds expected", open { wait = 0 / 0 })
      raises("option life \"ever\": life must be", open { life = "ever" })
      raises("option life: a text expected", open { life = true })
      for _, wrong in ipairs { 0, -1, 1.5, "8", {}, 2 ^ 40 } do
        raises("option participants: a whole number from 1 on", open { participants = wrong })
      end
      raises("participants must be from 1 to 32766", open { size = "16M", participants = 32767 })
      raises("too small", open { size = 4096 })
      raises("option size", open { size = -1 })
      raises('access must be "rw" or "r", or of a segment', open { access = "copy" })
      raises("access", open { access = "none" })
      raises("option access \"x\"", open { access = "x" })
      raises("option mode", open { mode = 384 })
      raises("table expected", polyshm.arena, "anon:", 5)
      raises("string expected", polyshm.arena, 5)
      raises("not an address", polyshm.arena, "nothing")
    end)
  end)

  describe("of a foreign, cut or damaged segment", function()
    local function file(change)
      local path = support.path()
      do
        local own <close> = assert(polyshm.arena("file:" .. path, { create = true, size = "1M", participants = 8 }))
        own:counter("hits")
      end
      change(path)
      return code(polyshm.arena, "file:" .. path)
    end

    local function patch(offset, bytes)
      return function(path)
        local out <close> = assert(io.open(path, "r+b"))
        out:seek("set", offset)
        out:write(bytes)
      end
    end

    it("is an error that says so", function()
      local path = support.path()
      local out = assert(io.open(path, "wb"))
      out:write(("somebody else's bytes"):rep(1000))
      out:close()
      local got, problem = code(polyshm.arena, "file:" .. path, { create = true })
      assert.equal("ENOTARENA", got)
      assert.equal("file:" .. path, problem.address)
      assert.is_truthy(tostring(problem):find(path, 1, true))
      assert.equal("ENOTARENA", (file(patch(0, "POLYSHM!"))))
      assert.equal("EFORMAT", (file(patch(8, string.pack("I4", 99)))))
      assert.equal("EABI", (file(patch(12, string.pack("I4", 99)))))
      assert.equal("ETRUNCATED", (file(function(cut) helper.truncate(cut, 512 * 1024) end)))
      local path_of = support.path()
      local own <close> = assert(polyshm.arena("file:" .. path_of, { create = true, size = "1M", participants = 8 }))
      local hits = own:counter("hits")
      patch(608 + 24, string.pack("I8I8", 1 << 40, 1 << 40))(path_of) -- where the tables of names are
      for _, call in ipairs { { own.open, own, "hits" }, { own.counter, own, "new" }, { own.list, own } } do
        got, problem = code(table.unpack(call))
        assert.equal("ECORRUPT", got)
        assert.equal(own.address, problem.address)
      end
      assert.is_true(#own:check() > 0)
      assert.equal(1, hits:add())
      assert.equal("ETRUNCATED", (file(function(grown) helper.truncate(grown, 2 << 20) end)))
    end)

    it("under the hands of its users is an error too", function()
      local path = support.path()
      local own <close> = assert(polyshm.arena("file:" .. path, { create = true, size = "1M", participants = 8 }))
      local hits, lock = own:counter("hits"), own:mutex("books")
      helper.truncate(path, 4096)
      for _, call in ipairs {
        function() hits:add() end, function() hits:load() end, function() lock:acquire() end,
        function() own:counter("new") end, function() own:list() end, function() own:stats() end,
        function() own:alloc_into(own:root(1), 100) end,
      } do
        local got = code(call)
        assert.is_true(got == "ELOST" or got == "ECORRUPT" or got == "EDELETED", got)
      end
      assert.is_true(own.lost)
      own:close()
      -- The thread's beacon went with that memory: its place in the thread's list must harm no other one.
      for i = 1, 3 do
        local other <close> = assert(polyshm.arena("anon:", { create = true, size = "1M", participants = 8 }))
        other:counter("hits"):add()
        shared:counter("hits"):add(i)
      end
      assert.equal(6, shared:counter("hits"):load())
    end)

    it("with random bytes in it gives errors and no crash, seed " .. support.seed, function()
      math.randomseed(support.seed)
      for _ = 1, 30 do
        local path = support.path()
        support.in_child(function()
          local own = assert(polyshm.arena("file:" .. path, { create = true, size = "256K", participants = 8 }))
          local hits = own:counter("hits")
          for i = 1, 20 do own:counter("c" .. i) end
          own:alloc_into(own:root(1), 3000)
          local out <close> = assert(io.open(path, "r+b"))
          -- Neither the beacons, whose pointers glibc follows, nor what makes a mutex wait for somebody that lives.
          for _ = 1, 60 do
            out:seek("set", math.random(2) == 1 and math.random(608, 1000) or math.random(8192 + 3072, 262143))
            out:write(string.char(math.random(0, 255)))
          end
          out:flush()
          for i = 1, 20 do
            pcall(own.counter, own, "c" .. i)
            pcall(own.delete, own, "c" .. math.random(25))
            pcall(own.counter, own, "d" .. i)
            pcall(own.alloc_into, own, own:root(i), math.random(9000))
            pcall(own.free_from, own, own:root(math.random(20)))
            pcall(hits.add, hits)
          end
          pcall(own.list, own)
          pcall(own.stats, own)
          pcall(own.check, own)
          pcall(own.participants, own)
          pcall(function() for _, object in pairs(own) do object:name() end end)
        end)
      end
    end)
  end)

  describe("that is read-only", function()
    local reader
    before_each(function()
      shared:counter("hits"):store(5)
      shared:mutex("books")
      assert(shared:alloc_into(shared:root(1), 100))
      reader = assert(polyshm.arena(address, { access = "r" }))
    end)
    after_each(function() reader:close() end)

    it("shows everything", function()
      assert.is_true(reader.readonly)
      assert.equal(2, #reader)
      assert.same({ "books mutex", "hits counter" }, names(reader))
      assert.equal(5, reader:counter("hits"):load())
      assert.is_true(reader:has("books"))
      assert.is_false(reader:mutex("books"):locked())
      assert.is_nil(reader:mutex("books"):owner())
      assert.same({}, reader:check())
      assert.equal(2, reader:stats().objects)
      assert.equal("table", type(reader:participants()))
      assert.is_true(reader:counter("hits"):wait(5, 0))
      assert.same({ false, "timeout" }, { reader:counter("hits"):wait(6, 0.15) })
    end)

    it("changes nothing", function()
      local hits, books = reader:counter("hits"), reader:mutex("books")
      raises("read-only", hits.add, hits)
      raises("read-only", hits.store, hits, 1)
      raises("read-only", hits.exchange, hits, 1)
      raises("read-only", hits.compare_exchange, hits, 5, 1)
      raises("read-only", hits.max, hits, 9)
      raises("read-only", hits.min, hits, 1)
      raises("read-only", books.acquire, books)
      raises("read-only", books.acquire, books, 0)
      raises("read-only", books.guard, books)
      raises("read-only", books.recover, books)
      raises("read-only", reader.delete, reader, "hits")
      raises("read-only", reader.alloc_into, reader, reader:root(2), 100)
      raises("read-only", reader.free_from, reader, reader:root(1))
      raises("read-only", reader.write, reader, reader:root(1), "x")
      local got, problem = code(reader.counter, reader, "new")
      assert.equal("ENONAME", got)
      assert.is_truthy(tostring(problem):find('counter "new"', 1, true))
      assert.equal("ENONAME", (code(reader.mutex, reader, "new")))
      assert.equal(5, shared:counter("hits"):load())
    end)

    it("waits for those who write", function()
      local pid = support.fork(function()
        helper.sleep(0.1)
        shared:counter("hits"):add()
      end)
      assert.is_true(reader:counter("hits"):wait(6, 30))
      assert.same({ "exit", 0 }, { support.wait(pid) })
    end)
  end)

  describe("life", function()
    it("last-detach ends with the last handle", function()
      local fresh = support.posix()
      local own = assert(polyshm.arena(fresh, { create = true, size = "1M", participants = 8, life = "last-detach" }))
      assert.equal("last-detach", own.life)
      local second = assert(polyshm.arena(fresh))
      assert.equal("last-detach", second.life)
      own:close()
      assert.is_true(polyshm.exists(fresh))
      local go = second:counter("go")
      local pid = support.fork(function()
        local mine = assert(polyshm.arena(fresh))
        go:add()
        mine:counter("gone"):wait(1, 30)
        helper.raise(helper.SIGKILL)
      end)
      assert.is_true(go:wait(1, 30))
      second:counter("gone"):add()
      assert.same({ "signal", helper.SIGKILL }, { support.wait(pid) })
      assert.is_true(polyshm.exists(fresh))
      second:close()
      assert.is_false(polyshm.exists(fresh))
    end)

    it("last-detach is not ended by a process that leaves others behind", function()
      local fresh = support.posix()
      local own = assert(polyshm.arena(fresh, { create = true, size = "1M", participants = 8, life = "last-detach" }))
      support.in_child(function()
        local mine <close> = assert(polyshm.arena(fresh))
        mine:counter("hits"):add()
      end)
      support.in_child(function() own:close() end)
      assert.is_true(polyshm.exists(fresh))
      assert.equal(1, own:counter("hits"):load())
      own = nil -- luacheck: ignore 311
      collectgarbage()
      collectgarbage()
      assert.is_false(polyshm.exists(fresh))
    end)

    it("keep stays, and unlink removes what is still this one", function()
      shared:close()
      local again <close> = assert(polyshm.arena(address))
      assert.is_true(again:unlink())
      refused("ENOENT", address, again:unlink())
      refused("ENOENT", address, polyshm.arena(address))
      again:counter("hits"):add() -- it is there for those who have it
      local anew <close> = assert(polyshm.arena(address, { create = true, size = "1M", participants = 16 }))
      assert.is_true(anew.id ~= again.id)
      assert.equal(0, #anew)
      refused("ENOENT", address, again:unlink()) -- that is another one
      assert.is_true(polyshm.exists(address))
    end)
  end)

  describe("objects", function()
    it("have names and kinds", function()
      assert.equal(0, #shared)
      assert.same({}, shared:list())
      local hits, books = shared:counter("hits"), shared:mutex("books")
      assert.equal("polyshm.counter (" .. address .. ': counter "hits")', tostring(hits))
      assert.equal("polyshm.mutex (" .. address .. ': mutex "books")', tostring(books))
      assert.equal(2, #shared)
      assert.same({ "books mutex", "hits counter" }, names(shared))
      assert.is_true(shared:has("hits"))
      assert.is_false(shared:has("hit"))
      assert.equal("polyshm.counter", getmetatable(shared:open("hits")).__name)
      assert.equal("polyshm.mutex", getmetatable(shared:open("books")).__name)
      refused("ENONAME", address .. ': object "nothing"', shared:open("nothing"))
      assert.is_false(shared:has("nothing"))
      hits:add(4)
      assert.equal(4, shared:open("hits"):load())
      assert.equal(4, shared:counter("hits"):load())
      raises("another kind", shared.mutex, shared, "hits")
      raises("another kind", shared.counter, shared, "books")
      raises(address .. ': counter "books"', shared.counter, shared, "books")
    end)

    it("are all in pairs", function()
      local expected = {}
      for i = 1, 40 do
        local name = ("öbject %d"):format(i)
        if i % 3 == 0 then shared:mutex(name) else shared:counter(name):store(i) end
        expected[name] = i
      end
      local seen = 0
      for name, object in pairs(shared) do
        assert.equal(name, object:name())
        if expected[name] % 3 ~= 0 then assert.equal(expected[name], object:load()) end
        seen = seen + 1
      end
      assert.equal(40, seen)
      -- Deleted on the way: those that are gone are left out.
      seen = 0
      for name in pairs(shared) do
        seen = seen + 1
        for other in pairs(expected) do
          if other ~= name then shared:delete(other) end
        end
      end
      assert.equal(1, seen)
      assert.equal(1, #shared)
    end)

    it("have names of 1 to 255 bytes of UTF-8", function()
      local long = ("ü"):rep(127) .. "x"
      shared:counter(long):add(3)
      assert.equal(3, shared:open(long):load())
      for _, verb in ipairs { "counter", "mutex", "open", "has", "delete" } do
        raises("1 to 255 bytes", shared[verb], shared, "")
        raises("1 to 255 bytes", shared[verb], shared, long .. "x")
        raises("UTF-8", shared[verb], shared, "a\0b")
        raises("UTF-8", shared[verb], shared, "\xff")
        for _, wrong in ipairs { 5, true, {}, false } do raises("string expected", shared[verb], shared, wrong) end
        raises("string expected", shared[verb], shared)
      end
      assert.same({ long .. " counter" }, names(shared))
    end)

    it("that are deleted say so", function()
      local hits, books = shared:counter("hits"), shared:mutex("books")
      hits:add()
      books:acquire()
      assert.is_true(shared:delete("hits"))
      assert.is_true(shared:delete("books"))
      assert.equal(1, select("#", pcall(shared.has, shared, "hits")) - 1)
      refused("ENONAME", address .. ': object "hits"', shared:delete("hits"))
      refused("ENONAME", address, shared:open("hits"))
      assert.equal(0, #shared)
      for _, call in ipairs {
        { hits.add }, { hits.load }, { hits.store, 1 }, { hits.wait, 1 }, { hits.wait, 1, 0 }, { hits.max, 1 },
        { hits.compare_exchange, 1, 2 },
      } do
        local got, problem = code(call[1], hits, call[2], call[3])
        assert.equal("EDELETED", got)
        assert.equal(address, problem.address)
        assert.is_truthy(tostring(problem):find('counter "hits": the object was deleted', 1, true))
      end
      books:release()
      for _, verb in ipairs { "acquire", "guard", "recover", "locked", "owner" } do
        assert.equal("EDELETED", (code(books[verb], books)))
      end
      assert.equal("hits", hits:name())
      assert.equal("books", books:name())
      assert.equal(0, shared:counter("hits"):load())
      shared:counter("hits"):add(2)
      assert.equal("EDELETED", (code(hits.load, hits)))
      assert.equal(2, shared:counter("hits"):load())
      assert.same({}, shared:check())
    end)

    it("that are deleted by another process say so to those who wait", function()
      local hits, books = shared:counter("hits"), shared:mutex("books")
      books:acquire()
      local waiters = {}
      for i, wait in ipairs {
        function() hits:wait(9) end, function() books:acquire() end, function() books:guard(60) end,
      } do
        waiters[i] = support.fork(function()
          shared:counter("ready"):add()
          assert((code(wait)) == "EDELETED")
        end)
      end
      assert.is_true(shared:counter("ready"):wait(3, 30))
      helper.sleep(0.15)
      support.in_child(function() assert(shared:delete("hits") and shared:delete("books")) end)
      for _, pid in ipairs(waiters) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
      books:release()
    end)

    it("are made by one of many", function()
      local pids = {}
      for i = 1, 4 do
        pids[i] = support.fork(function()
          local own <close> = assert(polyshm.arena(address))
          for n = 1, 50 do own:counter("c" .. n):add() end
        end)
      end
      for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
      assert.equal(50, #shared)
      for _, object in pairs(shared) do assert.equal(4, object:load()) end
      assert.same({}, shared:check())
    end)

    it("find no room in an arena that is full, and find it again", function()
      local count, ok, problem = 0, nil, nil -- luacheck: ignore 311
      repeat
        ok, problem = pcall(shared.counter, shared, "c" .. count)
        count = count + 1
      until not ok
      assert.equal("ENOSPC", problem.code)
      assert.equal(address, problem.address)
      assert.is_truthy(tostring(problem):find('counter "c' .. count - 1, 1, true))
      assert.equal(count - 1, #shared)
      assert.equal("ENOSPC", (code(shared.mutex, shared, ("m"):rep(200))))
      refused("ENOSPC", address, shared:alloc_into(shared:root(1), 100000))
      assert.same({}, shared:check())
      for i = 0, count - 2 do assert(shared:delete("c" .. i)) end
      assert.equal(0, #shared)
      assert(shared:alloc_into(shared:root(1), 100000))
      shared:counter("again"):add()
      assert.same({}, shared:check())
    end)
  end)

  it("counts what it has", function()
    local before = shared:stats()
    assert.equal(1 << 20, before.size)
    assert.equal(before.heap, before.used + before.free)
    assert.is_true(before.largest_free > 0 and before.largest_free <= before.free)
    assert.equal(0, before.objects)
    assert.equal(32, #before.classes)
    assert.equal(16, before.classes[1].block)
    assert(shared:alloc_into(shared:root(1), 50000))
    assert(shared:alloc_into(shared:root(2), 16))
    shared:counter("hits")
    local after = shared:stats()
    assert.equal(1, after.objects)
    assert.equal(before.large + 1, after.large)
    assert.equal(before.large_pages + 13, after.large_pages)
    assert.equal(before.classes[1].used + 1, after.classes[1].used)
    assert.is_true(after.used >= before.used + 50016)
    assert.equal(16, after.participants)
    assert.equal(1, after.taking_part)
  end)

  it("is checked", function()
    assert.same({}, shared:check())
    shared:counter("hits")
    shared:mutex("books"):acquire()
    assert.same({}, shared:check())
    shared:mutex("books"):release()
    assert(shared:alloc_into(shared:root(3), 64))
    -- A root that leads nowhere.
    local seg <close> = assert(polyshm.segment(address))
    seg:pack("I8", shared:root(3), 123456)
    local findings = shared:check()
    assert.is_true(#findings >= 1)
    for _, finding in ipairs(findings) do
      assert.equal("string", type(finding))
      assert.is_nil(finding:find("\n", 1, true))
      assert.is_truthy(finding:find("^at %d+: "), finding)
    end
  end)

  describe("that is closed", function()
    it("refuses everything but to give back", function()
      local hits, books, held = shared:counter("hits"), shared:mutex("books"), shared:mutex("held")
      local guard = held:guard()
      books:acquire()
      local me = shared:participants()[1]
      local watcher <close> = assert(polyshm.arena(address))
      shared:close()
      shared:close()
      assert.is_true(shared.closed)
      assert.equal(address, shared.address)
      assert.equal("polyshm.arena (closed)", tostring(shared))
      for _, verb in ipairs { "counter", "mutex", "open", "has", "delete" } do
        raises("arena is closed", shared[verb], shared, "hits")
      end
      for _, verb in ipairs { "list", "check", "stats", "participants", "unlink" } do
        raises("arena is closed", shared[verb], shared)
      end
      raises("arena is closed", shared.alloc_into, shared, 688, 16)
      raises("arena is closed", shared.free_from, shared, 688)
      raises("arena is closed", shared.block_size, shared, 8192)
      raises("arena is closed", shared.read, shared, 8192, 1)
      raises("arena is closed", shared.write, shared, 8192, "")
      raises("arena is closed", function() return #shared end)
      raises("arena is closed", pairs, shared)
      raises("arena is closed", hits.add, hits)
      raises("arena is closed", hits.load, hits)
      raises("arena is closed", hits.wait, hits, 1)
      raises("arena is closed", books.acquire, books)
      raises("arena is closed", books.guard, books, 1)
      raises("arena is closed", books.recover, books)
      raises("arena is closed", books.locked, books)
      raises("arena is closed", books.owner, books)
      raises("arena is closed", me.wait, me, 0)
      assert.equal("hits", hits:name())
      assert.is_true(watcher:mutex("books"):locked())
      assert.is_true(watcher:mutex("held"):locked())
      books:release()
      raises("not held", books.release, books)
      guard:release()
      assert.is_false(watcher:mutex("books"):locked())
      assert.is_false(watcher:mutex("held"):locked())
    end)

    it("by <close> is closed at the end of the block", function()
      local kept
      do
        local own <close> = assert(polyshm.arena(address))
        kept = own
        assert.is_false(own.closed)
      end
      assert.is_true(kept.closed)
      raises("inner", function()
        local own <close> = assert(polyshm.arena(address))
        kept = own
        error("inner")
      end)
      assert.is_true(kept.closed)
    end)

    it("by a hook under a wait ends the wait", function()
      local books, hits = shared:mutex("books"), shared:counter("hits")
      local pid = support.fork(function()
        books:acquire()
        hits:add()
        helper.sleep(60)
      end)
      assert.is_true(hits:wait(1, 30))
      for _, wait in ipairs {
        function(own) own:mutex("books"):acquire() end,
        function(own) own:mutex("books"):guard(50) end,
        function(own) own:counter("hits"):wait(2) end,
        function(own)
          for _, one in ipairs(own:participants()) do
            if one.pid == pid then one:wait() end
          end
        end,
      } do
        local own, start = assert(polyshm.arena(address)), helper.now()
        debug.sethook(function()
          if helper.now() - start > 0.15 then
            debug.sethook()
            own:close()
          end
        end, "", 1)
        local ok, problem = pcall(wait, own)
        debug.sethook()
        assert.is_false(ok)
        assert.is_truthy(tostring(problem):find("arena is closed", 1, true), tostring(problem))
      end
      support.kill(pid)
    end)
  end)

  it("is kept by its objects, and collected with them", function()
    local hits = assert(polyshm.arena(address)):counter("hits")
    local guard = assert(polyshm.arena(address)):mutex("books"):guard() -- luacheck: ignore 231
    collectgarbage()
    collectgarbage()
    assert.equal(1, hits:add())
    assert.is_true(shared:mutex("books"):locked())
    guard = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    assert.is_false(shared:mutex("books"):locked())
    for _ = 1, 200 do
      local own = assert(polyshm.arena(address))
      own:counter("hits"):add()
    end
    collectgarbage()
    assert.equal(201, hits:load())
  end)

  it("is a child's after a fork, under the child's own name", function()
    local hits, books = shared:counter("hits"), shared:mutex("books")
    books:acquire()
    for _ = 1, 3 do
      support.in_child(function()
        assert(hits:add() >= 1)
        assert(select(2, books:acquire(0)) == "timeout")
        raises("not held by this thread", books.release, books)
        assert(shared:counter("of a child"):add() >= 1)
        local mine = shared:mutex("mine")
        mine:acquire()
        assert(mine:owner() == helper.getpid())
        mine:release()
        support.in_child(function()
          hits:add()
          mine:acquire()
          mine:release()
        end)
      end)
    end
    assert.equal(helper.getpid(), books:owner())
    books:release()
    assert.equal(6, hits:load())
    assert.equal(3, shared:counter("of a child"):load())
    assert.same({}, shared:check())
  end)

  it("is there for a program of its own", function()
    shared:counter("hits"):add(5)
    local how, number, text = support.lua(([[
      local polyshm = require "polyshm"
      local shared <close> = assert(polyshm.arena(%q))
      print(shared:counter("hits"):add(), #shared)
      local held <close> = shared:mutex("books"):guard()
      os.exit(true, true)
    ]]):format(address))
    assert.same({ "exit", 0, "6\t1\n" }, { how, number, text })
    assert.equal(6, shared:counter("hits"):load())
    assert.is_false(shared:mutex("books"):locked())
  end)
end)
