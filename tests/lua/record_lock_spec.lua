-- SPDX-License-Identifier: MIT
-- Record locks: exclusion of ranges between processes and within one, sharing, timeouts, guards.
-- luacheck: ignore 211/held 211/ended
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises, refused = support.raises, support.refused

describe("record_lock", function()
  local seg
  before_each(function()
    seg = assert(polyshm.segment(support.posix(), { size = 4096, create = true }))
  end)
  after_each(function()
    polyshm.unlink(seg.address)
    seg:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  local kinds = {
    posix = function() return seg end,
    file = function() return assert(polyshm.segment("file:" .. support.path(), { size = 4096, create = true })) end,
    memfd = function() return assert(polyshm.segment("memfd:polyshm-test", { size = 4096 })) end,
  }
  for name, open in pairs(kinds) do
    it("excludes on " .. name, function()
      local on = open()
      local one, two = assert(on:record_lock(0, 100)), assert(on:record_lock(99, 1))
      assert.is_false(one:locked())
      assert.equal(1, select("#", one:acquire()))
      assert.is_true(one:locked())
      assert.is_true(two:locked())
      assert.same({ false, "timeout" }, { two:acquire(0) })
      assert.same({ false, "held" }, { one:acquire(0) })
      raises("already held by this lock object", one.acquire, one)
      support.in_child(function()
        local mine = assert(on:record_lock(50, 1))
        assert(select(2, mine:acquire(0)) == "timeout")
        assert(select(2, mine:acquire(0.05)) == "timeout")
        raises("not held", one.release, one)
      end)
      assert.equal(0, select("#", one:release()))
      assert.is_true(two:acquire())
      two:release()
      raises("not held", two.release, two)
      if on ~= seg then on:close() end
    end)
  end

  it("leaves other ranges alone, and shares", function()
    local a, b = seg:record_lock(0, 10), seg:record_lock(10, 10)
    a:acquire()
    assert.is_true(b:acquire(0))
    local readers = { seg:record_lock(100, 10, { shared = true }), seg:record_lock(105, 50, { shared = true }) }
    assert.is_true(readers[1]:acquire(0))
    assert.is_false(readers[2]:locked())
    assert.is_true(readers[2]:acquire(0))
    local writer = seg:record_lock(109, 1)
    assert.same({ false, "timeout" }, { writer:acquire(0) })
    readers[1]:release()
    assert.same({ false, "timeout" }, { writer:acquire(0) })
    readers[2]:release()
    assert.is_true(writer:acquire(0))
    assert.is_true(readers[1]:locked())
    local whole = seg:record_lock()
    assert.is_true(whole:locked())
    for _, lock in ipairs { a, b, writer } do lock:release() end
    assert.is_true(whole:acquire(0))
    whole:release()
    assert.is_truthy(tostring(a):find(seg.address .. ": record lock at 0", 1, true))
  end)

  it("lies at the window's place in the file", function()
    local path = support.path()
    local whole <close> = assert(polyshm.segment("file:" .. path, { size = 8192, create = true }))
    local window <close> = assert(polyshm.segment("file:" .. path, { offset = 5000, size = 100 }))
    local inner, outer = window:record_lock(10, 5), whole:record_lock(5010, 1)
    inner:acquire()
    assert.is_true(outer:locked())
    assert.is_false(whole:record_lock(5015, 1):locked())
    assert.is_false(whole:record_lock(10, 1):locked())
    inner:release()
  end)

  it("is free when its holder dies", function()
    local pid = support.fork(function()
      local lock = seg:record_lock(0, 10)
      assert(lock:acquire())
      seg:write(0, "held")
      helper.sleep(60)
    end)
    support.until_true(function() return seg:read(0, 4) == "held" end)
    local lock = seg:record_lock(0, 10)
    assert.same({ false, "timeout" }, { lock:acquire(0.15) })
    assert.equal("ETIMEDOUT", raises("record lock at 0", lock.guard, lock, 0.05).code)
    assert.equal("ETIMEDOUT", raises("record lock at 0", lock.guard, lock, 0).code)
    support.kill(pid)
    assert.is_true(lock:acquire(20))
    lock:release()
  end)

  it("guards, and is released by a collection", function()
    local lock, other = seg:record_lock(0, 10), seg:record_lock(0, 10)
    do
      local held <close> = lock:guard()
      assert.is_true(other:locked())
    end
    assert.is_false(other:locked())
    raises("inner", function()
      local held <close> = lock:guard(1)
      error("inner")
    end)
    assert.is_false(other:locked())
    seg:record_lock(0, 10):acquire()
    collectgarbage()
    collectgarbage()
    assert.is_false(other:locked())
    local held = lock:guard()
    do local ended <close> = lock end
    raises("record lock is closed", lock.locked, lock)
    assert.is_true(other:locked())
    held:release()
    assert.is_false(other:locked())
    assert.is_nil(lock.recover)
  end)

  it("refuses what cannot be", function()
    for _, address in ipairs { "anon:", "zero:", "sysv:private" } do
      local none <close> = assert(polyshm.segment(address, { size = 10 }))
      refused("EOPNOTSUPP", address:match("^%a+:"), none:record_lock())
      none:unlink()
    end
    raises("outside the segment", seg.record_lock, seg, 4000, 97)
    raises("unknown option 'share'", seg.record_lock, seg, 0, 1, { share = true })
    local r <close> = assert(polyshm.segment(seg.address, { access = "r" }))
    raises("read-only", r.record_lock, r)
    local shared = assert(r:record_lock(0, 1, { shared = true }))
    assert.is_true(shared:acquire(0))
    assert.is_true(seg:record_lock():locked())
    shared:release()
    local lock = seg:record_lock()
    for _, wrong in ipairs { -1, 0 / 0 } do raises("timeout must be", lock.acquire, lock, wrong) end
    raises("number of seconds", lock.acquire, lock, "1")
    lock:acquire()
    seg:close()
    raises("segment is closed", lock.acquire, lock)
    raises("segment is closed", lock.locked, lock)
    lock:release()
  end)

  it("lets hooks run while it waits: those for calls, and those that count", function()
    local lock, other = seg:record_lock(0, 10), seg:record_lock(0, 10)
    for mask, count in pairs { c = 0, [""] = 1 } do
      lock:acquire()
      local start = helper.now()
      debug.sethook(function()
        if helper.now() - start > 0.12 then
          debug.sethook()
          lock:release()
        end
      end, mask, count)
      local acquired = other:acquire(20)
      debug.sethook()
      assert.is_true(acquired)
      other:release()
    end
  end)
end)
