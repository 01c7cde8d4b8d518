-- C text -> object -> callable code, as specs of the low levels use it.
local native = require "esper.native"
local C = native.C

local M = {}

--- Object bytes | nil, message, status.
function M.compile(text)
  local object = native.gc(native.new "es_text", C.es_text_clear)
  if C.es_jit_compile(text, object, native.fresh()) ~= 0 then return native.failure() end
  return native.string(object.bytes, object.length)
end

--- code, code:get(name, ctype) -> function or nil | nil, message, status.
function M.load(object, length)
  local out = native.new "es_code *[1]"
  if C.es_code_load(object, length or #object, out, native.fresh()) ~= 0 then return native.failure() end
  local handle = native.gc(out[0], C.es_code_release)
  return {
    handle = handle,
    bytes = tonumber(C.es_code_bytes(handle)),
    get = function(_, name, ctype)
      local address = C.es_code_symbol(handle, name)
      return address ~= nil and native.cast(ctype, address) or nil
    end,
  }
end

function M.build(text) return assert(M.load(assert(M.compile(text)))) end

return M
