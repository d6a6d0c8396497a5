-- SPDX-License-Identifier: MIT
-- Events: set or clear, and such that clear themselves.
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("event", function()
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
    local ready = shared:counter("begun")
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

  local event, auto
  before_each(function()
    event = shared:event("ready")
    auto = shared:event("next", { auto = true })
  end)

  it("has a name and a way", function()
    assert.equal("ready", event:name())
    assert.is_false(event:auto())
    assert.is_true(auto:auto())
    assert.is_true(shared:open("next"):auto())
    assert.is_true(shared:event("next"):auto())
    raises("exists, and this parameter", function() shared:event("ready", { auto = true }) end)
    raises("auto", function() shared:event("other", { auto = 1 }) end)
    raises("colour", function() shared:event("other", { colour = 1 }) end)
    assert.truthy(tostring(auto):find('event "next"', 1, true))
  end)

  it("is set and cleared", function()
    assert.is_false(event:is_set())
    assert.same({ false, "timeout" }, { event:wait(0) })
    assert.same({ false, "timeout" }, { event:wait(0.01) })
    event:set()
    event:set()
    assert.is_true(event:is_set())
    assert.same({ true }, { event:wait() })
    event:clear()
    assert.is_false(event:is_set())
    raises("timeout", function() event:wait(-1) end)
  end)

  it("clears itself", function()
    auto:set()
    auto:set()
    assert.is_true(auto:wait(0))
    assert.is_false(auto:is_set())
    assert.is_false(auto:wait(0.01))
  end)

  it("lets all go, though it is cleared at once", function()
    local done = shared:latch("done", 3)
    local pids = {}
    for i = 1, 3 do
      pids[i] = support.fork(function()
        assert(event:wait(30))
        done:count_down()
      end)
    end
    local function asleep()
      local number = 0
      for _, one in ipairs(shared:participants()) do
        if one.waits == "ready" then number = number + 1 end
      end
      return number
    end
    while asleep() < 3 do helper.sleep(0.002) end
    event:set()
    event:clear()
    assert.is_true(done:wait(30))
    for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
  end)

  it("lets one go each time", function()
    local went = shared:counter("went")
    local pids = {}
    for i = 1, 2 do
      pids[i] = support.fork(function()
        assert(auto:wait(30))
        went:add()
      end)
    end
    auto:set()
    assert.is_true(went:wait(1, 30))
    helper.sleep(0.02)
    assert.equal(1, went:load())
    auto:set()
    assert.is_true(went:wait(2, 30))
    for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
    elsewhere(function() auto:set() end)
    assert.is_true(auto:wait(30))
  end)

  it("costs nothing where a waiter is killed", function()
    local pid = beside(function() end, function() auto:wait() end)
    helper.sleep(0.02)
    support.kill(pid)
    auto:set()
    assert.is_true(auto:wait(30))
    support.kill(beside(function() end, idle))
  end)

  it("ends with its arena and its deletion", function()
    shared:delete("ready")
    raises("was deleted", function() event:wait() end)
    shared:close()
    for _, verb in ipairs { "set", "clear", "is_set", "wait" } do
      raises("closed", function() auto[verb](auto) end)
    end
  end)
end)
