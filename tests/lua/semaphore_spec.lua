-- SPDX-License-Identifier: MIT
-- Semaphores: places that nobody owns.
-- luacheck: ignore 211/held
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("semaphore", function()
  local shared
  before_each(function()
    shared = assert(polyshm.arena(support.posix(), { create = true, size = "1M", participants = 16 }))
  end)
  after_each(function()
    polyshm.unlink(shared.address)
    shared:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  -- Runs it in a child, and waits for its end.
  local function elsewhere(body)
    local pid = support.fork(body)
    assert.same({ "exit", 0 }, { support.wait(pid) })
  end

  -- A child that has done `before`, and goes on with `body` while this process goes on.
  local function beside(before, body)
    local ready = shared:counter("ready")
    local number = ready:load()
    local pid = support.fork(function()
      before()
      ready:add()
      body()
    end)
    assert.is_true(ready:wait(number + 1, 30))
    return pid
  end

  local function idle() helper.sleep(60) end

  local places
  before_each(function() places = shared:semaphore("places", 2) end)

  it("has a name and a value", function()
    assert.equal("places", places:name())
    assert.equal(2, places:value())
    assert.equal(1, shared:semaphore("one"):value())
    assert.equal(2, shared:semaphore("places"):value())
    assert.equal(2, shared:open("places"):value())
    assert.truthy(tostring(places):find('semaphore "places"', 1, true))
    raises("exists, and this parameter", function() shared:semaphore("places", 3) end)
    raises("more than", function() shared:semaphore("more", 1 << 31) end)
    raises("value", function() shared:semaphore("less", -1) end)
    raises("value", function() shared:semaphore("text", {}) end)
  end)

  it("is guarded", function()
    do
      local held <close> = places:guard()
      local more <close> = places:guard(5)
      assert.equal(0, places:value())
      assert.truthy(tostring(held):find('semaphore "places"', 1, true), tostring(held))
      for _, timeout in ipairs { 0, 0.01 } do
        local late = raises('semaphore "places"', places.guard, places, timeout)
        assert.equal("ETIMEDOUT", late.code)
      end
      more:release()
      more:release()
      assert.equal(1, places:value())
      assert.equal("polyshm.semaphore_guard (released)", tostring(more))
    end
    assert.equal(2, places:value())
    raises("timeout must be 0 or more", places.guard, places, -1)
    raises("number of seconds", places.guard, places, "1")
  end)

  it("is given back by guards that are forgotten or left by an error", function()
    places:guard()
    collectgarbage()
    collectgarbage()
    assert.equal(2, places:value())
    raises("mine", function()
      local held <close> = places:guard()
      error("mine" .. places:value())
    end)
    assert.equal(2, places:value())
  end)

  it("is guarded while others wait, though its handle is forgotten or deleted", function()
    local guard = places:guard()
    places:acquire()
    local pid = beside(function() end, function()
      local held <close> = shared:semaphore("places"):guard(30)
      assert.equal(0, places:value())
    end)
    guard:release()
    assert.same({ "exit", 0 }, { support.wait(pid) })
    assert.equal(1, places:value())
    guard = shared:semaphore("places"):guard()
    collectgarbage()
    assert.equal(0, places:value())
    shared:delete("places")
    assert.equal("EDELETED", raises("deleted", guard.release, guard).code)
    guard:release()
    raises("deleted", places.guard, places)
  end)

  it("is acquired and released", function()
    assert.is_true(places:acquire())
    assert.is_true(places:acquire(1))
    assert.same({ false, "timeout" }, { places:acquire(0) })
    assert.same({ false, "timeout" }, { places:acquire(0.01) })
    assert.equal(0, select("#", places:release()))
    places:release(2)
    assert.equal(3, places:value())
    raises("at least 1", function() places:release(0) end)
    raises("more than", function() places:release(1 << 31) end)
    raises("n", function() places:release(-1) end)
    raises("timeout", function() places:acquire(-1) end)
    assert.equal(3, places:value())
  end)

  it("is released by anybody", function()
    places:acquire()
    places:acquire()
    local pid = beside(function() end, function()
      helper.sleep(0.03)
      places:release()
    end)
    assert.is_true(places:acquire(30))
    assert.same({ "exit", 0 }, { support.wait(pid) })
  end)

  it("keeps what the dead took", function()
    local pid = beside(function() places:acquire() end, idle)
    support.kill(pid)
    assert.equal(1, places:value())
  end)

  it("is waited for and polled", function()
    assert.same({ places }, polyshm.wait({ places }, 0))
    assert.is_number(places:pollfd())
    places:acquire()
    places:acquire()
    assert.same({}, polyshm.wait({ places }, 0))
  end)

  it("ends with its arena and its deletion", function()
    shared:delete("places")
    raises("was deleted", function() places:acquire() end)
    local other = shared:semaphore("other")
    shared:close()
    raises("closed", function() other:acquire() end)
    raises("closed", function() other:release() end)
    raises("closed", function() other:value() end)
  end)

  it("keeps no more inside than it has places", function()
    local inside, most = shared:counter("inside"), shared:counter("most")
    local function work()
      for _ = 1, 300 do
        places:acquire()
        most:max(inside:add())
        inside:sub()
        places:release()
      end
    end
    local pids = {}
    for i = 1, 3 do pids[i] = support.fork(work) end
    for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
    assert.is_true(most:load() <= 2)
    assert.equal(2, places:value())
    elsewhere(work)
  end)
end)
