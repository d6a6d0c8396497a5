-- SPDX-License-Identifier: MIT
-- Counters: arithmetic, what is refused, waiting, many at once.
-- luacheck: ignore 211/own
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("counter", function()
  local shared, hits
  before_each(function()
    shared = assert(polyshm.arena(support.posix(), { create = true, size = "1M", participants = 16 }))
    hits = shared:counter("hits")
  end)
  after_each(function()
    polyshm.unlink(shared.address)
    shared:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  it("counts", function()
    assert.equal("hits", hits:name())
    assert.equal(0, hits:load())
    assert.equal(1, hits:add())
    assert.equal(6, hits:add(5))
    assert.equal(4, hits:add(-2))
    assert.equal(3, hits:sub())
    assert.equal(-7, hits:sub(10))
    assert.equal(3, hits:sub(-10))
    assert.equal(3, hits:load())
    assert.equal(0, select("#", hits:store(100)))
    assert.equal(100, hits:exchange(7))
    assert.equal(7, hits:compare_exchange(7, 8))
    assert.equal(8, hits:load())
    assert.equal(8, hits:compare_exchange(7, 9))
    assert.equal(8, hits:load())
    assert.equal(8, hits:max(3))
    assert.equal(30, hits:max(30))
    assert.equal(30, hits:min(31))
    assert.equal(-4, hits:min(-4))
    assert.equal(-4, hits:load())
    assert.equal(4, hits:add(8.0))
    assert.equal(5, hits:add(nil))
    for _, verb in ipairs { "add", "sub", "load", "exchange", "max", "min" } do
      assert.equal("integer", math.type(hits[verb](hits, 1)), verb)
    end
  end)

  it("wraps", function()
    hits:store(math.maxinteger)
    assert.equal(math.mininteger, hits:add())
    assert.equal(math.maxinteger, hits:sub())
    assert.equal(-1, hits:sub(math.mininteger))
    hits:store(0)
    assert.equal(math.mininteger, hits:sub(math.mininteger))
  end)

  it("is the same for every handle", function()
    local other <close> = assert(polyshm.arena(shared.address))
    other:counter("hits"):add(3)
    assert.equal(3, hits:load())
    assert.equal(4, shared:open("hits"):add())
    assert.equal(0, shared:counter("others"):load())
  end)

  it("refuses what is no integer", function()
    for _, verb in ipairs { "add", "sub", "store", "exchange", "max", "min", "wait" } do
      for _, wrong in ipairs { "1", {}, true, print } do raises("integer expected", hits[verb], hits, wrong) end
      for _, wrong in ipairs { 1.5, 2.0 ^ 63, 0 / 0 } do raises("is not an integer", hits[verb], hits, wrong) end
    end
    for _, verb in ipairs { "store", "exchange", "max", "min", "wait", "compare_exchange" } do
      raises("integer expected", hits[verb], hits)
    end
    raises("integer expected", hits.compare_exchange, hits, 1)
    raises("integer expected", hits.compare_exchange, hits, 1, "2")
    raises("number of seconds", hits.wait, hits, 1, "1")
    raises("0 or more seconds", hits.wait, hits, 1, -1)
    raises("string expected", shared.counter, shared)
    assert.equal(0, hits:load())
  end)

  it("is waited for", function()
    assert.is_true(hits:wait(0))
    assert.is_true(hits:wait(-5, 0))
    assert.same({ false, "timeout" }, { hits:wait(1, 0) })
    local start = helper.now()
    assert.same({ false, "timeout" }, { hits:wait(1, 0.25) })
    assert.is_true(helper.now() - start >= 0.25)
    local pid = support.fork(function()
      for _ = 1, 5 do
        helper.sleep(0.03)
        hits:add()
      end
    end)
    assert.is_true(hits:wait(5))
    assert.is_true(hits:load() >= 5)
    assert.same({ "exit", 0 }, { support.wait(pid) })
    -- Every verb that changes it wakes who waits.
    for i, change in ipairs {
      function() hits:store(10) end, function() hits:exchange(20) end, function() hits:compare_exchange(20, 30) end,
      function() hits:max(40) end, function() hits:sub(-10) end, function()
        hits:store(70)
        hits:min(60)
      end,
    } do
      pid = support.fork(function() assert(hits:wait(i * 10, 30)) end)
      helper.sleep(0.02)
      change()
      assert.same({ "exit", 0 }, { support.wait(pid) })
    end
  end)

  it("is waited for by many", function()
    local pids = {}
    for i = 1, 6 do
      pids[i] = support.fork(function()
        assert(hits:wait(i * 10, 30))
        assert(hits:load() >= i * 10)
      end)
    end
    for _ = 1, 60 do
      helper.sleep(0.001)
      hits:add()
    end
    for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
  end)

  it("loses nothing when many count", function()
    local pids = {}
    for i = 1, 4 do
      pids[i] = support.fork(function()
        local own <close> = assert(polyshm.arena(shared.address))
        local mine = own:counter("hits")
        for n = 1, 5000 do
          if n % 2 == 0 then mine:add(2) else mine:sub() end
        end
      end)
    end
    for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
    assert.equal(4 * 2500, hits:load())
  end)

  it("is whole when those who count are killed", function()
    local pids = {}
    for i = 1, 3 do
      pids[i] = support.fork(function()
        while true do
          hits:add()
          shared:counter("others"):sub()
        end
      end)
    end
    assert.is_true(hits:wait(1000, 30))
    for _, pid in ipairs(pids) do support.kill(pid) end
    local before = hits:load()
    assert.equal(before + 1, hits:add())
    assert.same({}, shared:check())
  end)

  it("lets signals and hooks pass while it waits", function()
    local alarms = helper.alarm(0.01, 0.01)
    assert.same({ false, "timeout" }, { hits:wait(1, 0.2) })
    assert.is_true(helper.alarm(0) > alarms)
    local ran = 0
    debug.sethook(function()
      ran = ran + 1
      if ran > 3 then
        debug.sethook()
        hits:add() -- what it waits for
      end
    end, "", 1)
    assert.is_true(hits:wait(1))
    debug.sethook()
    -- A hook that ends the handle.
    local start = helper.now()
    debug.sethook(function()
      if helper.now() - start > 0.12 then
        debug.sethook()
        getmetatable(hits).__gc(hits)
      end
    end, "", 1)
    local ok, problem = pcall(hits.wait, hits, 100)
    debug.sethook()
    assert.is_false(ok)
    assert.is_truthy(tostring(problem):find("counter is closed", 1, true), tostring(problem))
  end)

  it("Ctrl-C ends a wait", function()
    local how, number, text = support.lua(([[
      local polyshm = require "polyshm"
      local shared <close> = assert(polyshm.arena(%q))
      local hits = shared:counter("hits")
      shared:counter("ready"):add()
      print(pcall(hits.wait, hits, 1000))
    ]]):format(shared.address), function(pid)
      assert.is_true(shared:counter("ready"):wait(1, 30))
      helper.sleep(0.15)
      helper.kill(pid, helper.SIGINT)
    end)
    assert.same({ "exit", 0 }, { how, number })
    assert.is_truthy(text:find("^false\t.*interrupted!"), text)
  end)

  it("is closed with its handle alone", function()
    local own = shared:counter("hits")
    do local ended <close> = own end -- luacheck: ignore 211
    raises("counter is closed", own.add, own)
    raises("counter is closed", own.name, own)
    assert.equal("polyshm.counter (closed)", tostring(own))
    assert.equal(1, hits:add())
  end)
end)
