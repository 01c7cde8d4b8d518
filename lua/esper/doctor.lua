--- What this machine offers, each fact measured or asked for now: { { name, value }, ... }.
local native = require "esper.native"
local C, fresh, failure = native.C, native.fresh, native.failure

local M = {}

local function read(path)
  local f = io.open(path)
  local text = f and f:read("*l")
  if f then f:close() end
  return text
end

local function caches()
  local out = {}
  for i = 0, 7 do
    local base = "/sys/devices/system/cpu/cpu0/cache/index" .. i .. "/"
    local level, kind, size = read(base .. "level"), read(base .. "type"), read(base .. "size")
    if level and kind ~= "Instruction" then out[#out + 1] = ("L%s %s"):format(level, size) end
  end
  return #out > 0 and table.concat(out, ", ") or "not told by the system"
end

local function torch(load)
  if not load then return "not asked" end
  local start = C.es_clock_ms()
  local t = C.es_torch_load(fresh())
  if t == nil then
    local _, why = failure()
    return "absent: " .. why
  end
  return ("%s, loaded in %.0f ms"):format(native.string(t.version()), C.es_clock_ms() - start)
end

local function store()
  local esper = require "esper"
  local s, why = esper.store()
  if not s then return why and "unusable: " .. why or "none (set ESPER_STORE)" end
  local count = s:count()
  return ("%s, %d kernels"):format(s.path, count)
end

function M.facts(options)
  local isa = native.string(C.es_isa_name(C.es_isa_best()))
  return {
    { "esper", require("esper").version .. ", build " .. native.build():sub(1, 16) },
    { "processor", require("esper.tuning").model() },
    { "isa", isa .. (os.getenv "ESPER_ISA" and " (ESPER_ISA=" .. os.getenv "ESPER_ISA" .. ")" or "") },
    { "caches", caches() },
    { "threads", tostring(C.es_pool_threads(require("esper").pool())) },
    { "lua", jit.version .. (jit.status() and ", jit on" or ", jit off") },
    { "scripts", native.dir or "embedded" },
    { "store", store() },
    { "libtorch", torch(options.torch) },
    { "limits", ("rank %d, %d inputs an op, %d nodes a graph"):format(native.rank_max, native.inputs_max, native.nodes_max) },
  }
end

return M
