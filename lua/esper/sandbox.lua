--- Builds blueprints by trust: Esper's own in this state, files in the sandbox. Between the pipeline and blueprint.lua.
--
--   sandbox.build(name or path, opts) -> graph, info | nil, errors, status name      same results as blueprint.build;
--        opts.trusted = true runs a file in this state
--   sandbox.new{ memory =, instructions =, milliseconds = } -> box, box:build(text, chunk, opts)   with limits of its own

local blueprint = require "esper.blueprint"
local graph = require "esper.graph"
local native = require "esper.native"
local pack = require "esper.pack"
local C = native.C

local M = {}
local Box = {}
Box.__index = Box

--- Limits left out take the defaults of src/bind/sandbox.h.
function M.new(limits)
  limits = limits or {}
  local pointer = C.es_sandbox_new(native.dir, limits.memory or 0, limits.instructions or 0, limits.milliseconds or 0,
                                   native.fresh())
  if pointer == nil then return native.failure() end
  local info = native.gc(native.new("es_text"), C.es_text_clear)
  return setmetatable({ ptr = native.gc(pointer, C.es_sandbox_free), info = info }, Box)
end

local function lines(text)
  local list = {}
  for line in string.gmatch(text, "[^\n]+") do list[#list + 1] = line end
  return list
end

local CROSSING = { "set", "mode", "dtype" } -- the options blueprint.build knows

function Box:build(text, chunk, opts)
  local crossing = {}
  for _, key in ipairs(CROSSING) do crossing[key] = opts and opts[key] or nil end
  local ok, options = pcall(pack.pack, crossing)
  if not ok then return nil, { "options: " .. options }, "EARG" end
  local pointer = C.es_sandbox_build(self.ptr, text, #text, chunk, options, #options, self.info, native.fresh())
  local info = self.info.length > 0 and native.string(self.info.bytes, self.info.length) or ""
  if pointer ~= nil then return graph.wrap(pointer), pack.unpack(info) end
  local _, message, status = native.failure()
  return nil, lines((status == "EBLUEPRINT" or status == "EATTR") and info or message), status
end

local shared -- one box for all files of this state

function M.build(source, opts)
  local text, chunk, origin = blueprint.find(source)
  if not text then return nil, { chunk }, origin end
  if origin == "catalogue" or opts and opts.trusted then return blueprint.build(source, opts) end
  if not shared then
    local box, message, status = M.new()
    if not box then return nil, { message }, status end
    shared = box
  end
  return shared:build(text, chunk, opts)
end

return M
