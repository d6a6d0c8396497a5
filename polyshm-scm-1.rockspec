rockspec_format = "3.0"
package = "polyshm"
version = "scm-1"
source = {
  url = "git+https://example.org/polyshm.git",
}
description = {
  summary = "Shared memory for Lua, Python and C on one core",
  detailed = [[
Segments of every kind that Linux has (files, POSIX, System V, anonymous, /dev/zero, memfd), opened by one address from
Lua, Python and C, with atomics, typed views, record locks and a mutex that survives kill -9. Arenas: named locks, counters
and a heap in one segment, of which any participant may be killed at any instruction.]],
  license = "MIT",
  labels = { "ipc", "shared-memory", "mmap", "linux" },
}
supported_platforms = { "linux" }
dependencies = {
  "lua ~> 5.4",
}
build = {
  type = "make",
  build_target = "rock",
  install_target = "install-rock",
  build_variables = {
    BUILD = "build/rock",
    CC = "$(CC)",
    CFLAGS = "$(CFLAGS)",
    LIBFLAG = "$(LIBFLAG)",
    LUA_INCDIR = "$(LUA_INCDIR)",
  },
  install_variables = {
    BUILD = "build/rock",
    CC = "$(CC)",
    CFLAGS = "$(CFLAGS)",
    LIBFLAG = "$(LIBFLAG)",
    LUA_INCDIR = "$(LUA_INCDIR)",
    LUA_LIBDIR = "$(LIBDIR)",
    LUA_LUADIR = "$(LUADIR)",
  },
}
