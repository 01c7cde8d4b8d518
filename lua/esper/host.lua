--- What the C API (src/bind/context.c) calls.
local native = require "esper.native"

local M = {}

-- "dim=64 expand=4" -> { dim = 64, expand = 4 }
local function pairs_of(text, what)
  local list = {}
  for item in (text or ""):gmatch("%S+") do list[#list + 1] = item end
  return require("esper.cli.args").pairs(list, what)
end

--- lightuserdata of a retained kernel | nil, message, status number
function M.compile(source, options)
  local esper = require "esper"
  local set, why = pairs_of(options.set, "set")
  if not set then return nil, why, native.status.EATTR end
  local size, problem = pairs_of(options.size, "size")
  if not size then return nil, problem, native.status.EARG end
  local kernel, message, status = esper.compile(source, { set = set, mode = options.mode, dtype = options.dtype,
    size = size, certify = not options.uncertified })
  if not kernel then return nil, message, native.status[status] or native.status.EINTERNAL end
  if kernel.pool then native.C.es_kernel_pool_set(kernel.kernel, kernel.pool) end
  return native.address(native.C.es_kernel_retain(kernel.kernel))
end

return M
