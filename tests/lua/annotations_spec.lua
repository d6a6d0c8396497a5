-- SPDX-License-Identifier: MIT
-- lua/library/polyshm.lua says what the live module has: every name, both ways round.
local polyshm = require "polyshm"
local support = require "support"

-- What the file declares: { ["polyshm.view"] = { get = "function", ... }, ... }, with the parameters of each function.
local function annotated()
  local found, class, owners = {}, nil, {}
  for line in io.lines("lua/library/polyshm.lua") do
    local name = line:match("^%-%-%-@class ([%w_.]+)")
    if name then
      class = name
      found[class] = {}
    end
    local field = line:match("^%-%-%-@field ([%w_]+)")
    if field then found[class][field] = "field" end
    local variable = line:match("^local ([%w_]+) = {}$")
    if variable then owners[variable] = class end
    local owner, separator, method, parameters = line:match("^function ([%w_]+)([.:])([%w_]+)%((.-)%) end$")
    if owner then
      assert(owners[owner], line)
      assert((separator == ".") == (owner == "polyshm"), line)
      assert(not found[owners[owner]][method], "twice: " .. line)
      found[owners[owner]][method] = "function"
      found[owners[owner]][method .. "()"] = parameters
    end
  end
  return found
end

local function live()
  local found = { polyshm = {} }
  for name, value in pairs(polyshm) do found.polyshm[name] = type(value) == "function" and "function" or "field" end
  for name, meta in pairs(debug.getregistry()) do
    if type(name) == "string" and name:match("^polyshm%.") and type(meta) == "table" and rawget(meta, "__index") then
      local index = meta.__index
      if type(index) == "function" then index = select(2, debug.getupvalue(index, 1)) end
      found[name] = {}
      for key, value in pairs(index) do found[name][key] = type(value) == "function" and "function" or "field" end
    end
  end
  return found
end

describe("annotations", function()
  support.watch { before_each = before_each, after_each = after_each }

  it("name everything that is there, and nothing else", function()
    local declared, there = annotated(), live()
    local types = 0
    for class, names in pairs(there) do
      types = types + 1
      assert.is_truthy(declared[class], class)
      for name, what in pairs(names) do assert.equal(what, declared[class][name], class .. "." .. name) end
      for name in pairs(declared[class]) do
        if not name:find("()", 1, true) then assert.is_truthy(names[name], class .. "." .. name .. " is not there") end
      end
    end
    assert.is_true(types >= 11) -- the module and ten types, and those of later nouns
  end)

  it("have a @param for each parameter, in order, and no other", function()
    local parameters, functions = {}, 0
    for line in io.lines("lua/library/polyshm.lua") do
      local name = line:match("^%-%-%-@param ([%w_.]+)")
      if name then parameters[#parameters + 1] = name end
      local list = line:match("^function [%w_.:]+%((.-)%) end$")
      if list then
        functions = functions + 1
        assert.equal(list, table.concat(parameters, ", "), line)
        parameters = {}
      end
    end
    assert.is_true(functions > 40)
  end)

  it("know the options and the fields of stat", function()
    local declared = annotated()
    for option in pairs(declared["polyshm.options"]) do
      local ok, problem = pcall(polyshm.segment, "anon:", { [option] = print })
      assert.is_false(ok)
      assert.is_truthy(tostring(problem):find("option " .. option .. ":", 1, true), tostring(problem))
    end
    for _, address in ipairs { support.posix(), support.key() } do
      local seg <close> = assert(polyshm.segment(address, { size = 1, create = true }))
      for name in pairs(assert(seg:stat())) do
        assert.is_truthy(declared["polyshm.stat"][name], "stat." .. name)
      end
      seg:unlink()
    end
  end)

  it("know the options of an arena, and what it tells", function()
    local declared = annotated()
    for option in pairs(declared["polyshm.arena_options"]) do
      local ok, problem = pcall(polyshm.arena, "anon:", { [option] = print })
      assert.is_false(ok)
      assert.is_truthy(tostring(problem):find("option " .. option .. ":", 1, true), tostring(problem))
    end
    local shared <close> = assert(polyshm.arena("anon:", { create = true, size = "1M", participants = 8 }))
    local stats = shared:stats()
    for name in pairs(stats) do assert.is_truthy(declared["polyshm.arena_stats"][name], "stats." .. name) end
    for name in pairs(declared["polyshm.arena_stats"]) do assert.is_truthy(stats[name], name) end
  end)

  it("know the fields of an error", function()
    local seg <close> = assert(polyshm.segment("anon:", { size = 4096 }))
    local shared <close> = assert(polyshm.arena("anon:", { create = true, size = "1M", participants = 8 }))
    local declared = annotated()["polyshm.error"]
    local seen = {}
    for _, lock in ipairs { seg:mutex(0, { create = true }), shared:mutex("books") } do
      support.wait(support.fork(function() lock:acquire() end))
      for name in pairs(support.raises("died", lock.acquire, lock)) do
        seen[name] = true
        assert.is_truthy(declared[name], name)
      end
      lock:recover():release()
    end
    for name in pairs(declared) do assert.is_true(seen[name], name) end
  end)

  it("is loaded by no program", function()
    assert.is_nil(package.searchpath("polyshm.library", package.path))
    assert.is_truthy(loadfile("lua/library/polyshm.lua"))
  end)
end)
