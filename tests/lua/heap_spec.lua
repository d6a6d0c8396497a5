-- SPDX-License-Identifier: MIT
-- The heap of an arena: roots, destinations in blocks, reading and writing, what is refused, and deaths.
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

local raises, refused = support.raises, support.refused

describe("heap", function()
  local shared
  before_each(function()
    shared = assert(polyshm.arena(support.posix(), { create = true, size = "1M", participants = 16 }))
  end)
  after_each(function()
    polyshm.unlink(shared.address)
    shared:close()
  end)
  support.watch { before_each = before_each, after_each = after_each }

  -- The place of the block that a destination holds.
  local function held_by(place) return (string.unpack("i8", shared:read(place, 8))) end

  local function alloc(place, size)
    assert(shared:alloc_into(place, size))
    return held_by(place)
  end

  it("has 32 roots, counted from 1", function()
    local seen = {}
    for i = 1, 32 do
      local place = shared:root(i)
      assert.equal("integer", math.type(place))
      assert.is_nil(seen[place])
      seen[place] = true
      assert.equal(0, held_by(place))
    end
    for _, wrong in ipairs { 0, 33, -1, math.maxinteger, math.mininteger } do
      raises("index out of range (1 to 32)", shared.root, shared, wrong)
    end
    raises("number expected", shared.root, shared)
    raises("no integer representation", shared.root, shared, 1.5)
  end)

  it("gives blocks, and takes them back", function()
    local before = shared:stats()
    local root = shared:root(1)
    local block = alloc(root, 100)
    assert.is_true(block > 0)
    assert.is_true(shared:block_size(block) >= 100)
    assert.equal(("\0"):rep(100), shared:read(block, 100))
    assert.equal(0, select("#", shared:write(block + 10, "hello")))
    assert.equal("\0hello\0", shared:read(block + 9, 7))
    assert.equal("", shared:read(block, 0))
    shared:write(block, "")
    assert.equal(1, select("#", shared:free_from(root)))
    assert.equal(0, held_by(root))
    assert.is_true(shared:free_from(root)) -- holds 0: is left so
    assert.equal(before.used, shared:stats().used)
    -- Memory that was used comes back zeroed.
    block = alloc(root, 100)
    assert.equal(("\0"):rep(100), shared:read(block, 100))
    assert.is_true(shared:free_from(root))
    for _, size in ipairs { 1, 16, 17, 64, 100, 1000, 4096, 5000, "20K", "100K" } do
      block = alloc(root, size)
      local bytes = type(size) == "string" and tonumber(size:match("%d+")) * 1024 or size
      assert.is_true(shared:block_size(block) >= bytes)
      assert.equal(0, block % 16)
      if bytes % 64 == 0 then assert.equal(0, block % 64) end
      shared:write(block, ("x"):rep(bytes))
      assert.equal(("x"):rep(bytes), shared:read(block, bytes))
      assert.is_true(shared:free_from(root))
    end
    assert.same({}, shared:check())
    assert.equal(before.used, shared:stats().used)
  end)

  it("has destinations in blocks", function()
    local root = shared:root(2)
    local node = alloc(root, 64)
    for i = 0, 7 do shared:write(alloc(node + 8 * i, 32), "leaf " .. i) end
    for i = 0, 7 do assert.equal("leaf " .. i, shared:read(held_by(node + 8 * i), 6)) end
    raises("does not hold 0", shared.alloc_into, shared, node, 16)
    raises("does not hold 0", shared.alloc_into, shared, root, 16)
    for i = 0, 7 do assert(shared:free_from(node + 8 * i)) end
    assert(shared:free_from(root))
    assert.same({}, shared:check())
  end)

  it("refuses what is no destination, and no block", function()
    local root = shared:root(1)
    local block = alloc(root, 64)
    for _, wrong in ipairs {
      0, 8, root + 4, block + 4, block + 60, shared.size, shared.size - 8, math.maxinteger, 4096,
    } do
      raises("not a destination", shared.alloc_into, shared, wrong, 16)
      raises("not a destination", shared.free_from, shared, wrong)
      raises("destination at " .. wrong, shared.free_from, shared, wrong)
    end
    for _, wrong in ipairs { 0, block + 16, root, shared.size, math.maxinteger } do
      raises("no block in use", shared.block_size, shared, wrong)
    end
    raises("no block in use", shared.read, shared, block, 65)
    raises("no block in use", shared.read, shared, block + 64, 1)
    raises("no block in use", shared.read, shared, block, math.maxinteger)
    raises("no block in use", shared.read, shared, shared.size, 1)
    raises("no block in use", shared.write, shared, block + 60, "12345")
    raises("no block in use", shared.write, shared, root, "12345678")
    raises("no block in use", shared.write, shared, 0, "x")
    raises("size must be at least 1 byte", shared.alloc_into, shared, shared:root(2), 0)
    refused("ENOSPC", "destination at " .. shared:root(2), shared:alloc_into(shared:root(2), "1M"))
    refused("ENOSPC", shared.address, shared:alloc_into(shared:root(2), math.maxinteger))
    for _, wrong in ipairs { -1, 1.5, "x", {}, false } do
      raises("place", shared.alloc_into, shared, wrong, 16)
      raises("size", shared.alloc_into, shared, root, wrong)
      raises("place", shared.free_from, shared, wrong)
      raises("place", shared.block_size, shared, wrong)
      raises("place", shared.read, shared, wrong, 1)
      raises("size", shared.read, shared, block, wrong)
      raises("place", shared.write, shared, wrong, "")
      raises("string expected", shared.write, shared, block, wrong == "x" and 5 or wrong)
    end
    raises("place", shared.free_from, shared)
    -- A word that holds no block.
    shared:write(block, string.pack("i8", 4096))
    raises("no block in use", shared.free_from, shared, block)
    assert.is_true(shared:free_from(root))
    assert.same({}, shared:check())
  end)

  it("is full at some time, and has room again", function()
    local root = shared:root(1)
    local table_ = alloc(root, 8 * 4000)
    local n = 0
    while n < 4000 and shared:alloc_into(table_ + 8 * n, 1000) do n = n + 1 end
    assert.is_true(n > 500 and n < 4000)
    refused("ENOSPC", shared.address, shared:alloc_into(shared:root(2), 4096))
    assert.same({}, shared:check())
    for i = 0, n - 1 do assert(shared:free_from(table_ + 8 * i)) end
    assert(shared:alloc_into(shared:root(2), shared:stats().largest_free))
    assert.same({}, shared:check())
  end)

  it("is one for all processes, seed " .. support.seed, function()
    local table_ = alloc(shared:root(1), 8 * 64)
    local pids = {}
    for i = 1, 4 do
      pids[i] = support.fork(function()
        math.randomseed(support.seed + i)
        local mine = {}
        for _ = 1, 1500 do
          local slot = table_ + 8 * (16 * (i - 1) + math.random(0, 15))
          if mine[slot] then
            assert(shared:read(held_by(slot), #mine[slot]) == mine[slot])
            assert(shared:free_from(slot))
            mine[slot] = nil
          elseif shared:alloc_into(slot, math.random(6000)) then
            local block = held_by(slot)
            mine[slot] = string.char(64 + i):rep(shared:block_size(block))
            shared:write(block, mine[slot])
          end
        end
      end)
    end
    for _, pid in ipairs(pids) do assert.same({ "exit", 0 }, { support.wait(pid) }) end
    for i = 0, 63 do assert(shared:free_from(table_ + 8 * i)) end
    assert(shared:free_from(shared:root(1)))
    assert.same({}, shared:check())
    assert.equal(0, shared:stats().used)
  end)

  it("loses no byte when those who use it are killed, seed " .. support.seed, function()
    math.randomseed(support.seed)
    local table_ = alloc(shared:root(1), 8 * 32)
    for round = 1, 25 do
      local pid = support.fork(function()
        math.randomseed(round)
        shared:counter("round"):add()
        while true do
          local slot = table_ + 8 * math.random(0, 31)
          if held_by(slot) == 0 then shared:alloc_into(slot, math.random(9000)) else shared:free_from(slot) end
        end
      end)
      assert.is_true(shared:counter("round"):wait(round, 30))
      helper.sleep(math.random() * 0.01)
      support.kill(pid)
      assert.is_true(shared:alloc_into(shared:root(2), 100))
      assert.is_true(shared:free_from(shared:root(2)))
      assert.same({}, shared:check())
    end
    for i = 0, 31 do assert(shared:free_from(table_ + 8 * i)) end
    assert(shared:free_from(shared:root(1)))
    assert(shared:delete("round"))
    assert.same({}, shared:check())
  end)
end)
