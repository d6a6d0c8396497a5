-- SPDX-License-Identifier: MIT
-- Onces: run by one, once; if that one dies, by the next.
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("once", function()
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

  local once
  before_each(function() once = shared:once("table") end)

  it("runs once", function()
    assert.equal("table", once:name())
    local ran = 0
    local function run() ran = ran + 1 end
    assert.is_false(once:done())
    assert.same({ true }, { once:run(run) })
    assert.is_true(once:done())
    assert.same({ false }, { once:run(run) })
    assert.is_false(shared:open("table"):run(run))
    elsewhere(function() assert(not once:run(os.exit)) end)
    assert.equal(1, ran)
    raises("function", function() once:run(1) end)
    assert.truthy(tostring(once):find('once "table"', 1, true))
  end)

  it("is not done where the function raises", function()
    local ok, err = pcall(once.run, once, function() error({ code = "mine" }) end)
    assert.is_false(ok)
    assert.equal("mine", err.code)
    assert.is_false(once:done())
    assert.is_true(once:run(function() end))
  end)

  it("does not run in itself", function()
    assert.is_true(once:run(function()
      for _, timeout in ipairs { 0, 1, false } do
        raises('once "table": this thread would wait for itself', once.run, shared:once("table"), error, timeout or nil)
      end
      assert.is_true(shared:once("inner"):run(function() end))
      assert.is_false(once:done())
    end))
    assert.is_true(once:done())
  end)

  it("takes whatever can be called", function()
    for _, bad in ipairs { 1, "run", {}, false } do
      raises("function", once.run, once, bad)
    end
    raises("function", once.run, once)
    raises("number of seconds", once.run, once, error, "1")
    raises("timeout must be 0 or more", once.run, once, error, -1)
    assert.is_false(once:done())
    local ran = 0
    assert.is_true(once:run(setmetatable({}, { __call = function() ran = ran + 1 end })))
    assert.equal(1, ran)
  end)

  it("is not done where the function yields", function()
    local thread = coroutine.create(function() once:run(coroutine.yield) end)
    local ok, problem = coroutine.resume(thread)
    assert.is_false(ok)
    assert.truthy(tostring(problem):find("yield", 1, true))
    assert.is_false(once:done())
    assert.is_true(coroutine.wrap(function() return once:run(function() end) end)())
  end)

  it("is not run by a child of its runner", function()
    assert.is_true(once:run(function()
      elsewhere(function()
        local ok, err = pcall(once.run, once, error, 0.05)
        assert(not ok and err.code == "ETIMEDOUT")
      end)
    end))
    assert.is_true(once:done())
  end)

  it("outlives its handle and its arena while it runs", function()
    assert.is_true(once:run(function()
      local handle <close> = once -- luacheck: ignore 211
    end))
    assert.is_true(shared:once("table"):done())
    local other = shared:once("other")
    assert.is_true(other:run(function()
      shared:delete("other")
      shared:close()
    end))
    raises("closed", other.run, other, error)
  end)

  it("lets hooks run while it waits, and they may end it", function()
    local begun = shared:counter("begun")
    local pid = support.fork(function()
      once:run(function()
        begun:add()
        idle()
      end)
    end)
    assert.is_true(begun:wait(1, 30))
    local start = helper.now()
    debug.sethook(function()
      if helper.now() - start > 0.15 then
        debug.sethook()
        error("from the hook")
      end
    end, "", 1)
    local ok, problem = pcall(once.run, once, error)
    debug.sethook()
    assert.is_false(ok)
    assert.truthy(tostring(problem):find("from the hook", 1, true))
    support.kill(pid)
    assert.is_true(once:run(function() end, 30))
  end)

  it("can be looked at in a read-only arena", function()
    local readonly <close> = assert(polyshm.arena(shared.address, { access = "r" }))
    local other = readonly:once("table")
    assert.is_false(other:done())
    raises("read-only", other.run, other, error)
    once:run(function() end)
    assert.is_false(other:run(error))
    assert.is_true(other:done())
  end)

  it("is waited for", function()
    local go = shared:event("go")
    local pid = support.fork(function()
      once:run(function()
        shared:counter("begun"):add()
        assert(go:wait(30))
      end)
    end)
    assert.is_true(shared:counter("begun"):wait(1, 30))
    local ok, err = pcall(once.run, once, error, 0.01)
    assert.is_false(ok)
    assert.equal("ETIMEDOUT", err.code)
    go:set()
    assert.is_false(once:run(error, 30))
    assert.same({ "exit", 0 }, { support.wait(pid) })
  end)

  it("is run by the next one where its runner dies", function()
    local begun = shared:counter("begun")
    local pid = support.fork(function()
      once:run(function()
        begun:add()
        idle()
      end)
    end)
    assert.is_true(begun:wait(1, 30))
    support.kill(pid)
    assert.is_true(once:run(function() begun:add() end, 30))
    assert.equal(2, begun:load())
    support.kill(beside(function() end, idle))
  end)

  it("ends with its arena and its deletion", function()
    shared:delete("table")
    raises("was deleted", function() once:run(function() end) end)
    local other = shared:once("other")
    shared:close()
    raises("closed", function() other:run(function() end) end)
    raises("closed", function() other:done() end)
  end)
end)
