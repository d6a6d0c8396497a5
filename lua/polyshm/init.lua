-- SPDX-License-Identifier: MIT
return require "polyshm.core"
