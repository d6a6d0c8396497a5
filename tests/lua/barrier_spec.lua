-- SPDX-License-Identifier: MIT
-- Barriers: all wait for each other, and the death of a member counts.
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("barrier", function()
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

  local barrier
  before_each(function() barrier = shared:barrier("phases", 2) end)

  local function broken(call)
    local ok, err = pcall(call)
    assert.is_false(ok)
    assert.equal("EBROKEN", err.code)
  end

  local function waiting(one, number)
    while one:n_waiting() < number do helper.sleep(0.002) end
  end

  it("is left by who waits when a hook closes the handle", function()
    local again, start = shared:barrier("phases"), helper.now()
    debug.sethook(function()
      if again:n_waiting() == 1 then
        debug.sethook()
        getmetatable(barrier).__close(barrier)
      end
    end, "", 1)
    raises("barrier is closed", barrier.wait, barrier, 20)
    debug.sethook()
    assert.is_true(helper.now() - start < 10)
    assert.equal(0, again:n_waiting())
    assert.is_false(again:broken())
  end)

  it("has a name and parties", function()
    assert.equal("phases", barrier:name())
    assert.equal(2, barrier:parties())
    assert.equal(0, barrier:n_waiting())
    assert.is_false(barrier:broken())
    assert.equal("break", barrier:on_death())
    assert.equal("shrink", shared:barrier("other", 2, { on_death = "shrink" }):on_death())
    assert.equal(2, shared:open("phases"):parties())
    raises("exists, and this parameter", function() shared:barrier("phases", 3) end)
    raises("exists, and this parameter", function() shared:barrier("phases", 2, { on_death = "shrink" }) end)
    raises("on_death", function() shared:barrier("new", 2, { on_death = "grow" }) end)
    raises('barrier "new": does not exist, and to create it takes the number', function() shared:barrier("new") end)
    raises("at least 1", function() shared:barrier("new", 0) end)
    raises("more than", function() shared:barrier("new", 32767) end)
    assert.truthy(tostring(barrier):find('barrier "phases"', 1, true))
  end)

  it("is passed together", function()
    local total = shared:counter("total")
    local function work()
      for step = 1, 50 do
        total:add()
        barrier:wait(30)
        assert(total:load() == 2 * step)
        barrier:wait(30)
      end
      barrier:leave()
    end
    local pid = support.fork(work)
    work()
    assert.same({ "exit", 0 }, { support.wait(pid) })
    local one = shared:barrier("one", 1)
    assert.equal(0, one:wait())
  end)

  it("gives each a number", function()
    local sum = shared:counter("sum")
    local pid = support.fork(function()
      sum:add(barrier:wait(30) + 1)
      barrier:leave()
    end)
    sum:add(barrier:wait(30) + 1)
    assert.same({ "exit", 0 }, { support.wait(pid) })
    assert.equal(3, sum:load())
  end)

  it("breaks by a timeout, an abort and a reset", function()
    broken(function() barrier:wait(0.02) end)
    assert.is_true(barrier:broken())
    broken(function() barrier:wait() end)
    barrier:reset()
    assert.is_false(barrier:broken())
    barrier:leave()
    barrier:abort()
    assert.is_true(barrier:broken())
    barrier:reset()
    for _, verb in ipairs { "abort", "reset" } do
      local pid = support.fork(function()
        broken(function() barrier:wait(30) end)
      end)
      waiting(barrier, 1)
      barrier[verb](barrier)
      assert.same({ "exit", 0 }, { support.wait(pid) })
      barrier:reset()
    end
  end)

  it("breaks when a member dies", function()
    local pid = support.fork(function()
      barrier:wait(30)
      idle()
    end)
    barrier:wait(30)
    local killer = support.fork(function()
      waiting(barrier, 1)
      helper.kill(pid, helper.SIGKILL)
    end)
    broken(function() barrier:wait(30) end)
    assert.same({ "exit", 0 }, { support.wait(killer) })
    assert.same({ "signal", helper.SIGKILL }, { support.wait(pid) })
  end)

  it("is reset after a death", function()
    local pid = support.fork(function()
      barrier:wait(30)
      idle()
    end)
    barrier:wait(30)
    support.kill(pid)
    broken(function() barrier:wait(30) end)
    barrier:reset()
    local fresh = support.fork(function()
      barrier:wait(30)
      barrier:leave()
    end)
    barrier:wait(30)
    assert.same({ "exit", 0 }, { support.wait(fresh) })
  end)

  it("shrinks when a member dies", function()
    local shrinking = shared:barrier("shrinking", 2, { on_death = "shrink" })
    local pid = support.fork(function()
      shrinking:wait(30)
      idle()
    end)
    shrinking:wait(30)
    support.kill(pid)
    assert.equal(0, shrinking:wait(30))
    assert.is_false(shrinking:broken())
  end)

  it("has members", function()
    barrier:join()
    barrier:join()
    local pid = beside(function() barrier:join() end, idle)
    elsewhere(function()
      raises("parties", function() barrier:join() end)
    end)
    barrier:leave()
    barrier:leave()
    elsewhere(function()
      barrier:join()
      barrier:leave()
    end)
    support.kill(pid)
  end)

  it("ends with its arena and its deletion", function()
    shared:delete("phases")
    raises("was deleted", function() barrier:wait() end)
    local other = shared:barrier("other", 2)
    shared:close()
    for _, verb in ipairs { "wait", "join", "leave", "abort", "reset", "n_waiting", "broken" } do
      raises("closed", function() other[verb](other) end)
    end
  end)
end)
