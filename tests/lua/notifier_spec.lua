-- SPDX-License-Identifier: MIT
-- pollfd(): a descriptor for event loops.
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises = support.raises

describe("pollfd", function()
  local shared, a
  before_each(function()
    shared = assert(polyshm.arena(support.posix(), { create = true, size = "1M", participants = 16 }))
    a = shared:counter("a")
  end)
  after_each(function()
    polyshm.unlink(shared.address)
    shared:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  it("is armed once by each call", function()
    local fd = a:pollfd()
    assert.is_true(helper.cloexec(fd))
    assert.is_false(helper.readable(fd, 0))
    a:add()
    assert.is_true(helper.readable(fd, 20))
    a:store(0)
    assert.equal(fd, a:pollfd())
    assert.is_false(helper.readable(fd, 0))
    assert.equal(fd, a:pollfd(3))
    a:store(2)
    assert.equal(fd, a:pollfd(3))
    assert.is_false(helper.readable(fd, 0))
    a:store(3)
    assert.is_true(helper.readable(fd, 20))
  end)

  it("is refused of all when the arena is closed", function()
    local objects = {
      shared:mutex("mutex"), a, shared:event("event"), shared:event("auto", { auto = true }),
      shared:semaphore("semaphore", 1), shared:permits("permits", 2), shared:latch("latch", 2), shared:once("once"),
    }
    shared:close()
    for _, object in ipairs(objects) do raises("closed", object.pollfd, object) end
  end)

  it("is readable when a lock may be had, or its owner died", function()
    local lock = shared:mutex("lock")
    local pid = support.fork(function()
      lock:acquire()
      a:store(1)
      a:wait(2)
      lock:release()
      a:wait(3)
      lock:acquire()
      a:store(4)
      helper.sleep(60)
    end)
    a:wait(1)
    assert.is_false(helper.readable(lock:pollfd(), 0))
    a:store(2)
    repeat
      local fd = lock:pollfd()
      local got = lock:acquire(0)
      if not got then assert.is_true(helper.readable(fd, 20)) end
    until got
    lock:release()
    a:store(3)
    a:wait(4)
    local child
    for _, p in ipairs(shared:participants()) do
      if p.pid == pid then child = p end
    end
    assert.is_false(helper.readable(child:pollfd(), 0))
    assert.is_false(helper.readable(lock:pollfd(), 0))
    support.kill(pid)
    assert.is_true(helper.readable(lock:pollfd(), 20))
    while not child:wait(0) do
      assert.is_true(helper.readable(child:pollfd(), 20))
    end
  end)

  it("is another one in a forked child", function()
    local fd = a:pollfd()
    support.in_child(function()
      local own = a:pollfd(2)
      assert(not helper.readable(own, 0))
      a:store(2)
      assert(helper.readable(own, 20))
    end)
    assert.is_true(helper.readable(fd, 20))
  end)

  it("refuses", function()
    raises("only a counter", shared:mutex("m").pollfd, shared:mutex("m"), 2)
    raises("number expected", a.pollfd, a, {})
    shared:delete("a")
    local ok, problem = pcall(a.pollfd, a)
    assert.is_false(ok)
    assert.equal("EDELETED", problem.code)
    raises("", a.pollfd, shared)
  end)
end)
