-- SPDX-License-Identifier: MIT
-- polyshm.wait: several objects at once.
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("wait", function()
  local shared, a, b
  before_each(function()
    shared = assert(polyshm.arena(support.posix(), { create = true, size = "1M", participants = 16 }))
    a, b = shared:counter("a"), shared:counter("b")
  end)
  after_each(function()
    polyshm.unlink(shared.address)
    shared:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  it("gives what is ready, in order", function()
    local lock = shared:mutex("lock")
    assert.same({}, polyshm.wait({ a, b }, 0))
    assert.same({}, polyshm.wait({}, 0.01))
    local ready = polyshm.wait({ a, lock, b }, 0)
    assert.equal(1, #ready)
    assert.equal(lock, ready[1])
    b:store(4)
    local pair = { b, 4 }
    ready = polyshm.wait({ pair, { b, 5 }, lock, b, a })
    assert.equal(3, #ready)
    assert.equal(pair, ready[1])
    assert.equal(lock, ready[2])
    assert.equal(b, ready[3])
    assert.same({}, polyshm.wait({ a, { b, 5 } }, 0.15))
    ready = polyshm.wait({ b, a, b, { b, 5 }, { b, 4.0 } })
    assert.equal(3, #ready)
    assert.equal(b, ready[2])
    assert.same({ b, 4.0 }, ready[3])
    assert.equal(200, #polyshm.wait((function()
      local many = {}
      for i = 1, 400 do many[i] = i % 2 == 0 and a or b end
      return many
    end)(), 0))
  end)

  it("is woken by another process", function()
    for _ = 1, 5 do
      local pid = support.fork(function()
        helper.sleep(0.03)
        shared:counter("b"):add()
      end)
      local ready = polyshm.wait { a, b }
      assert.equal(1, #ready)
      assert.equal(b, ready[1])
      support.wait(pid)
      b:store(0)
    end
  end)

  it("sees deaths", function()
    local lock = shared:mutex("lock")
    local pid = support.fork(function()
      lock:acquire()
      a:add()
      helper.sleep(60)
    end)
    a:wait(1)
    a:store(0)
    local child
    for _, p in ipairs(shared:participants()) do
      if p.pid == pid then child = p end
    end
    assert.same({}, polyshm.wait({ a, lock, child }, 0.01))
    support.kill(pid)
    local ready = polyshm.wait { a, lock, child }
    assert.is_true(#ready >= 1)
    ready = polyshm.wait { a, lock, child }
    assert.equal(lock, ready[1])
    assert.equal(child, ready[2])
  end)

  it("names what cannot be waited for", function()
    raises("objects[2] cannot be waited for", polyshm.wait, { a, 5 })
    raises("objects[1] cannot be waited for", polyshm.wait, { shared })
    raises("objects[1] cannot be waited for", polyshm.wait, { {} })
    raises("objects[1]: only a counter", polyshm.wait, { { shared:mutex("m"), 1 } })
    raises("objects[1]: an integer", polyshm.wait, { { a, "1" } })
    raises("table expected", polyshm.wait, a)
    raises("number of seconds", polyshm.wait, { a }, "x")
  end)

  it("raises for what goes", function()
    shared:delete("b")
    local ok, problem = pcall(polyshm.wait, { a, b })
    assert.is_false(ok)
    assert.equal("EDELETED", problem.code)
    local other = assert(polyshm.arena(shared.address))
    local c = other:counter("a")
    other:close()
    raises("closed", polyshm.wait, { a, c })
  end)

  it("lets hooks run, which may close what is waited for", function()
    local calls = 0
    debug.sethook(function()
      calls = calls + 1
      if calls == 3 then
        debug.sethook()
        getmetatable(a).__close(a)
      end
    end, "", 1)
    local ok, problem = pcall(polyshm.wait, { a }, 10)
    debug.sethook()
    assert.is_false(ok)
    assert.is_truthy(tostring(problem))
  end)

  it("waits for many", function()
    local all = {}
    for i = 1, 300 do
      all[i] = shared:counter("c" .. i)
    end
    local pid = support.fork(function()
      helper.sleep(0.03)
      shared:counter("c250"):add()
    end)
    local ready = polyshm.wait(all)
    assert.equal(1, #ready)
    assert.equal(all[250], ready[1])
    support.wait(pid)
  end)
end)
