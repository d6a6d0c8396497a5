-- SPDX-License-Identifier: MIT
-- Latches: count down to 0, once.
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("latch", function()
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

  local latch
  before_each(function() latch = shared:latch("done", 3) end)

  it("has a name and a count", function()
    assert.equal("done", latch:name())
    assert.equal(3, latch:count())
    assert.equal(3, shared:latch("done"):count())
    assert.equal(3, shared:open("done"):count())
    assert.is_true(shared:latch("open", 0):wait())
    raises("exists, and this parameter", function() shared:latch("done", 4) end)
    raises("takes the number", function() shared:latch("other") end)
    raises("more than", function() shared:latch("other", 1 << 31) end)
    raises("n", function() shared:latch("other", -1) end)
    assert.truthy(tostring(latch):find('latch "done"', 1, true))
  end)

  it("counts down", function()
    assert.same({ false, "timeout" }, { latch:wait(0) })
    assert.same({ false, "timeout" }, { latch:wait(0.01) })
    assert.equal(2, latch:count_down())
    assert.equal(0, latch:count_down(5))
    assert.equal(0, latch:count_down())
    assert.same({ true }, { latch:wait() })
    raises("at least 1", function() latch:count_down(0) end)
    raises("n", function() latch:count_down(-1) end)
  end)

  it("lets all go at 0", function()
    local pids = {}
    for i = 1, 2 do pids[i] = support.fork(function() assert(latch:wait(30)) end) end
    elsewhere(function() latch:count_down(2) end)
    assert.is_false(latch:wait(0.02))
    latch:count_down()
    for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
  end)

  it("keeps what the dead have counted", function()
    support.kill(beside(function() latch:count_down() end, idle))
    assert.equal(2, latch:count())
  end)

  it("ends with its arena and its deletion", function()
    shared:delete("done")
    raises("was deleted", function() latch:wait() end)
    local other = shared:latch("other", 1)
    shared:close()
    for _, verb in ipairs { "count_down", "count", "wait" } do
      raises("closed", function() other[verb](other) end)
    end
  end)
end)
