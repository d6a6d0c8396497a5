-- SPDX-License-Identifier: MIT
-- Permits: so many at a time, and free again when their owner dies.
-- luacheck: ignore 211/held
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("permits", function()
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

  local permits
  before_each(function() permits = shared:permits("connections", 3) end)

  it("has a name and a total", function()
    assert.equal("connections", permits:name())
    assert.equal(3, permits:total())
    assert.equal(3, shared:permits("connections"):total())
    assert.equal(3, shared:open("connections"):available())
    raises("exists, and this parameter", function() shared:permits("connections", 4) end)
    raises('permits "other": does not exist, and to create it takes', function() shared:permits("other") end)
    raises("at least 1", function() shared:permits("other", 0) end)
    raises("more than", function() shared:permits("other", 65536) end)
    assert.truthy(tostring(permits):find('permits "connections"', 1, true))
  end)

  it("is acquired, all or none", function()
    assert.is_true(permits:acquire())
    assert.is_true(permits:acquire(2, 1))
    assert.equal(3, permits:held())
    assert.equal(0, permits:available())
    assert.same({ false, "timeout" }, { permits:acquire(1, 0) })
    permits:release(2)
    assert.same({ false, "timeout" }, { permits:acquire(3, 0) })
    assert.equal(2, permits:available())
    assert.equal(0, select("#", permits:release()))
    raises("not held", function() permits:release() end)
    raises("more than", function() permits:acquire(4) end)
    raises("at least 1", function() permits:acquire(0) end)
    raises("at least 1", function() permits:release(0) end)
    raises("n", function() permits:acquire(-1) end)
    assert.equal(3, permits:available())
  end)

  it("is guarded", function()
    do
      local held <close> = permits:guard(2)
      assert.equal(2, permits:held())
      local ok, err = pcall(permits.guard, permits, 3, 0)
      assert.is_false(ok)
      assert.equal("ETIMEDOUT", err.code)
    end
    assert.equal(0, permits:held())
    local guard = permits:guard()
    guard:release()
    guard:release()
    assert.equal(3, permits:available())
    pcall(function()
      local held <close> = permits:guard(3, 1)
      error("in the block")
    end)
    assert.equal(3, permits:available())
  end)

  it("is free again when its owner dies", function()
    local pids = {
      beside(function() permits:acquire(2) end, idle),
      beside(function() permits:acquire() end, idle),
    }
    assert.same({ false, "timeout" }, { permits:acquire(1, 0.01) })
    support.kill(pids[1])
    assert.is_true(permits:acquire(2, 30))
    support.kill(pids[2])
    assert.is_true(permits:acquire(1, 30))
    permits:release(3)
    assert.same({}, shared:check())
  end)

  it("is nobody's after a fork", function()
    permits:acquire(2)
    elsewhere(function()
      assert(permits:held() == 0)
      assert(permits:acquire(1, 0))
      assert(not permits:acquire(1, 0))
    end)
    assert.equal(2, permits:held())
    permits:release(2)
  end)

  it("is waited for and polled", function()
    assert.is_number(permits:pollfd())
    local pid = beside(function() permits:acquire(2) end, idle)
    assert.same({ permits }, polyshm.wait({ permits, { permits, 2 } }, 0))
    support.kill(pid)
    assert.equal(1, #polyshm.wait({ { permits, 3 } }, 30))
  end)

  it("is given back after the end of its arena", function()
    permits:acquire(2)
    shared:delete("connections")
    raises("was deleted", function() permits:acquire() end)
    permits:release()
    shared:close()
    raises("closed", function() permits:acquire() end)
    permits:release()
    raises("not held", function() permits:release() end)
  end)
end)
