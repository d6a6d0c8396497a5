-- SPDX-License-Identifier: MIT
-- A file cut short under its mapping: every access raises ELOST, none kills.
local helper = require "helper"
local polyshm = require "polyshm"
local support = require "support"

describe("a file cut short", function()
  support.watch { before_each = before_each, after_each = after_each }

  -- A mapping of two pages whose file is gone but for its first one; all is touched before the cut.
  local function cut(to)
    local path = support.path()
    local seg = assert(polyshm.segment("file:" .. path, { size = 2 * helper.PAGE, create = true }))
    seg:fill(7)
    return seg, function()
      helper.truncate(path, to or helper.PAGE)
      return helper.PAGE
    end
  end

  local function lost(f, ...)
    local problem = support.raises("memory under the mapping is gone", f, ...)
    assert.equal("ELOST", problem.code)
    assert.is_truthy(problem.address:find("file:", 1, true))
    assert.is_truthy(tostring(problem):find(problem.address, 1, true))
  end

  local accesses = {
    read = function(seg, page) return function() seg:read(page, 10) end end,
    ["read of much"] = function(seg) return function() seg:read() end end,
    write = function(seg, page) return function() seg:write(page, "x") end end,
    fill = function(seg, page) return function() seg:fill(1, page) end end,
    copy = function(seg, page) return function() seg:copy(0, page, 10) end end,
    find = function(seg) return function() seg:find("nowhere") end end,
    pack = function(seg, page) return function() seg:pack("<i4", page, 1) end end,
    unpack = function(seg, page) return function() seg:unpack("<i4", page) end end,
    ["unpack of a string"] = function(seg, page) return function() seg:unpack("z", page) end end,
    ["read_into from it"] = function(seg, page)
      local target = assert(polyshm.segment("anon:", { size = 8 }))
      return function() seg:read_into(target, page) end
    end,
    ["read_into into it"] = function(seg, page)
      local source = assert(polyshm.segment("anon:", { size = 8 }))
      local view = seg:view("u8", page, 8)
      return function() source:read_into(view) end
    end,
    ["v[i]"] = function(seg, page)
      local view = seg:view("i32", page)
      return function() return view[1] end
    end,
    ["v[i] ="] = function(seg, page)
      local view = seg:view("f64", page)
      return function() view[1] = 1 end
    end,
    ["view on a closed segment"] = function(seg, page)
      local view = seg:view("u16", page)
      seg:close()
      return function() return view[1] end
    end,
  }
  for _, verb in ipairs { "get", "totable" } do
    accesses["view." .. verb] = function(seg, page)
      local view = seg:view("u16", page)
      return function() view[verb](view, 1, 3) end
    end
  end
  accesses["view.set"] = function(seg, page)
    local view = seg:view("u16", page)
    return function() view:set(1, 2, 3) end
  end
  accesses["view.fill"] = function(seg)
    local view = seg:view("u16")
    return function() view:fill(1) end
  end
  accesses["view.copy"] = function(seg, page)
    local view = seg:view("u16")
    return function() view:copy(view, page // 2 + 1, page // 2 + 10) end
  end
  accesses["view.each"] = function(seg)
    local view = seg:view("u16")
    return function() for _ in view:each() do end end
  end
  for verb, arguments in pairs { load = {}, store = { 1 }, add = { 1 }, and_ = { 1 }, exchange = { 1 },
    compare_exchange = { 1, 2 }, wait = { 0, 1 }, notify = { 1 } } do
    accesses["atomic." .. verb] = function(seg, page)
      local atomic = seg:atomic("u32", page)
      return function() atomic[verb](atomic, table.unpack(arguments)) end
    end
  end

  for name, prepare in pairs(accesses) do
    it("raises from " .. name, function()
      local seg, truncate = cut()
      local access = prepare(seg, helper.PAGE)
      assert.is_false(seg.lost)
      truncate()
      assert.is_false(seg.lost)
      lost(access)
      assert.is_true(seg.lost)
      if not seg.closed then
        lost(access)
        lost(seg.read, seg, 0, 1)
      end
      seg:close()
    end)
  end

  for _, verb in ipairs { "acquire", "guard", "recover", "locked", "owner" } do
    it("raises from mutex." .. verb, function()
      local seg, truncate = cut()
      local lock = seg:mutex(helper.PAGE, { create = true })
      truncate()
      lost(lock[verb], lock)
      seg:close()
    end)
  end

  it("raises from a release, and the process goes on", function()
    local seg, truncate = cut(0)
    support.in_child(function()
      local lock = seg:mutex(helper.PAGE, { create = true })
      assert(lock:acquire())
      truncate()
      lost(lock.release, lock)
      seg:close()
      local other <close> = assert(polyshm.segment("anon:", { size = 4096 }))
      local second = other:mutex(0, { create = true })
      second:acquire()
      second:release()
    end)
    seg:close()
  end)

  it("spares other segments", function()
    local seg, truncate = cut()
    local other <close> = assert(polyshm.segment("anon:", { size = 10 }))
    truncate()
    lost(seg.read, seg, helper.PAGE, 1)
    other:write(0, "fine")
    assert.equal("fine", other:read(0, 4))
    seg:close()
    local inherited, truncate_inherited = cut()
    truncate_inherited()
    support.in_child(function() lost(inherited.read, inherited, helper.PAGE, 1) end)
    assert.is_false(inherited.lost)
    inherited:close()
  end)

  it("kills no lua5.4 that maps it", function()
    local seg <close>, truncate = cut()
    local how, number, text = support.lua(([[
      local polyshm = require "polyshm"
      local seg <close> = assert(polyshm.segment(%q))
      local view = seg:view("u8")
      assert(view[#view] == 7)
      seg:write(0, "go")
      while pcall(function() return view[#view] end) do end
      local ok, problem = pcall(function() return view[#view] end)
      print(ok, problem.code, seg.lost)
    ]]):format(seg.address), function()
      support.until_true(function() return seg:read(0, 2) == "go" end)
      truncate()
    end)
    assert.same({ "exit", 0, "false\tELOST\ttrue\n" }, { how, number, text })
  end)
end)
