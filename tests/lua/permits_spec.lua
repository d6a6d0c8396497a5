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
    local guard = permits:guard(2)
    assert.truthy(tostring(guard):find('permits "connections": n 2', 1, true), tostring(guard))
    guard:release()
    assert.equal("polyshm.permits_guard (released)", tostring(guard))
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
    assert.equal(3, permits:available())
  end)

  it("says what is wrong with a call", function()
    for _, verb in ipairs { "acquire", "release", "guard" } do
      raises('permits "connections": n 0: must be at least 1', permits[verb], permits, 0)
      raises("n -1: must not be negative", permits[verb], permits, -1)
      for _, bad in ipairs { 1.5, "1K" } do
        raises("whole number expected", permits[verb], permits, bad)
      end
      raises("n 1.5: a whole number expected", permits[verb], permits, 1.5)
      raises("n table: a whole number expected", permits[verb], permits, {})
    end
    for _, verb in ipairs { "acquire", "guard" } do
      raises('permits "connections": n 4: more than there are', permits[verb], permits, 4)
      raises("n 9223372036854775807: more than there are", permits[verb], permits, math.maxinteger)
      raises("number of seconds", permits[verb], permits, 1, "1")
      raises("timeout must be 0 or more", permits[verb], permits, 1, -1)
    end
    permits:acquire(2)
    raises('permits "connections": n 3: not held', permits.release, permits, 3)
    for _, verb in ipairs { "acquire", "guard" } do
      raises('permits "connections": this thread would wait for itself', permits[verb], permits, 2)
      raises("this thread would wait for itself", permits[verb], permits, 2, 30)
    end
    assert.same({ false, "timeout" }, { permits:acquire(2, 0) })
    assert.equal(2, permits:held())
    permits:release(2)
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

  it("is given back by guards that are forgotten or left by an error", function()
    permits:guard(2)
    collectgarbage()
    assert.equal(3, permits:available())
    raises("in the block", function()
      local held <close> = permits:guard()
      permits:release()
      error("in the block")
    end)
    raises("not held", function()
      local held <close> = permits:guard()
      permits:release()
    end)
    coroutine.close((function()
      local thread = coroutine.create(function()
        local held <close> = permits:guard(3)
        coroutine.yield()
      end)
      coroutine.resume(thread)
      assert.equal(3, permits:held())
      return thread
    end)())
    assert.equal(3, permits:available())
  end)

  it("stays what a thread has where a handle ends", function()
    do
      local other <close> = shared:permits("connections")
      other:acquire(2)
    end
    local other = shared:permits("connections")
    local guard = other:guard()
    other = nil -- luacheck: ignore 311
    collectgarbage()
    assert.equal(3, permits:held())
    guard:release()
    permits:release(2)
    assert.equal(3, permits:available())
  end)

  it("lets hooks run while it waits, and they may end it", function()
    for _, verb in ipairs { "acquire", "guard" } do
      local pid = beside(function() permits:acquire() end, idle)
      local start = helper.now()
      debug.sethook(function()
        if helper.now() - start > 0.15 then
          debug.sethook()
          error("from the hook")
        end
      end, "", 1)
      local ok, problem = pcall(permits[verb], permits, 3)
      debug.sethook()
      assert.is_false(ok)
      assert.truthy(tostring(problem):find("from the hook", 1, true))
      assert.equal(0, permits:held())
      support.kill(pid)
      assert.is_true(permits:acquire(3, 30))
      permits:release(3)
    end
  end)

  it("is not waited for where it is deleted or its arena closed meanwhile", function()
    for _, verb in ipairs { "acquire", "guard" } do
      local pid = beside(function() permits:acquire() end, function()
        helper.sleep(0.02)
        shared:delete("connections")
        idle()
      end)
      raises("was deleted", permits[verb], permits, 3)
      support.kill(pid)
      permits = shared:permits("connections", 3)
    end
    local pid = beside(function() permits:acquire() end, idle)
    local start = helper.now()
    debug.sethook(function()
      if helper.now() - start > 0.15 then
        debug.sethook()
        shared:close()
      end
    end, "", 1)
    local ok, problem = pcall(permits.acquire, permits, 3)
    debug.sethook()
    support.kill(pid)
    assert.is_false(ok)
    assert.truthy(tostring(problem):find("closed", 1, true))
  end)

  it("can be looked at in a read-only arena", function()
    permits:acquire()
    local readonly <close> = assert(polyshm.arena(shared.address, { access = "r" }))
    local other = readonly:permits("connections")
    assert.equal(2, other:available())
    assert.equal(0, other:held())
    assert.equal(3, other:total())
    raises("read-only", function() other:acquire() end)
    raises("read-only", function() other:guard() end)
    raises("not held", function() other:release() end)
    assert.same({ { other, 2 } }, polyshm.wait({ { other, 2 }, { other, 3 } }, 0))
    permits:release()
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
