-- SPDX-License-Identifier: MIT
std = "lua54"
max_line_length = 120
codes = true
exclude_files = { "build", ".venv" }
files["tests/lua"] = { std = "+busted" }
-- Annotations for editors: declarations whose parameters nobody uses.
files["lua/library"] = { ignore = { "111", "112", "113", "131", "211", "212", "221", "241", "631" } }
