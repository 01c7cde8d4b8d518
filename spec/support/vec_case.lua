-- What the specs of vector blocks share: blocks as functions on every instruction set this processor runs, the two element
-- widths, arrays, and which rows have been lowered.
local ffi = require "ffi"
local native = require "esper.native"
local unit = require "support.unit"
local vec = require "esper.vec"
local C = native.C

local M = { seen = {} } -- [isa]["row" or "row.type"] of everything lowered

M.WIDTH = {
  { f = "f32", i = "i32", float = "float", int = "int32_t", uint = "uint32_t", bits = 32, bytes = 4 },
  { f = "f64", i = "i64", float = "double", int = "int64_t", uint = "uint64_t", bits = 64, bytes = 8 },
}

--- Names of the instruction sets that can run here.
function M.isas()
  local list = {}
  for _, name in ipairs { "scalar", "avx2", "avx512" } do
    if C.es_isa_supported(C.es_isa_named(name)) then list[#list + 1] = name end
  end
  return list
end

function M.signed(w, n) return native.cast("int64_t", native.cast(w.int, n)) end
function M.unsigned(w, n) return native.cast("uint64_t", native.cast(w.uint, n)) end
function M.address(array) return native.cast("int64_t", native.cast("intptr_t", native.cast("void *", array))) end

-- Rounded to the element type.
function M.round(w, x) return native.new(w.float .. "[1]", x)[0] end

local function note_rows(isa, b)
  M.seen[isa] = M.seen[isa] or {}
  for name in b:text():gmatch("([%a_][%w_%.]*)[ \n]") do M.seen[isa][name] = true end
end

--- A block as a function of words: addresses and counts.
function M.build(isa, type, body)
  local b = vec.block(isa, type)
  body(b)
  note_rows(isa, b)
  local code = unit.build(b:lower "block" .. "void run(const long *w) { block(w); }\n")
  local fn = code:get("run", "void (*)(const int64_t *)")
  return function(...)
    local words = native.new("int64_t[24]")
    for i, w in ipairs { ... } do words[i - 1] = native.cast("int64_t", w) end
    fn(words)
    return code
  end
end

--- Do the bits at got[at] equal those of `want`? NaNs are equal where arithmetic made them.
function M.same(w, got, at, want, float, exact)
  local cell = native.new((float and w.float or w.int) .. "[1]", float and want or M.signed(w, want))
  local bits = native.cast(w.uint .. " *", cell)[0]
  local mine = native.cast(w.uint .. " *", got)[at]
  if mine == bits then return true end
  local x = native.cast(w.float .. " *", got)[at]
  return float and not exact and x ~= x and want ~= want
end

--- Does the row exist for the type on the ISA?
local function exists(isa, name, type)
  local rearranges = name:match "^unp[lh]2?$" or name == "part"
  if isa == "scalar" and rearranges or isa ~= "avx512" and name == "scalef" then return false end
  return not (name:match "2$" and type == "f64")
end

local CONTROL = { set = true, prefetch = true, loop = true, ["end"] = true, note = true }
local function is_control(name)
  return CONTROL[name] or name:match "^load" or name:match "^store" or name:match "^bcast" or name:match "^g_"
end

--- Rows of vec.def that `isa` has and no block here used: scalars, memory and control, or (false) all others. And how many
--- were looked at.
function M.missing(isa, control)
  local op, missing, count = 0, {}, 0
  local types_of = { f = { "f32", "f64" }, i = { "i32", "i64" }, b = { "f32", "f64", "i32", "i64" }, ["-"] = { false } }
  while C.es_vec_row_of(op) ~= nil do
    local row = C.es_vec_row_of(op)
    local name = native.string(row.name)
    for _, type in ipairs(not is_control(name) ~= control and types_of[native.string(row.types)] or {}) do
      local full = type and name .. "." .. type or name
      if exists(isa, name, type) then
        count = count + 1
        if not M.seen[isa][full] then missing[#missing + 1] = full end
      end
    end
    op = op + 1
  end
  return missing, count
end

-- ---- memory with an end ----

if not pcall(function() return ffi.C.mmap end) then
  ffi.cdef [[
    void *mmap(void *, size_t, int, int, int, int64_t);
    int munmap(void *, size_t);
    int mprotect(void *, size_t, int);
  ]]
end

M.PAGE = 4096
local GUARD = 64 * M.PAGE

--- One page between stretches that cannot be touched: pointer to its first byte.
function M.page()
  local whole = ffi.C.mmap(nil, 2 * GUARD + M.PAGE, 0, 0x22, -1, 0) -- private, anonymous
  assert(ffi.cast("intptr_t", whole) ~= -1, "no memory for a page")
  local page = ffi.cast("char *", whole) + GUARD
  assert(ffi.C.mprotect(page, M.PAGE, 3) == 0)
  return ffi.gc(page, function() ffi.C.munmap(whole, 2 * GUARD + M.PAGE) end)
end

return M
