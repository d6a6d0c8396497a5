-- SPDX-License-Identifier: MIT
-- Where in this process's memory text, heap, stack and each kind of segment lie, sorted by address.
--
-- The classic C program prints the addresses of an array, a local variable, malloc's memory and a shared segment. Here
-- /proc/self/maps tells: a segment is the mapping that was not there before it was opened.
local polyshm = require "polyshm"

local SIZE = 1 << 20

local function mappings()
  local found = {}
  for line in io.lines("/proc/self/maps") do
    local from, to, rights, path = line:match("^(%x+)%-(%x+) (%S+) %x+ %S+ %d+%s*(.*)$")
    found[#found + 1] = { from = tonumber(from, 16), to = tonumber(to, 16), rights = rights, path = path }
  end
  return found
end

local function mapping_of(address)
  for _, m in ipairs(mappings()) do
    if m.from <= address and address < m.to then return m end
  end
  return { from = address, to = address, rights = "----", path = "(gone)" }
end

local function first(test)
  for _, m in ipairs(mappings()) do
    if test(m) then return m.from end
  end
end

-- Neighbouring mappings of one kind can grow together.
local function opened(address, options)
  local before = {}
  for _, m in ipairs(mappings()) do before[m.from] = m.to end
  local segment = assert(polyshm.segment(address, options))
  for _, m in ipairs(mappings()) do
    if not before[m.from] and m.to - m.from >= SIZE then return segment, m.from end
    if before[m.from] and m.to - before[m.from] >= SIZE then return segment, before[m.from] end
  end
  error("no new mapping of " .. address)
end

local function pid()
  local stat <close> = assert(io.open("/proc/self/stat"))
  return stat:read("n")
end

local found, segments = {}, {}
local function add(what, address) found[#found + 1] = { what = what, address = address } end

local program = mappings()[1].path
local object, large = {}, string.rep("x", SIZE)
add("text: the interpreter", first(function(m) return m.path == program and m.rights:sub(3, 3) == "x" end))
add("text: print", tonumber(("%p"):format(print):sub(3), 16))
add("heap", first(function(m) return m.path == "[heap]" end))
add("a table", tonumber(("%p"):format(object):sub(3), 16))
add("a large string", tonumber(("%p"):format(large):sub(3), 16))
add("stack", first(function(m) return m.path == "[stack]" end))

local file = os.tmpname()
os.remove(file) -- the segment makes it anew
local addresses = {
  "file:" .. file, "posix:/layout-" .. pid(), "sysv:private", "anon:", "zero:", "memfd:layout"
}
for _, address in ipairs(addresses) do
  local segment, at = opened(address, { size = SIZE, create = true })
  add(address, at)
  segments[#segments + 1] = segment
  assert(segment:unlink()) -- what is mapped stays
end
local inherited, at = opened("fd:" .. segments[#segments].fd)
add(inherited.address, at)
segments[#segments + 1] = inherited

table.sort(found, function(a, b) return a.address < b.address end)
print(("%-24s %14s %27s %7s  rights  behind it"):format("what", "address", "mapping", "KiB"))
for _, place in ipairs(found) do
  local m = mapping_of(place.address)
  local where = ("%x-%x"):format(m.from, m.to)
  local row = "%-24s %14x %27s %7d  %s    %s"
  print(row:format(place.what:sub(1, 24), place.address, where, (m.to - m.from) >> 10, m.rights, m.path))
end
for _, segment in ipairs(segments) do segment:close() end
